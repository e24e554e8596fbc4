"""The figures of `diagnosis`, drawn from its results alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from experiments.diagnosis import scores
from experiments.diagnosis.labels import SICK
from experiments.diagnosis.results import Results
from gradflow import plots

OURS = "gradflow"
ASIDE = 0.14  # inches between marks of the same place


@plots.styled
def draw(results: Results) -> dict[str, Figure]:
    """Draw every figure.

    Args:
        results: from `experiments.diagnosis.experiment.run`.

    Returns:
        Name to figure.
    """
    return {"rules": rules(results), "networks": networks(results)}


def rules(results: Results) -> Figure:
    """Detection against false alarms of every rule, with Wilson's 95 % intervals, on the held-out families."""
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    sick = scores.sick(results)
    chosen = results.held_out if results.held_out.any() else ~results.public
    flags = {OURS: results.flagged, **dict(zip(results.rules.tolist(), results.rule_flags, strict=True))}
    taken: Counter[tuple[float, float]] = Counter()
    for (name, flagged), style in zip(flags.items(), plots.line_styles(), strict=False):
        found, alarms = scores.rate(flagged[chosen & sick]), scores.rate(flagged[chosen & ~sick])
        if not found.cases or not alarms.cases:
            continue
        place = (round(alarms.share, 2), round(found.share, 2))
        beside = ScaledTranslation(-ASIDE * taken[place], 0, figure.dpi_scale_trans)
        taken[place] += 1
        axes.errorbar(
            alarms.share, found.share, color=style["color"], marker=style.get("marker", "o"),
            transform=axes.transData + beside,
            markersize=9 if name == OURS else 6, linestyle="none", capsize=2, elinewidth=0.8, label=name,
            xerr=[[alarms.share - alarms.low], [alarms.high - alarms.share]],
            yerr=[[found.share - found.low], [found.high - found.share]],
        )  # fmt: skip
    axes.plot((0, 1), (0, 1), color="0.6", linestyle=":", linewidth=1, label="a coin")
    axes.set(
        xlabel="healthy networks called sick", ylabel="sick networks found", xlim=(-0.03, 1.03), ylim=(-0.03, 1.05)
    )
    axes.legend(loc="lower right", fontsize=8)
    counts = f"{int((chosen & sick).sum())} sick, {int((chosen & ~sick).sum())} healthy"
    figure.suptitle(
        f"Who finds networks that do not train? Held-out families, {counts}", x=0.01, ha="left", fontsize=11
    )
    if max(taken.values(), default=0) > 1:
        axes.set_title("marks at the same place stand side by side", loc="left", fontsize=8)
    return figure


def networks(results: Results) -> Figure:
    """Gain over the twin's gain of every network, by family; what the verdict got wrong is marked."""
    families = list(dict.fromkeys(results.families.tolist()))
    figure = Figure(figsize=(7.2, 0.28 * len(families) + 1.6), layout="constrained")
    axes = figure.subplots()
    sick = scores.sick(results)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(np.isfinite(results.gains), results.gains / results.twin_gains, 0.0)
    ratio = np.clip(np.nan_to_num(ratio), 0.0, 1.0)
    rows = np.array([families.index(family) for family in results.families.tolist()], float)
    spread = np.linspace(-0.25, 0.25, max(np.bincount(rows.astype(int)).max(), 1))
    for k in range(len(families)):
        members = np.flatnonzero(rows == k)
        rows[members] += spread[: len(members)]
    _points(axes, ratio, rows, results.flagged, sick)
    axes.axvline(SICK, color="0.5", linestyle="--", linewidth=1)
    untouched = results.held_out | results.public
    labels = [name + ("" if untouched[results.families == name][0] else " *") for name in families]
    axes.set_yticks(range(len(families)), labels, fontsize=8)
    axes.set(xlabel="gain, over that of the best treatment", xlim=(-0.03, 1.03))
    axes.invert_yaxis()
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8)
    figure.suptitle("Every network (* families that were tuned on)", x=0.01, ha="left", fontsize=11)
    return figure


def _points(axes: Axes, ratio: np.ndarray, rows: np.ndarray, flagged: np.ndarray, sick: np.ndarray) -> None:
    blue, orange = "#0072B2", "#D55E00"
    for chosen, marker, color, filled, label in (
        (~flagged & ~sick, "o", blue, True, "healthy, called healthy"),
        (flagged & sick, "s", orange, True, "sick, found"),
        (flagged & ~sick, "X", blue, False, "healthy, false alarm"),
        (~flagged & sick, "D", orange, False, "sick, missed"),
    ):
        axes.scatter(
            ratio[chosen], rows[chosen], s=26 if filled else 46, marker=marker, linewidths=1.4,
            facecolors=color if filled else "none", edgecolors=color, label=f"{label} ({int(chosen.sum())})",
        )  # fmt: skip
