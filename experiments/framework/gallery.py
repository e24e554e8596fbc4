"""Put the results into README.md and BUILD_NOTES.md: one figure an experiment, and every claim over several seeds.

python -m experiments.gallery                                     README's gallery and claims, from results/
python -m experiments.gallery --seeds results_0 results_1 ...     BUILD_NOTES' table as well, one folder a seed

What stands between the marks in those files is made by this command and not edited by hand. An experiment without
results in those folders keeps the section that it has.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from experiments.framework import catalogue, commandline, html_report
from experiments.framework.catalogue import Head
from experiments.framework.exit_status import BAD_USAGE, HOLDS

PROG = "python -m experiments.gallery"
ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "results"
WIDTH = 1100  # pixels of an image in the README
GALLERY_LEVEL, CLAIMS_LEVEL = "### ", "#### "  # headings of an experiment's section
BEGIN, END = "<!-- {}: begin, made by python -m experiments.gallery -->", "<!-- {}: end -->"

Runs = Mapping[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Options:
    """Where the results are."""

    out: Path = commandline.DEFAULT_OUT
    """Folder of all results, for README."""
    preset: Literal["smoke", "laptop", "paper"] = "laptop"
    """Whose results to take."""
    seeds: tuple[Path, ...] = ()
    """Folders of results, one a seed, for BUILD_NOTES."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out `python -m experiments.gallery`.

    Args:
        arguments: what follows the command; by default that of this process.

    Returns:
        0, or 2 for bad usage, such as a folder without results.
    """
    heads = catalogue.heads()
    try:
        options = commandline.read(PROG, __doc__ or "", Options(), sys.argv[1:] if arguments is None else arguments)
        sections = gallery(heads, _runs(heads, options.out, options.preset))
        readme = _updated(ROOT / "README.md", "gallery", GALLERY_LEVEL, sections, heads)
        notes = None
        if options.seeds:
            by_seed = [_runs(heads, folder, options.preset) for folder in options.seeds]
            notes = _updated(ROOT / "BUILD_NOTES.md", "claims", CLAIMS_LEVEL, over_seeds(heads, by_seed), heads)
    except commandline.UsageError as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return BAD_USAGE
    (ROOT / "README.md").write_text(readme, encoding="utf-8")
    if notes is not None:
        (ROOT / "BUILD_NOTES.md").write_text(notes, encoding="utf-8")
    return HOLDS


def _runs(heads: Sequence[Head], out: Path, preset: str) -> dict[str, dict[str, Any]]:
    found = {head.name: html_report.load(out / head.name / preset) for head in heads}
    runs = {name: run for name, run in found.items() if run is not None}
    if not runs:
        raise commandline.UsageError(f"no results of preset {preset} in {out}; make them: python -m experiments --all")
    return runs


def _updated(file: Path, name: str, level: str, sections: Mapping[str, str], heads: Sequence[Head]) -> str:
    """Return a file's text with the sections between two marks replaced, and those without new results kept."""
    begin, end = BEGIN.format(name), END.format(name)
    text = file.read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1:
        raise commandline.UsageError(f"{file.name} needs the marks {begin} and {end}, once each and in this order")
    before, _, rest = text.partition(begin)
    old, _, after = rest.partition(end)
    kept = {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in f"\n{old}".split(f"\n{level}")[1:]}
    bodies = kept | dict(sections)
    content = "\n\n".join(f"{level}{head.name}\n\n{bodies[head.name]}" for head in heads if head.name in bodies)
    return f"{before}{begin}\n{content}\n{end}{after}"


def gallery(heads: Sequence[Head], runs: Runs) -> dict[str, str]:
    """Write the gallery in Markdown, and its images beside this file.

    Args:
        heads: the experiments.
        runs: those of them that have results.

    Returns:
        Experiment to its section, without the heading.
    """
    IMAGES.mkdir(exist_ok=True)
    sections = {}
    for head in heads:
        if head.name not in runs:
            continue
        run = runs[head.name]
        image = IMAGES / f"{head.name}.png"
        _shrink(run["images"][0], image)
        held = sum(record["holds"] for record in run["claims"])
        sections[head.name] = (
            f"{head.title} ({head.paper})\n\n"
            f"![{head.name}: {head.title}]({image.relative_to(ROOT).as_posix()})\n\n"
            f"`python -m experiments.{head.name}`: {held} of {len(run['claims'])} claims hold.\n\n"
            f"<details><summary>claims</summary>\n\n{_table(run['claims'])}\n\n</details>"
        )
    return sections


def _shrink(source: Path, target: Path) -> None:
    """Scale an image down to README's width and 128 colours, which keeps lines and text clean and the file small."""
    from PIL import Image

    with Image.open(source) as image:
        height = round(image.height * WIDTH / image.width)
        small = image.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)
        small.quantize(128, dither=Image.Dither.NONE).save(target, optimize=True)


def _table(records: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| claim | source | expected | measured | tolerance | holds |", "|---|---|---|---|---|---|"]
    for record in records:
        cells = [html_report.number(record[key]) for key in ("claim", "source", "expected", "measured", "tolerance")]
        lines.append(_row([*cells, "yes" if record["holds"] else "**no**"]))
    return "\n".join(lines)


def over_seeds(heads: Sequence[Head], by_seed: Sequence[Runs]) -> dict[str, str]:
    """Write every claim with its measured value on each seed, in Markdown.

    Args:
        heads: the experiments.
        by_seed: the runs of each seed.

    Returns:
        Experiment to its table.

    Raises:
        UsageError: if an experiment lacks a seed, or its claims differ from seed to seed.
    """
    tables = {}
    for head in heads:
        runs = [seed[head.name] for seed in by_seed if head.name in seed]
        if not runs:
            continue
        if len(runs) < len(by_seed) or len({len(run["claims"]) for run in runs}) > 1:
            raise commandline.UsageError(f"{head.name}: expected the same claims on each of {len(by_seed)} seeds")
        seeds = [f"seed {run['config']['seed']}" for run in runs]
        lines = [_row(["claim", "expected", *seeds, "tolerance", "holds"]), "|---" * (4 + len(seeds)) + "|"]
        for records in zip(*(run["claims"] for run in runs), strict=True):
            held = sum(record["holds"] for record in records)
            lines.append(
                _row(
                    [
                        records[0]["claim"],
                        html_report.number(records[0]["expected"]),
                        *(html_report.number(record["measured"]) for record in records),
                        records[0]["tolerance"],
                        "yes" if held == len(records) else f"**{held} of {len(records)}**",
                    ]
                )
            )
        tables[head.name] = "\n".join(lines)
    return tables


def _row(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells)
    return f"| {' | '.join(escaped)} |"


if __name__ == "__main__":
    sys.exit(main())
