"""A report of recorded runs: one page that needs nothing else."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gradflow._files import write_whole
from gradflow.live.reporting.heat import heat_map
from gradflow.live.reporting.ledger import verdicts
from gradflow.live.reporting.lines import Line, line_chart
from gradflow.live.reporting.marks import Scale, hatches, span
from gradflow.live.reporting.sources import STATISTICS, Run, Source, Statistic, read_runs

__all__ = ["report"]

_MOST_EVENTS = 50
_STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1c1c1c;--soft:#d8d8d8;--dim:#5c5c5c;--s0:#1c1c1c;--s1:#0072b2;
--s2:#d55e00;--s3:#00805e;--s4:#b3478d;--s5:#a86f00}
@media (prefers-color-scheme:dark){:root{--paper:#16181b;--ink:#ececec;--soft:#3c4046;--dim:#a9adb3;--s0:#ececec;
--s1:#56b4e9;--s2:#ff8a3d;--s3:#2fc99b;--s4:#e79ac6;--s5:#f0b429}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem;background:var(--paper);
color:var(--ink);overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2rem 0 .25rem;border-bottom:1px solid var(--soft)}p{margin:.25rem 0}
figure{margin:1rem 0;break-inside:avoid}figcaption{font-weight:600;font-size:.95rem}
.wide{overflow-x:auto;max-width:100%}.note{font-size:.85rem;color:var(--dim)}
svg{vertical-align:middle}svg text{font:11px system-ui,sans-serif;fill:var(--ink)}
.grid{stroke:var(--soft);fill:none}.event{stroke:var(--s2);stroke-dasharray:2 2;stroke-width:2;fill:none}
.event-sign{color:var(--s2)}.absent{fill:var(--paper);stroke:var(--soft);stroke-dasharray:2 2}.paper{fill:var(--paper)}
.line{fill:none;stroke-width:1.6}svg text.sign{font-size:14px;font-weight:bold}
.s0{fill:var(--s0);stroke:var(--s0)}.s1{fill:var(--s1);stroke:var(--s1)}.s2{fill:var(--s2);stroke:var(--s2)}
.s3{fill:var(--s3);stroke:var(--s3)}.s4{fill:var(--s4);stroke:var(--s4)}.s5{fill:var(--s5);stroke:var(--s5)}
svg path.line{fill:none}svg text.sign{stroke:none}
.legend{display:flex;flex-wrap:wrap;gap:.1rem 1rem;font-size:.85rem}
details{font-size:.85rem}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
caption{text-align:left}th,td{padding:1px 8px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--soft)}
th[scope=row]{text-align:left;font-weight:400}
@media print{body{max-width:none}.wide{overflow:visible}.wide>svg{max-width:100%;height:auto}
svg{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""


def report(
    source: Source | Sequence[Source] | Mapping[str, Source], path: str | os.PathLike[str] = "report.html"
) -> Path:
    """Write a self-contained page of one run, or of several side by side.

    It holds heat maps of layer x step, profiles over the layers, loss and gradient norm over the steps, what happened
    before each spike, and ledger and verdict of the diagnoses that were written. Runs that are compared share their
    scales.

    Args:
        source: a file of `gf.live.Jsonl`, a folder, which stands for its newest one, a `gf.live.FlowHistory`, or
            several of them: a list, or a mapping from names.
        path: of the page. It is old or whole at any moment, never a part.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: if a file, or the folder of the page, is not there.
        OSError: if the page cannot be written.
        ValueError: for a file that cannot be read, that `gf.live.Jsonl` did not write, or that has no record.
        TypeError: if a source is something else.

    Examples:
        >>> import tempfile, numpy as np, gradflow as gf
        >>> history = gf.live.FlowHistory(np.arange(3), ("first", "last"), {"output_rms": np.ones((2, 3))})
        >>> report(history, f"{tempfile.mkdtemp()}/run.html").name
        'run.html'
    """
    target = Path(path)
    if not target.resolve().parent.is_dir():
        raise FileNotFoundError(
            f"report: expected a file in a folder that is there, got {target}. Fix: make the folder"
        )
    several = (
        source.values() if isinstance(source, Mapping) else source if isinstance(source, (list, tuple)) else [source]
    )
    files = [Path(one) for one in several if isinstance(one, (str, os.PathLike))]
    if any(one.resolve() == target.resolve() or (one.is_dir() and target.suffix == ".jsonl") for one in files):
        raise ValueError(f"report: expected another file for the page than for the run, got {target} for both")
    text = _page(read_runs(source))
    write_whole(target, text, errors="xmlcharrefreplace")
    return target


def _page(runs: Sequence[Run]) -> str:
    names = ", ".join(run.name for run in runs)
    title = html.escape(f"gradflow: {names}")
    heading = f"Flow of {names}" if len(runs) == 1 else f"Flow of {len(runs)} runs"
    parts = [_overview(runs), _scalars(runs), _spikes(runs), verdicts(runs)]
    for statistic in STATISTICS:
        parts += [_heat_maps(runs, statistic), _profiles(runs, statistic)]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body>{hatches()}<main><h1>{html.escape(heading)}</h1>"
        f"{''.join(parts)}</main></body></html>\n"
    )


def _overview(runs: Sequence[Run]) -> str:
    lines = []
    for run in runs:
        count = len(run.steps)
        over = f", steps {run.steps[0]} to {run.steps[-1]}" if count > 1 else f", step {run.steps[0]}" if count else ""
        rows = f"{len(run.layers)} row{'s' * (len(run.layers) != 1)} of layers"
        text = f"{run.name}: {count} record{'s' * (count != 1)}{over}, {rows}"
        missing = [s.title.lower() for s in STATISTICS if not run.has(s)]
        text += f"; not recorded: {', '.join(missing)}" if missing else ""
        if run.left_out:
            more = " …" if len(run.left_out) > 5 else ""
            text += f"; not shown, since the first record has no such row: {', '.join(run.left_out[:5])}{more}"
        lines.append(f"<li>{html.escape(text)}</li>")
    together = '<p class="note">Runs share the scale of each statistic.</p>' if len(runs) > 1 else ""
    return f"<ul>{''.join(lines)}</ul>{together}"


def _scalars(runs: Sequence[Run]) -> str:
    charts = []
    for title in dict.fromkeys(title for run in runs for title in run.scalars):
        having = [run for run in runs if title in run.scalars]
        lines = [
            Line(run.name, run.steps.astype(np.float64).tolist(), _steps(run), run.scalars[title]) for run in having
        ]
        events = [(float(e["step"]), f"{r.name}: {_sentence(e)}") for r in having for e in r.events[:_MOST_EVENTS]]
        charts.append(line_chart(title, lines, below="step", events=events))
    without = [run.name for run in runs if not run.scalars]
    said = f"<p>No loss and no gradient norm are recorded in {html.escape(', '.join(without))}.</p>" if without else ""
    return f'<section id="scalars"><h2>Loss and gradient norm</h2>{said}{"".join(charts)}</section>'


def _steps(run: Run) -> list[str]:
    return [f"step {step}" for step in run.steps]


def _sentence(event: Mapping[str, object]) -> str:
    return str(event.get("sentence") or f"Step {event['step']}: {event.get('event', 'event')}.")


def _spikes(runs: Sequence[Run]) -> str:
    lines = []
    for run in runs:
        before = f"{run.name}: " if len(runs) > 1 else ""
        lines += [f"<li>{html.escape(before + _sentence(event))}</li>" for event in run.events[:_MOST_EVENTS]]
        if len(run.events) > _MOST_EVENTS:
            lines.append(f"<li>{html.escape(before)}{len(run.events) - _MOST_EVENTS} later events are not shown.</li>")
    if all(not run.tells_absent for run in runs):
        none = "<p>A history does not hold them.</p>"
    else:
        none = "<p>None is recorded. They are looked for at every step if the watch has <code>history=</code>.</p>"
    listed = f"<ul>{''.join(lines)}</ul>" if lines else none
    return f'<section id="spikes"><h2>Spikes</h2>{listed}</section>'


def _scale(runs: Sequence[Run], statistic: Statistic) -> Scale:
    if not statistic.log:
        return Scale(0.0, 1.0, log=False)
    return span((x for run in runs for x in run.values[statistic.field].ravel().tolist()), log=True)


def _heat_maps(runs: Sequence[Run], statistic: Statistic) -> str:
    having = [run for run in runs if run.has(statistic)]
    scale = _scale(having, statistic)
    maps = [heat_map(run, statistic, scale, _label(runs, run, statistic.title)) for run in having]
    shown = "".join(maps) or "<p>Not recorded.</p>"
    return f'<section id="{statistic.field}"><h2>{statistic.title}, layer by step</h2>{shown}</section>'


def _label(runs: Sequence[Run], run: Run, text: str) -> str:
    return text if len(runs) == 1 else f"{run.name}: {text}"


def _profiles(runs: Sequence[Run], statistic: Statistic) -> str:
    profiles = [(run, _profile(run, statistic)) for run in runs if run.has(statistic)]
    if not profiles:
        return ""
    numbers = (x for _, lines in profiles for line in lines for x in line.numbers)
    scale = span(numbers, log=True) if statistic.log else _scale(runs, statistic)
    charts = []
    for run, lines in profiles:
        label = _label(runs, run, f"{statistic.title} over the layers")
        charts.append(line_chart(label, lines, below="layer, from the input to the loss", scale=scale))
    name = f"profile-{statistic.field}"
    return f'<section id="{name}"><h2>{statistic.title}, profile over depth</h2>{"".join(charts)}</section>'


def _profile(run: Run, statistic: Statistic) -> list[Line]:
    """Return the first, the middle and the last record."""
    values, absent = run.values[statistic.field], run.absent[statistic.field]
    lines = []
    for k in dict.fromkeys((0, (len(run.steps) - 1) // 2, len(run.steps) - 1)):
        numbers = [None if gone else float(x) for x, gone in zip(values[:, k], absent[:, k], strict=True)]
        places = [float(row) for row in range(len(run.layers))]
        lines.append(Line(f"step {run.steps[k]}", places, run.layers, numbers, run.tells_absent))
    return lines
