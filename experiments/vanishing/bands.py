"""Bands and thresholds of the claims of `vanishing`."""

from __future__ import annotations

# The bands follow from theory, not from runs. One layer of width n changes the squared gradient by chi (1
# +- sqrt(2 / n)), so a mean over m layers has standard deviation sqrt(2 / (n m)); for the product over m
# layers, ln of the squared norm has variance 5 m / n (Hanin & Nica 2018: ReLU, the widest of the
# activations used). Three of them make the band.
DEVIATIONS = 3.0
LAYER_VARIANCE = 2.0
CURED = (0.1, 10.0)  # of the first/last ratio
AT_CHANCE, LEARNS = 0.2, 0.5  # test accuracy; chance is 0.1
TANH_BAND = 0.04
