"""Ledger and verdict over training: where the backward signal is lost or gained, step by step, and what was found."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence

import numpy as np

from gradflow.live.reporting.heat import heat_map
from gradflow.live.reporting.lines import Line, line_chart
from gradflow.live.reporting.marks import span, table
from gradflow.live.reporting.sources import Run, Statistic

__all__ = ["verdicts"]

_GAIN = Statistic("log10_gain", "Gains of the backward signal in decades", log=False)
_MOST_ALARMS = 400


def verdicts(runs: Sequence[Run]) -> str:
    """Return the section of the diagnoses that were written, and of the alarms of the records.

    Args:
        runs: at least one.
    """
    parts = []
    for run in runs:
        before = f"{run.name}: " if len(runs) > 1 else ""
        if run.diagnoses:
            parts += [_list(run, before), _by_cause(run, before), _by_entry(run, before)]
        else:
            text = f"{before}No diagnosis is recorded."
            fix = "" if not run.tells_absent else " Jsonl.write_diagnosis writes one: ledger and verdict of a step."
            parts.append(f"<p>{html.escape(text + fix)}</p>")
        parts.append(_alarms(run, before))
    return f'<section id="verdict"><h2>Ledger and verdict over training</h2>{"".join(parts)}</section>'


def _list(run: Run, before: str) -> str:
    lines = [f"{before}step {one.step}: {words}" for one in run.diagnoses for words in one.words]
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"


def _by_cause(run: Run, before: str) -> str:
    """Draw the sum over all entries, and that of each cause; a cause that a ledger does not have is a gap."""
    causes = list(dict.fromkeys(cause for one in run.diagnoses for cause in one.causes))
    steps = [float(one.step) for one in run.diagnoses]
    labels = [f"step {one.step}" for one in run.diagnoses]
    lines = [
        Line("in total", steps, labels, [sum(one.causes.values()) if one.causes else None for one in run.diagnoses])
    ]
    lines += [Line(cause, steps, labels, [one.causes.get(cause) for one in run.diagnoses]) for cause in causes]
    scale = span([x for line in lines for x in line.numbers], log=False)
    label = f"{before}Gains of the backward signal by cause, in decades"
    return line_chart(label, lines, below="step", scale=scale)


def _by_entry(run: Run, before: str) -> str:
    rows = list(dict.fromkeys(name for one in run.diagnoses for name in one.gains))
    numbers = [[one.gains.get(row) for one in run.diagnoses] for row in rows]
    if not rows:
        return ""
    values = np.array([[np.nan if x is None else x for x in row] for row in numbers], np.float64)
    absent = {_GAIN.field: np.isnan(values)}
    steps = np.array([one.step for one in run.diagnoses])
    shown = dataclasses.replace(
        run, steps=steps, layers=tuple(rows), values={_GAIN.field: values}, absent=absent, tells_absent=True
    )
    scale = span(values.ravel().tolist(), log=False)
    words = "Below 0 the signal shrinks on its way to the input, above 0 it grows. The sums leave the loss out."
    return (
        heat_map(shown, _GAIN, scale, f"{before}{_GAIN.title}, entry of the ledger by step")
        + f'<p class="note">{words}</p>'
    )


def _alarms(run: Run, before: str) -> str:
    if run.alarms is None:
        return ""
    steps = len({step for step, _ in run.alarms})
    text = f"{before}Alarms stand at {steps} of {len(run.steps)} records."
    if not run.alarms:
        return f"<p>{html.escape(text)}</p>"
    kept = run.alarms[-_MOST_ALARMS:]
    last = f", the last {_MOST_ALARMS}" if len(run.alarms) > _MOST_ALARMS else ""
    rows = [[f"step {step}", words] for step, words in kept]
    return f"<p>{html.escape(text)}</p>{table(f'{before}alarms{last}', ['', 'alarm'], rows)}"
