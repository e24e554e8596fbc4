"""Bands of the claims of `overhead`: the project's targets for what watching a training step may cost."""

from __future__ import annotations

from experiments.framework.claims import Band, goal

# With the kernel for CPUs. 80 MB are read a step at 20 x 512: 1.05 at 40 GB/s, whatever the kernel.
TIME_TARGETS = {"mlp 20 x 512": 1.10, "mlp 50 x 100": 1.13, "lstm T = 100": 1.09, "resnet-20": 1.05}
SOURCE = "target: a step that is watched costs about what a plain one does"


def time(name: str) -> Band:
    """Median over rounds of the step time, instrumented over plain.

    Args:
        name: of the network, one of `TIME_TARGETS`.
    """
    return goal(SOURCE, high=TIME_TARGETS[name])


def memory() -> Band:
    """Temporary memory, instrumented over plain: no statistic may keep an activation alive."""
    return goal(SOURCE, high=1.01)


def compilation() -> Band:
    """Time to trace and compile a step, instrumented over plain."""
    return goal(SOURCE, high=1.5)


def deep_compilation() -> Band:
    """Compilation of thousands of scanned layers over that of ten: the program is the same."""
    return goal("target: layers in a scan are compiled once", high=1.5)
