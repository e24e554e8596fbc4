"""A gradient dies in a deep sigmoid network, and each classical remedy is held against it.

Paper:    Glorot & Bengio 2010; He et al. 2015; Ioffe & Szegedy 2015; He et al. 2016; Schoenholz et al. 2017
Figure:   gradient over layers as in Glorot & Bengio Figs 7-9; chi_1 of Schoenholz et al.; learning curves
Command:  python -m experiments.vanishing
Minutes:  1 on two cores, compilation included (smoke: 20 seconds; paper: 15 networks of 10,000 steps of .03 s on one
          core, about 1.6 hours)
Expected: squared gradient of the sick network times 0.020 a layer (chi_1), first/last ratio of its rms 7e-17;
          its test accuracy stays at .10 while that of every cured network passes .5; rates of the tanh table
          .759/.880/1.000/1.134/1.342.

The sick network: 20 hidden layers of 100 sigmoid units, weights from U(+-1/sqrt(fan_in)), biases 0, plain
gradient descent on the cross-entropy of Fashion-MNIST images. Each arm changes what its name says and
nothing else: same images in the same order, same rate, same number of steps.

Backpropagation multiplies the squared gradient by chi = sigma_w^2 E[phi'(z)^2] a layer, sigma_w^2 = n
Var[W]. The sick network has sigma_w^2 = 1/3 and phi' <= 1/4. Better initialization alone cannot cure it
(chi <= 2/16), and neither can ReLU alone (chi = 1/6); together they can (chi = 1). Skip connections and
batch norm cure it as it stands. Theory predicts the ratio of first to last gradient for each of them, and
that is what the claims hold the measured ratio against.
"""
