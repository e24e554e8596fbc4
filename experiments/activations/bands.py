"""Bands and thresholds of the claims of `activations`."""

from __future__ import annotations

PAPER_DEAD = (3, 10, 0.577)  # width, layers, probability; computed beforehand, by other code
ERRORS = 3.0  # standard errors
CLOSED = 1e-6
CHANCE, LEARNS, ALIVE = 0.2, 0.5, 0.5
LEARNING = 500  # steps, with fewer of which nothing is claimed about training
