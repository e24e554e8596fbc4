"""Bands and thresholds of the claims of `isometry`."""

from __future__ import annotations

SAME = 1e-4  # singular values of a product of orthogonal matrices, float32
SPECTRUM_BAND = 0.2  # second moments and edges of matrices with 10 layers
# Fixed in pilot runs on seeds 10 and 11, not on those reported (0, 1, 2).
LINEAR_STEADY = 1.5  # learning time of linear orthogonal networks, 100 layers over 10; pilots: 1.37 and 1.36
STEADY, SLOWED = 2.0, 2.0  # that of tanh networks: of orthogonal ones over depth; of Gaussian over orthogonal ones
LEFT = 0.3  # of the loss, by linear Gaussian networks of 100 layers
LOSSES = 0.75  # orthogonal over Gaussian, after training
CNN_LEARNT, CNN_STUCK = 2.2, 2.25  # training loss; chance is 2.303
EVEN, UNEVEN = 10.0, 30.0  # largest over smallest gradient of a layer
DEVIATIONS = 3.0  # of the finite-width law
