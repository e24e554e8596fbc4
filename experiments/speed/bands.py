"""Bands of the claims of `speed`: the project's targets for how long a training step and a compilation may take."""

from __future__ import annotations

from experiments.framework.claims import Band, goal

TARGETS = {"lstm": 1.0, "gru": 0.7, "rnn": 0.7, "mlp": 1.0, "resnet-20": 1.3}


def time(name: str) -> Band:
    """Median over rounds of the step time over PyTorch's.

    Args:
        name: of the network, one of `TARGETS`.
    """
    return goal("target: no slower than PyTorch on the same cores, ResNet-20 nearly so", high=TARGETS[name])


def scanned() -> Band:
    """Step time of a scanned stack of convolutions over that of the unrolled one."""
    return goal("target: a scan over layers costs little", high=1.5)


def many_runs() -> Band:
    """Many small runs one after the other over the same in one program, compilation included."""
    return goal("target: a sweep is one program", low=5.0)


def deep_compilation() -> Band:
    """Compilation of 10,000 scanned layers over that of 10: the program is the same."""
    return goal("target: layers in a scan are compiled once", high=1.3)
