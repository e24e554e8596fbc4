"""Gradients over time: how far back recurrent networks can assign credit, before and after they have learned.

Paper:    Bengio et al. 1994; Hochreiter & Schmidhuber 1997; Pascanu et al. 2013; Le et al. 2015; Tallec & Ollivier 2018
Figure:   gradient over time steps, learning curves of the adding problem and of copy memory
Command:  python -m experiments.recurrent
Minutes:  14 on one core (smoke: 20 seconds; paper: 1.6 x 10^6 steps of .1 s for an LSTM over 150 time
          steps, in proportion for others, on one core; about 95 hours)
Expected: dL/dc_t of an LSTM of small weights falls by sigma(b) a step back: 7.9e-31, 2.5e-14, 3.1e-6 after 100 steps
          for a forget bias of 0, 1, 2, but .19 with chrono; on the adding problem (T = 100) LSTM, GRU and IRNN get
          below .02, a tanh RNN stays at 1/6; copy memory without memory: 10 ln 8 / (T + 20).

Everything is held against what theory says of it at initialization: the spectral radius below, at and above 1, the rate
chi_1 of a wide tanh RNN, rates of wide LSTMs and GRUs. These last assume weights drawn anew at every step; the rate is
measured with such weights and with shared ones, as networks have them, whose gradient reaches further back.
"""
