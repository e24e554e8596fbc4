"""Batch normalization: it trains what did not train, smooths the loss, and makes a deep plain network explode.

Paper:    Ioffe & Szegedy 2015; Santurkar et al. 2018; Yang et al. 2019; De & Smith 2020
Figure:   Ioffe & Szegedy Fig. 1 (a, b, c); Santurkar et al. Figs 2 and 4; Yang et al.'s explosion rates
Command:  python -m experiments.batchnorm
Minutes:  1 on two cores (smoke: 20 seconds; paper: 50,000 steps of .004 s a network on one core, .1 hours, the
          landscape not timed)
Expected: three layers of 100 sigmoids learn within 500 steps with batch norm and not at all without; the squared
          gradient of a deep plain net grows 1.480 a layer (ReLU at a batch of 128; 1.467 at a large one), (B-2)/(B-3)
          (linear); a residual stream's variance after 20 blocks is 21 with batch norm, 2^20 without.

Three parts. Training: the network of Ioffe & Szegedy's Fig. 1 (three layers of 100 sigmoids, small Gaussian weights,
batches of 60), its accuracy and the 15th, 50th and 85th percentiles of the inputs of its last hidden layer's sigmoids.
Landscape: six layers of 100 ReLU units; which learning rates work, how much loss and gradient change along the
gradient, and batch norm whose outputs are shaken by noise that changes from step to step, which trains as well: what
helps is not that distributions stand still. Initialization: the price, gradients that grow exponentially with depth in
a plain network, and what pays it, skip connections.
"""
