"""Draw arrays as matplotlib figures. These functions compute nothing and save nothing.

Every function draws into the axes given, or into a figure of its own, and returns the figure. Lines differ by
colour (Okabe & Ito's palette, safe for the colour-blind), by marker and by dash, so that they survive a grey
printer; heat maps use cividis, whose lightness rises steadily.
"""

from gradflow.plots.colors import heatmap
from gradflow.plots.curves import movement, profile, training_curves
from gradflow.plots.depth import flow
from gradflow.plots.postmortem import postmortem
from gradflow.plots.style import COLORS, DASHES, HEAT, MARKERS, STYLE, line_styles, styled
from gradflow.plots.waterfall import waterfall

__all__ = [
    "COLORS", "DASHES", "HEAT", "MARKERS", "STYLE", "flow", "heatmap", "line_styles", "movement", "postmortem",
    "profile", "styled", "training_curves", "waterfall",
]  # fmt: skip
