"""Colours, scales, signs and words that the figures of a report share."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Iterable, Sequence

__all__ = ["HATCHES", "SIGNS", "Scale", "color", "figure_box", "hatches", "legend", "number", "span", "table", "ticks"]

# Nine even stops of cividis (Nunez, Anderton & Renslow 2018): one order of lightness for every kind of colour vision.
_CIVIDIS = ("00224e", "1a386f", "434e6c", "61656f", "7d7c78", "9b9476", "bcae6c", "dec958", "fee838")
# What a cell or a point is, if it is no number on the scale -> words of the legend.
HATCHES = {
    "nan": "NaN",
    "inf": "infinite",
    "zero": "0: no logarithm",
    "absent": "no number: not measured there, or the layer did not run",
    "unsure": "NaN or no number: a history does not say which",
}
SIGNS = {"nan": "×", "inf": "▲", "minus": "▼", "zero": "○"}


@dataclasses.dataclass(frozen=True)
class Scale:
    """From the lowest to the highest number.

    Attributes:
        low: in log10 where `log`.
        high: likewise.
        log: whether it is logarithmic.
    """

    low: float
    high: float
    log: bool

    def at(self, value: float) -> float:
        """Return where a number is, from 0 to 1.

        Args:
            value: finite, and positive on a logarithmic scale.
        """
        x = math.log10(value) if self.log else value
        unit = max(abs(self.low), abs(self.high), 1e-300)  # the difference of two huge numbers is infinite
        return min(1.0, max(0.0, (x / unit - self.low / unit) / (self.high / unit - self.low / unit)))

    def state(self, value: float | None, *, sure: bool = True) -> str:
        """Return "number", or what it is instead.

        Args:
            value: None where there is none.
            sure: whether NaN means NaN.
        """
        if value is None:
            return "absent"
        if math.isnan(value):
            return "nan" if sure else "unsure"
        if math.isinf(value):
            return "inf" if value > 0 else "minus"
        return "zero" if self.log and value <= 0 else "number"


def span(values: Iterable[float | None], *, log: bool) -> Scale:
    """Return the scale of the finite numbers; never an empty one.

    Args:
        values: the numbers, with others among them.
        log: whether it is to be logarithmic.
    """
    known = [float(v) for v in values if v is not None and math.isfinite(v) and (v > 0 or not log)]
    shown = [math.log10(v) for v in known] if log else known
    low, high = (min(shown), max(shown)) if shown else (0.0, 1.0)
    if high / 2 - low / 2 <= 1e-9 * max(abs(low), abs(high)):
        margin = 0.5 if log else max(abs(low) / 2, 1e-9)
        low, high = low - margin, high + margin
    return Scale(low, high, log)


def ticks(scale: Scale) -> list[tuple[float, str]]:
    """Return a few places from 0 to 1, and the numbers there.

    Args:
        scale: of the axis.
    """
    if scale.log:
        powers = list(range(math.ceil(scale.low), math.floor(scale.high) + 1))
        if len(powers) > 1:
            powers = powers[:: math.ceil(len(powers) / 6)]
            return [((p - scale.low) / (scale.high - scale.low), f"1e{p}") for p in powers]
    found = []
    for k in (0.0, 0.5, 1.0):
        x = scale.low * (1 - k) + scale.high * k
        found.append((k, f"{10**x if scale.log else x:.3g}"))
    return found


def color(place: float) -> str:
    """Return a colour of the map.

    Args:
        place: from 0 to 1.
    """
    x = place * (len(_CIVIDIS) - 1)
    k = min(int(x), len(_CIVIDIS) - 2)
    pairs = [(int(_CIVIDIS[k][i : i + 2], 16), int(_CIVIDIS[k + 1][i : i + 2], 16)) for i in (0, 2, 4)]
    return "#" + "".join(f"{round(a + (b - a) * (x - k)):02x}" for a, b in pairs)


def number(value: float | None, *, sure: bool = True) -> str:
    """Return a number as the page says it.

    Args:
        value: None where there is none.
        sure: whether NaN means NaN.
    """
    if value is None:
        return "no number"
    if math.isnan(value):
        return "NaN" if sure else "NaN or no number"
    return f"{value:.4g}" if math.isfinite(value) else "Inf" if value > 0 else "-Inf"


def hatches() -> str:
    """Return the patterns that cells are filled with, once for a page."""
    lines = {
        "nan": '<path d="M0 6L6 0" stroke="#d9622b" stroke-width="2"/>',
        "inf": '<path d="M0 0L6 6M0 6L6 0" stroke="#d9622b" stroke-width="1.5"/>',
        "zero": '<circle cx="3" cy="3" r="1.2" fill="#888"/>',
        "unsure": '<path d="M0 3H6" stroke="#888" stroke-width="1.5"/>',
    }
    patterns = "".join(
        f'<pattern id="gf-{key}" width="6" height="6" patternUnits="userSpaceOnUse">'
        f'<rect width="6" height="6" class="paper"/>{shape}</pattern>'
        for key, shape in lines.items()
    )
    return f'<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>{patterns}</defs></svg>'


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Return a line of swatches and words.

    Args:
        entries: a swatch as HTML, and plain text.
    """
    shown = "".join(f"<span>{swatch} {html.escape(words)}</span>" for swatch, words in entries)
    return f'<p class="legend">{shown}</p>' if entries else ""


def figure_box(svg: str, label: str, below: str) -> str:
    """Return a figure that scrolls sideways where the screen is narrow, by keyboard, too.

    Args:
        svg: the drawing.
        label: plain text for the box and the caption.
        below: HTML: the legend and the table.
    """
    text = html.escape(label)
    return (
        f'<figure><figcaption>{text}</figcaption><div class="wide" tabindex="0" role="group" '
        f'aria-label="{text}">{svg}</div>{below}</figure>'
    )


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the numbers of a figure, folded away.

    Args:
        caption: plain text.
        header: headings.
        rows: cells; the first of each is its heading.
    """
    text = html.escape(caption)
    heads = "".join(f'<th scope="col">{html.escape(h)}</th>' for h in header)
    body = "".join(
        f'<tr><th scope="row">{html.escape(row[0])}</th>{"".join(f"<td>{html.escape(c)}</td>" for c in row[1:])}</tr>'
        for row in rows
    )
    return (
        f'<details><summary>Numbers: {text}</summary><div class="wide" tabindex="0" role="group" aria-label="{text}">'
        f"<table><caption>{text}</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div></details>"
    )
