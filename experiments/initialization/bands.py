"""Bands and thresholds of the claims of `initialization`."""

from __future__ import annotations

# Bands of the requirement that the claims come from, which measured them beforehand.
STANDARD_VALUE, NORMALIZED_VALUES = (0.49, 0.03), (0.70, 0.85)
# Variance of x over 1,000 units strays by sqrt(5/1000) a layer: three of it for five layers, halved for the rms.
SIGNAL_BAND = 0.24
# Fixed in pilot runs on seeds 10 and 11, not on those reported (0, 1, 2).
LEARNT, BEGUN, STUCK, CHANCE = 0.7, 0.3, 0.35, 0.15
EVEN = 1.6  # largest over smallest standard deviation of weight gradients over layers
HALFWAY = 0.5  # accuracy whose first time orders the schemes
VARIANCE_BAND = 0.15  # of Hanin's variances; 1,000 networks have a standard error of 4.5 %
# Three standard errors of an error rate on 10,000 images, for the paper's test set and for ours.
STANDARD_ERRORS = 3 * 2**0.5
