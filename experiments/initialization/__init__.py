"""Initialization: what keeps signal and gradient alive from layer to layer, and what follows for training.

Paper:    Glorot & Bengio 2010; He et al. 2015; Mishkin & Matas 2016; Hanin & Nica 2018
Figure:   Glorot & Bengio Figs 6, 7 and 8; He et al. Figs 2 and 3; at `paper` Table 1 of Glorot & Bengio
Command:  python -m experiments.initialization
Minutes:  1 on two cores (smoke: 20 seconds; paper: 20,000 steps of .2 s at 30 layers, 1.2 hours; for Table 1 10^6
          steps of .17 s a row on MNIST, 47 hours on one core, .26 s on CIFAR-10, 73 hours)
Expected: mean singular value of a layer's Jacobian about .5 (standard) and .8 (normalized); 22 ReLU layers learn
          from He and, later, from Xavier, 30 only from He; ln |J u|^2 of ReLU networks 100 wide has variance .52,
          1.04 and 2.08 after 10, 20 and 40 layers.

Glorot & Bengio's networks are 5 tanh layers of 1,000 units, without biases, from U(+-1/sqrt(n)), the "standard" of
2010, or from their normalized U(+-sqrt(6/(n + m))). He et al. train convolutional networks on ImageNet; here they are
fully connected, 256 wide, as a width of 100 is too noisy at 30 layers (the last figure), and Xavier's 30 layers begin
to learn in the end instead of never. Networks of a depth see the same images in the same order. LSUV goes through the
instrument, which finds layers and the variances of their outputs.
"""
