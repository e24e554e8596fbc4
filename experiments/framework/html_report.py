"""One self-contained page of all results: every figure, its claims, its settings and its command."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from experiments.framework import storage
from experiments.framework.catalogue import Head
from experiments.framework.claims import band_words, headline, margin_words

TEMPLATE = Path(__file__).with_name("html_report.html")


def write(out: Path, preset: str, heads: Sequence[Head], failures: Mapping[str, str]) -> Path:
    """Write OUT/index.html from the results of one preset, whole or not at all.

    Args:
        out: folder of all results.
        preset: whose results to show.
        heads: the experiments, in the page's order.
        failures: experiments that did not finish in the latest run, with what happened.

    Returns:
        The page.
    """
    runs = {head.name: load(out / head.name / preset) for head in heads}
    records = [record for run in runs.values() if run for record in run["claims"]]
    text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        preset=preset,
        claims=headline(records),
        experiments=sum(run is not None for run in runs.values()),
        summary="\n".join(_summary(head, runs[head.name], failures) for head in heads),
        sections="\n".join(_section(head, runs[head.name], preset, failures) for head in heads),
    )
    out.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=".index.", suffix=".html", dir=out)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.chmod(partial, 0o644)
    return Path(partial).replace(out / "index.html")


def load(folder: Path) -> dict[str, Any] | None:
    """Read the results folder of a run.

    Args:
        folder: results/NAME/PRESET.

    Returns:
        Its settings, with its `claims` (records), the files of its figures (`images`) and the texts of its tables by
        name, the shortest first (`tables`); None if there is no run.
    """
    claims = storage.read_claims(folder)
    if claims is None:
        return None
    run = json.loads((folder / storage.CONFIG_FILE).read_text(encoding="utf-8"))
    run["claims"] = claims
    run["images"] = [folder / f"figure_{name}.png" for name in run["figures"]]
    tables = sorted(folder.glob("*.md"), key=lambda file: file.stat().st_size)
    run["tables"] = {file.stem: file.read_text(encoding="utf-8") for file in tables}
    return run


def _verdict(run: Mapping[str, Any] | None) -> tuple[str, str]:
    """Words and their class."""
    if run is None:
        return "not run", "none"
    return headline(run["claims"]), "yes" if all(record["holds"] for record in run["claims"]) else "no"


def _summary(head: Head, run: Mapping[str, Any] | None, failures: Mapping[str, str]) -> str:
    words, kind = _verdict(run)
    if head.name in failures:
        words, kind = f"{words}; last run did not finish", "no"
    seconds = f"{run['seconds']:.0f} s" if run else ""
    return (
        f'<tr><td><a href="#{head.name}">{head.name}</a></td><td>{html.escape(head.title)}</td>'
        f'<td class="{kind}">{html.escape(words)}</td><td class="number">{seconds}</td></tr>'
    )


def _section(head: Head, run: Mapping[str, Any] | None, preset: str, failures: Mapping[str, str]) -> str:
    words, kind = _verdict(run)
    begin = f'<section id="{head.name}"' + (' class="run">' if run else ">")
    parts = [
        f'{begin}<h2>{head.name}</h2><p class="title">{_prose(head.title)}</p>',
        f"<p><b>Paper:</b> {_prose(head.paper)}<br><b>Figure:</b> {_prose(head.figure)}<br>"
        f"<b>Expected:</b> {_prose(head.expected)}</p>",
    ]
    if head.name in failures:
        parts.append(f'<p class="notice">{html.escape(failures[head.name])}</p>')
    if run is not None:
        options = f"<span>--preset {preset}</span> <span>--seed {run['config'].get('seed', 0)}</span>"
        parts.append(f"<pre>python -m experiments.{head.name} {options}</pre>")
        parts.extend(_figure(image, head) for image in run["images"])
        parts.append(f'<p class="verdict {kind}">{html.escape(words)}</p>')
        parts.append(_claims(run["claims"]))
        parts.append(_settings(run))
    return "\n".join([*parts, "</section>"])


def _prose(text: str) -> str:
    """Write a text of a head, in which code stands between backticks."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _figure(image: Path, head: Head) -> str:
    """Write a figure; a hidden check box, which needs no script, switches between the page's width and its own."""
    from PIL import Image

    content = base64.b64encode(image.read_bytes()).decode("ascii")
    with Image.open(image) as picture:
        (width, height), title = picture.size, picture.info.get("Title")
    text = f"{head.name}: {image.stem.removeprefix('figure_').replace('_', ' ')}"
    words = html.escape(f"{text}. {title}" if title else text)
    return (
        '<figure><label><input type="checkbox" aria-label="full size">'
        f'<img src="data:image/png;base64,{content}" alt="{words}" width="{width}" height="{height}"'
        f' style="--pixels: {width}px"></label><figcaption>{html.escape(text)}</figcaption></figure>'
    )


def _claims(records: Sequence[Mapping[str, Any]]) -> str:
    columns = ("claim", "source", "basis", "band", "measured", "margin")
    head = "".join(f"<th>{name}</th>" for name in (*columns, "verdict"))
    rows = []
    for record in records:
        written = dict(
            record, band=band_words(record), measured=number(record["measured"]), margin=margin_words(record)
        )
        cells = "".join(f'<td data-name="{name}">{html.escape(written[name])}</td>' for name in columns)
        mark = ("yes", "holds") if record["holds"] else ("no", "does not hold")
        rows.append(f'<tr>{cells}<td data-name="verdict" class="{mark[0]}">{mark[1]}</td></tr>')
    body = "\n".join(rows)
    return f'<table class="claims"><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>'


def number(value: Any) -> str:
    """Write a number in four digits; the names of NaN and of the infinities as they are.

    Args:
        value: a number as in claims.json.
    """
    return value if isinstance(value, str) else f"{value:.4g}"


def _settings(run: Mapping[str, Any]) -> str:
    shown = {"settings": run["config"], "device": run["device"], "versions": run["versions"]}
    rows = [
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>"
        for group in shown.values()
        for name, value in group.items()
    ]
    return f"<details><summary>Settings, device, versions</summary><table>{''.join(rows)}</table></details>"
