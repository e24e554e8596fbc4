"""Bands and thresholds of the claims of `residual`."""

from __future__ import annotations

# Thresholds that depend on the data were fixed in pilot runs on seeds 10 and 11, not on those reported (0, 1, 2).
DEGRADED, STEADY = 0.2, 0.05  # growth of training error from the shallowest to the deepest network
UNHARMED, DESTROYED = 0.02, 0.2  # loss of accuracy by deleting one block; accuracy after it
SAME = 1e-3  # float32, two ways of adding up
LINEAR_FIT = 0.95  # R^2 of ln(gradient by a path) against its length
NORMFREE_LOSS = {"ReZero": 0.6, "SkipInit": 0.6, "Fixup": 0.75}
SLOWER, BURDENED = 2.5, 1.5  # loss of the vanilla over the worst of those, of the residual network over SkipInit's
