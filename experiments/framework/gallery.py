"""Write a page of results for each experiment, docs/results/NAME.md, and an index of them with thumbnails.

python -m experiments.gallery                                     from results/
python -m experiments.gallery --seeds results_0 results_1 ...     claims over seeds, one folder a seed

These pages are made by this command and not edited by hand. An experiment without results in those folders keeps the
page that it has, but for the cost of its preset `paper`.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from experiments.framework import catalogue, commandline, html_report
from experiments.framework.catalogue import Head
from experiments.framework.claims import Basis, band_words, headline, margin_words
from experiments.framework.exit_status import HOLDS, guarded

PROG = "python -m experiments.gallery"
PAGES = Path(__file__).parents[2] / "docs" / "results"
WIDTH = 1100  # pixels of a figure
THUMBNAIL = 260  # as wide as the index shows it
HELD = re.compile(r"^\*\*Claims:\*\* (.*)\.$", re.MULTILINE)  # the line of a page that the index reads

PAPER_COST = re.compile(r"(^\*\*Minutes:\*\* .*?)(?:\\\n\*\*Preset `paper`:\*\* .*)?$", re.MULTILINE)

LEGEND = """\
A claim holds a measured number against a band. Its basis says what the band rests on: a number in a **paper**, a
**theory**, **pilot** runs with seeds that are not reported, or a **goal** of this project. A claim counts as held here
if it holds on every seed. The margin on an experiment's page says where in its band a number lies: 100 % is the middle
(with one limit, the limit's own size away from it), 0 % a limit, less lies outside.
"""

Runs = Sequence[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Options:
    """Where the results are."""

    out: Path = commandline.DEFAULT_OUT
    """Folder of all results of one seed."""
    preset: Literal["smoke", "laptop", "paper"] = "laptop"
    """Whose results to take."""
    seeds: tuple[Path, ...] = ()
    """Folders of results, one a seed, in place of --out."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out `python -m experiments.gallery`.

    Args:
        arguments: what follows the command; by default that of this process.

    Returns:
        0, 2 for bad usage, such as a folder without results, 3 after a crash, or 130 when interrupted.
    """
    typed = sys.argv[1:] if arguments is None else arguments

    def carry_out() -> int:
        options = commandline.read(PROG, __doc__ or "", Options(), typed)
        write(catalogue.heads(), options.seeds or (options.out,), options.preset)
        return HOLDS

    return guarded(PROG, carry_out)


def write(heads: Sequence[Head], folders: Sequence[Path], preset: str) -> None:
    """Write the pages of all experiments that have results, and the index of all that have a page.

    Args:
        heads: the experiments.
        folders: of all results, one a seed.
        preset: whose results to take.

    Raises:
        UsageError: if there are no results, an experiment lacks a seed, or its claims differ from seed to seed.
    """
    found = {head: _runs(head, folders, preset) for head in heads}
    if not any(found.values()):
        looked = ", ".join(map(str, folders))
        raise commandline.UsageError(
            f"no results of preset {preset} in {looked}. Fix: python -m experiments --all makes them"
        )
    texts = {head.name: page(head, preset, runs) for head, runs in found.items() if runs}
    PAGES.mkdir(parents=True, exist_ok=True)
    for head, runs in found.items():
        if runs:
            _shrink(runs[0]["images"][0], PAGES / f"{head.name}.png")
            (PAGES / f"{head.name}.md").write_text(texts[head.name], encoding="utf-8")
        elif (file := PAGES / f"{head.name}.md").exists():
            file.write_text(with_paper_cost(file.read_text(encoding="utf-8"), head), encoding="utf-8")
    (PAGES / "index.md").write_text(index(heads), encoding="utf-8")


def _runs(head: Head, folders: Sequence[Path], preset: str) -> Runs:
    runs = [run for folder in folders if (run := html_report.load(folder / head.name / preset)) is not None]
    if runs and (
        len(runs) < len(folders) or len({tuple(record["id"] for record in run["claims"]) for run in runs}) > 1
    ):
        raise commandline.UsageError(
            f"{head.name}: expected the same claims on each of {len(folders)} seeds. "
            "Likely cause: runs of different versions of the code. Fix: run all seeds again"
        )
    return runs


def page(head: Head, preset: str, runs: Runs) -> str:
    """Write the page of an experiment in Markdown.

    Args:
        head: of the experiment.
        preset: that it was run with.
        runs: of it, one a seed.
    """
    seeds = [run["config"]["seed"] for run in runs]
    rows = [_Row.over_seeds(records) for records in zip(*(run["claims"] for run in runs), strict=True)]
    minutes = sorted(run["seconds"] / 60 for run in runs)[len(runs) // 2]
    option = "" if preset == commandline.DEFAULT_PRESET else f" --preset {preset}"
    return layout(head, option, seeds, rows, f"{minutes:.1f} in the run shown here", runs[0]["tables"])


@dataclasses.dataclass(frozen=True)
class _Row:
    """A claim with what was measured on every seed, as words; the margin is the least over seeds."""

    claim: str
    source: str
    basis: str
    band: str
    measured: tuple[str, ...]
    margin: str
    held: int

    @classmethod
    def over_seeds(cls, records: Sequence[Mapping[str, Any]]) -> _Row:
        first = records[0]
        return cls(
            claim=first["claim"],
            source=first["source"],
            basis=first["basis"],
            band=band_words(first),
            measured=tuple(html_report.number(record["measured"]) for record in records),
            margin=margin_words(min(records, key=lambda record: float(record["margin"]))),
            held=sum(record["holds"] for record in records),
        )

    def cells(self) -> list[str]:
        of = len(self.measured)
        held = "yes" if self.held == of else "**no**" if of == 1 else f"**{self.held} of {of}**"
        return [self.claim, self.source, self.basis, self.band, *self.measured, self.margin, held]


def layout(
    head: Head,
    option: str,
    seeds: Sequence[int],
    rows: Sequence[_Row],
    minutes: str,
    tables: Mapping[str, str],
) -> str:
    """Lay a page out.

    Args:
        head: of the experiment.
        option: what follows the command.
        seeds: that it was run with.
        rows: its claims.
        minutes: what the runs took, in words.
        tables: of the first run, by name.
    """
    verdicts = [{"basis": row.basis, "holds": row.held == len(seeds)} for row in rows]
    on = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds[:-1]))} and {seeds[-1]}"
    took = f"{head.minutes} on {head.machine}" + f"; {minutes}"
    columns = ["claim", "source", "basis", "band", *(f"seed {seed}" for seed in seeds), "margin", "holds"]
    text = "\n".join(
        [
            f"<!-- made by {PROG} -->",
            f"# {head.name}\n",
            f"{head.title}\n",
            f"![{head.name}: {head.title}]({head.name}.png)\n",
            f"```sh\npython -m experiments.{head.name}{option}\n```\n",
            f"**Paper:** {head.paper}\\",
            f"**Figure:** {head.figure}\\",
            f"**Minutes:** {took}.\n",
            f"**Expected:** {head.expected}\n",
            f"**Claims:** on {on}, {headline(verdicts)}.\n",
            _row(columns),
            "|---" * len(columns) + "|",
            *(_row(row.cells()) for row in rows),
            *(f"\n## {name.capitalize()}\n\n{table.rstrip()}" for name, table in tables.items()),
            "\n[All experiments](index.md)\n",
        ]
    )
    return with_paper_cost(text, head)


def with_paper_cost(text: str, head: Head) -> str:
    """Write on a page what the preset `paper` costs, in place of what stands there.

    Args:
        text: of the page.
        head: of the experiment.
    """
    line = f"\\\n**Preset `paper`:** {head.paper_cost}." if head.paper_cost else ""
    return PAPER_COST.sub(lambda found: found[1] + line, text, count=1)


def index(heads: Sequence[Head]) -> str:
    """Write the index of all experiments that have a page.

    Args:
        heads: the experiments.
    """
    columns = ["", "experiment", *Basis, "claims", "minutes"]
    lines = [f"<!-- made by {PROG} -->", "# Results\n", LEGEND, _row(columns), "|---" * len(columns) + "|"]
    for head in heads:
        file = PAGES / f"{head.name}.md"
        if not file.exists():
            continue
        found = HELD.search(file.read_text(encoding="utf-8"))
        verdict = found[1] if found else ""
        image = f'<a href="{head.name}.md"><img src="{head.name}.png" width="{THUMBNAIL}" alt="{head.name}"></a>'
        words = f"[{head.name}]({head.name}.md): {_escaped(head.title)}"
        lines.append(f"| {image} | {words} | {' | '.join(_by_basis(verdict))} | {verdict} | {head.minutes} |")
    return "\n".join(lines) + "\n"


def _by_basis(verdict: str) -> list[str]:
    """Write how many claims hold of how many, for each basis, from the headline of a page."""
    held, _, failed = verdict.partition("fail")

    def count(words: str, basis: str) -> int:
        found = re.search(rf"(\d+) {basis}", words)
        return int(found[1]) if found else 0

    pairs = [(count(held, basis), count(failed, basis)) for basis in Basis]
    return [f"{good} of {good + bad}" if good + bad else "" for good, bad in pairs]


def _shrink(source: Path, target: Path) -> None:
    """Scale an image down to 128 colours and a page's width, which keeps lines and text clean and the file small."""
    from PIL import Image

    with Image.open(source) as image:
        height = round(image.height * WIDTH / image.width)
        small = image.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)
        small.quantize(128, dither=Image.Dither.NONE).save(target, optimize=True)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("<", "&lt;")
