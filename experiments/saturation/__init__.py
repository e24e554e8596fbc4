"""Saturation: which layers of a deep network of 2010 stop passing gradients while it trains, and when.

Paper:    Glorot & Bengio 2010
Figure:   Glorot & Bengio Figs 2, 3 and 4: activations by layer over training, and their histograms at the end
Command:  python -m experiments.saturation
Minutes:  1.5 on two cores (smoke: 20 seconds; paper: 5 networks of 10^6 steps of .034 to .057 s on one core, about 60
          hours)
Expected: sigmoid, 4 layers: the top layer's mean activation is pushed below .06, the lower ones' stay at .5 or above,
          and the network is at chance until it escapes; with 5 layers it does not escape; tanh saturates layer by
          layer from the first; softsign piles up at .6 to .8 and not at its limits.

Networks start from the "standard" U(+-1/sqrt(n)) of 2010, which lets signal and gradient shrink by sqrt(3) or more a
layer, and are trained by plain gradient descent in batches of 10. The upper layers of sigmoids see almost nothing of
the input, the output layer learns to ignore them, and that pushes the top layer toward 0, where a sigmoid saturates.
Activations are looked at on 300 test images, as in the paper, whose images were other ones (Shapeset-3x2).
"""
