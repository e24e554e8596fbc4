"""Bands and thresholds of the claims of `trainability`."""

from __future__ import annotations

# Thresholds for these images were fixed in pilot runs on other seeds (10, 11) than those that are reported (0, 1, 2).
TRAINED, UNTRAINED = 0.4, 0.3  # test accuracy; chance is 0.1
SHALLOW, DEEP = 0.7, 2.0  # in units of 6 xi_c
RATE_BAND = 0.04  # as for the tanh table of `vanishing`
# For a batch of B, theory for a large batch is off by terms of order 1/B; 3/B of it is the band.
FINITE_BATCH = 3.0
# In standard errors of theory: one number of many, and an rms over layers and starts (1 is expected).
WORST_ERROR, RMS_ERROR = 3.5, 2.0
