"""Dynamical isometry: networks whose Jacobian turns without stretching learn at any depth, as fast as shallow ones.

Paper:    Saxe et al. 2014; Pennington et al. 2017, 2018; Xiao et al. 2018
Figure:   Saxe et al. Figs 3 and 6; Pennington et al. 2018, Fig. 1; Pennington et al. 2017, Fig. 2; Xiao et al. Fig. 1
Command:  python -m experiments.isometry
Minutes:  2 on two cores (smoke: 20 seconds; paper: 10,000 steps of 2.1 s at 50 layers on one core, 5.9 hours; at 200
          layers and CNNs not timed)
Expected: u(t) = s e^(2st) / (e^(2st) - 1 + s/u_0) within .01; learning time of orthogonal linear networks about the
          same at 10 and at 100 layers; singular values of orthogonal products all 1, of Gaussian ones E[s^4] = L + 1
          and edge sqrt((L+1)^(L+1) / L^L); a 200-layer tanh network learns some times faster from orthogonal weights
          than from Gaussian ones; a plain CNN of 1,000 layers learns from delta-orthogonal kernels only.

Critical weights keep the mean square of the gradient; isometry keeps all of it. The same networks are drawn here from
orthogonal and from Gaussian weights of equal variance: linear ones (exact dynamics), fully connected ones (spectra, as
free probability predicts them; learning), and convolutional ones, 16 channels, whose images are cut into patches of
4 x 4 pixels.

How far one network of such a width strays from theory is theory, too (`gf.theory.width_profile`). ln of the squared
gradient walks at random over the layers; for tanh and orthogonal kernels of C channels its variance is about
30 q*^2 L / C, so that at the variances of Pennington's 200 layers (q* = .026) 10,000 layers of 16 channels would stray
by a factor of 5. `gf.theory.best_variances` gives every depth variances of its own, q* falling as L^(-1/2): then the
factor is 1.3 at any depth. Gaussian kernels add 2 / C a layer of their own, and do not even keep the mean square.
"""
