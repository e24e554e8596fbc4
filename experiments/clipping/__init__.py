"""Gradients that explode, and clipping: cliffs in the error surface, spikes of the norm, and what is learned.

Paper:    Pascanu, Mikolov & Bengio 2013; Zhang et al. 2020; Brock et al. 2021
Figure:   Pascanu et al. Figs 6 and 7; Zhang et al. Fig. 1; norms over training
Command:  python -m experiments.clipping
Minutes:  3.5 on two cores (smoke: 20 seconds; paper: 7 x 10^6 steps of .1 s, about 8 days)
Expected: one recurrent unit: a cliff along b = .5 - w s(.5), s the logistic function; gradients over time vanish
          where the spectral radius is below 1 (Pascanu et al.), and may where it is above; temporal order over 50
          steps: clipping lowers the error by more than .2, and only clipped networks learn it.

A cliff throws plain descent far off, since the step is the gradient times the rate; a clipped step is never longer
than the limit times the rate. Clipping is by the norm of the whole gradient, by value, or by the norm of each unit's
gradient relative to its weights (adaptive). Networks that are compared have the same weights at first, and see the same
sequences.
"""
