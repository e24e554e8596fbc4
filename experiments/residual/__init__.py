"""Skip connections: depth stops hurting, gradients come by short paths, and stay alike at inputs that are alike.

Paper:    He et al. 2016; Veit et al. 2016; Balduzzi et al. 2017; Zhang et al. 2019 (Fixup); De & Smith 2020
          (SkipInit); Bachlechner et al. 2020 (ReZero)
Figure:   He et al. Figs 6 and 7, gradient over blocks before training, Veit et al. Fig. 3; Veit et al. Fig. 6; Balduzzi
          et al. Figs 1 and 2 with and without batch normalization, and correlation over depth; signal, gradient and
          training without normalization
Command:  python -m experiments.residual
Minutes:  1 on two cores (smoke: 20 seconds; paper: 20,000 steps of .07 to .19 s on one core, .4 to 1 hours a network;
          for He et al.'s Table 6 64,000 steps of 1.2 s for ResNet-20, 21 hours, in proportion for others)
Expected: a plain network's training error grows with depth, a residual one's does not; deleting one block of 54 costs
          nothing, deleting one of a plain network everything; before training the squared gradient grows by 1.49 a
          plain block toward the input, by 1.04 a residual one; the gradient comes by paths through about 5 to 17 of
          54 branches, 0.45 % of all paths; correlations of gradients fall as 2^-L (plain), (3/4)^L (residual) for
          unrelated inputs, about L^(-1/2) (residual + batch norm); along a line of inputs batch normalization shatters
          a plain network of 24 blocks (0 at the next point), a residual one of 50 less (.5; branches of .1: .8), and
          without it .88 is left in both; without normalization a residual stack doubles signal and gradient a block,
          one of 64 layers by ReZero, SkipInit or Fixup starts as the identity and trains.

Blocks are x -> x + W relu(batchnorm(x)), plain ones W relu(batchnorm(x)), 64 wide, on Fashion-MNIST: He et al.'s
comparison at a size that two cores train in minutes. Veit et al.'s sums over paths are exact here: one backward pass
splits the gradient by path length. Correlations are held against what the correlation map of ReLU predicts.
"""
