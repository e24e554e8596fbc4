"""Activations: how each carries the gradient through depth, which units die or saturate, and what can be trained.

Paper:    Glorot & Bengio 2010; He et al. 2015; Klambauer et al. 2017; Lu et al. 2019
Figure:   gradient over depth; accuracy, dead and saturated units over training; Lu et al.'s probability of being born
          dead; learned slopes as in He et al. 2015, Table 1
Command:  python -m experiments.activations
Minutes:  2 on two cores (smoke: 20 seconds; paper: 20,000 steps of .4 s at 5 layers and 1.4 s at 30, of
          24 networks on one core; about 30 hours; the 64,000 steps of learned slopes not timed)
Expected: squared gradients follow chi_1 = E[phi'^2] / E[phi^2] for nine activations; SELU keeps a variance of 1 without
          a gain; of ReLU networks of width 3 and 10 layers between .513 and .699 are born dead; a large rate kills a
          living ReLU network and not a leaky one; parametric ReLU learns its largest slopes in the first layer.

Weights have variance gain^2 / n with 1 / gain^2 = E[phi(z)^2], He's initialization for any activation, so that all
networks start with the same signal. What then differs is the gradient: its square changes by chi_1 a layer.
"""
