"""What instrumenting a training step costs: time, memory, compilation, beside the alternatives.

Paper:    none; the figures of merit are the design's targets, and those published by the peers
Figure:   step time with the instrument over step time without, by network; the same for Flax's and PyTorch's own means
Command:  python -m experiments.overhead
          python -m experiments.overhead.roofline    what a GPU should show, by arithmetic
Minutes:  7 on two cores, compilation included, and nothing else running (smoke: 20 seconds)
Expected: with the kernel for CPUs time ratio at most 1.10 (MLP 20 x 512, batch 256), 1.13 (MLP 50 x 100, batch 128),
          1.09 (LSTM, T = 100), 1.05 (ResNet-20, batch 128); temporary memory at most 1.01; compile time at most 1.5.
          Which of them are met, and by how much the others are missed, stands in docs/results/overhead.md.
Alone:    yes; it measures the machine

Every network is compiled with `jit(value_and_grad(loss))`, with `jit(value_grad_and_flow(loss))`, with that for
`output_grad_rms` alone, and without the kernel. The four run in turn, round by round. The figure quoted is the median
over rounds of the ratio within a round, so that what else the machine does hits all. The alternatives are what a user
has today: Flax's `capture_intermediates` with `perturb`, which needs an edited model, and hooks in PyTorch where that
happens to be installed. Both record three numbers a value and cotangent; beside them stands the instrument with four of
these six. A further table gives the cost of each statistic alone. The floor is arithmetic: every array that is reduced
is read once more, at the speed at which a sum reads memory.

Unlike other experiments this one measures the machine: its data differ from run to run.
"""
