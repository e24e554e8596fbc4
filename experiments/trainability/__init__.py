"""How deep a network can be trained, told beforehand: accuracy over depth and weight variance against 6 xi_c.

Paper:    Poole et al. 2016; Schoenholz et al. 2017; Yang et al. 2019; Zhang et al. 2022
Figure:   Schoenholz et al. Fig. 5 (heat map with 6 xi_c); Poole et al. Figs 1, 2 (q*, c*, chi_1, convergence)
Command:  python -m experiments.trainability
Minutes:  2.5 on two cores (smoke: 20 seconds; paper: 45,000 steps of .5 s at 10 layers and 1.2 s at 100,
          of 31 networks on one core, 1 to 1.6 s with a remedy; at 10 to 300 layers about 120 days)
Expected: tanh networks learn where depth < 6 xi_c (Schoenholz et al.) and stay at chance beyond twice that, 6 xi_c
          22 ... 151 ... 42 over sigma_w^2 = 1 ... 4; ReLU is at its best at sigma_w^2 = 2 (He et al.); squared
          gradients of finite networks follow chi within the law of finite widths; 1.467 a layer with batch norm and
          ReLU (Yang et al.).

z_l = W_l phi(z_(l-1)) + b_l with W ~ N(0, sigma_w^2 / n) and b ~ N(0, sigma_b^2). Two inputs come closer or apart by
the correlation map, whose slope at its fixed point c* sets the depth xi_c over which a network forgets what it was
shown; a network trains if it is not much deeper than 6 xi_c.

Training: a grid of tanh networks, depth x sigma_w^2, sigma_b^2 = 0.05, plain gradient descent, the networks of one
depth side by side as one vmapped program. The networks are 100 wide, and theory is one of infinite width: at 100 layers
and more they stray from it, so the grid ends there. The same, smaller, for ReLU, GELU and tanh with batch norm.
Signal: fixed points, how q_l and c_l approach them, gradients over depth; each measured on finite networks at
initialization and held against theory, with bands from the theory of finite widths.

GELU has no stable critical point: from sigma_w^2 of about 2 the signal either dies or grows, and finite networks decide
by chance; its profiles are taken to either side.
"""
