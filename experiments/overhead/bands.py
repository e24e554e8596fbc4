"""Bands and thresholds of the claims of `overhead`."""

from __future__ import annotations

MEMORY_TARGET, COMPILE_TARGET = 1.01, 1.5
TIME_TARGETS = {"mlp 20 x 512": 1.03, "mlp 50 x 100": 1.10, "lstm T = 100": 1.10, "resnet-20": 1.05}
