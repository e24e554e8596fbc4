"""Bands and thresholds of the claims of `saturation`."""

from __future__ import annotations

PUSHED, CHANCE = 0.06, 0.2  # computed beforehand, by other code
LEARNS, ESCAPED = 0.7, 0.4  # test accuracy; pilots on seeds 10 and 11: .83, .82, .84 and more; above .7 after escape
PASSED, LIMIT, KNEE = 0.9, 0.9, (0.6, 0.8)
SATURATED, FREE, PILED = 0.5, 0.1, 0.25  # pilots: .71; .04; .39
LEARNING = 10_000  # steps, with fewer of which nothing is claimed about training
