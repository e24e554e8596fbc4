"""How long a training step of each model takes, beside stock Flax and PyTorch.

Paper:    none; the figures of merit are the targets below
Figure:   step time over PyTorch's, by network; a scan over convolutions; many runs as one program
Command:  python -m experiments.speed
Minutes:  4 on two cores, compilation included, and nothing else running (smoke: 20 seconds)
Expected: step time over PyTorch's at most 1.0 (LSTM), .7 (GRU), .7 (simple RNN), 1.0 (MLP), 1.3 (ResNet-20); a scanned
          stack of convolutions at most 1.5 of the unrolled one; 8 x 8 small runs in one program at least 5 times as
          fast as one after the other, compilation included; 10,000 scanned layers compiled in at most 1.3 of the time
          of 10. Which are met stands in docs/results/speed.md.
Alone:    yes; it measures the machine

Each side makes the same step: forward, cross-entropy, gradients, plain gradient descent, on the same sizes (batch 64,
100 steps, 128 features and units; 20 layers of 512, batch 256; ResNet-20 on 32x32x3, batch 128). They run in turn,
round by round, and the figure quoted is the median over rounds of the ratio within a round. PyTorch is measured where
it happens to be installed, and claims against it are made only there. A further side cuts the batch over the cores, of
which each is a device (`jax_num_cpu_devices`), by `shard_map`. Absolute times are the machine's.
"""
