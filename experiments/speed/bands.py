"""Bands and thresholds of the claims of `speed`."""

from __future__ import annotations

TARGETS = {"lstm": 1.0, "gru": 0.7, "rnn": 0.7, "mlp": 1.0, "resnet-20": 1.3}
SCAN_TARGET, GRID_TARGET, COMPILE_TARGET = 1.5, 5.0, 1.3
