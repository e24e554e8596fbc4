"""Results of `overhead`."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int, Shaped


@dataclasses.dataclass(frozen=True)
class Deep:
    """Networks written as a scan over layers, ten and thousands; memory is plain and instrumented.

    Attributes:
        depths: layers.
        compile_seconds: of the instrumented step.
        step_seconds: of it.
        memory_bytes: temporary, plain and instrumented.
        profile: rms of the cotangent at every layer of the deeper one.
    """

    depths: Int[np.ndarray, "2"]
    compile_seconds: Float[np.ndarray, "2"]
    step_seconds: Float[np.ndarray, "2"]
    memory_bytes: Int[np.ndarray, "2 2"]
    profile: Float[np.ndarray, " layers"]


@dataclasses.dataclass(frozen=True)
class Results:
    """What a run gives.

    Attributes:
        shrink: what the networks' sizes are divided by.
        cases: names of the networks.
        seconds: a step: plain, instrumented, instrumented for one statistic, instrumented without the kernel.
        native: whether the kernel for CPUs formed the statistics.
        time_ratio: instrumented over plain.
        time_ratio_reference: the same without the kernel.
        time_ratio_alone: instrumented for one statistic over plain.
        compile_seconds: of the four programs.
        memory_bytes: temporary memory of the four programs.
        floors: by network, step time over plain if every array that is reduced were read once more, at the speed of
            memory, and nothing else cost anything.
        statistics: names.
        by_statistic: of each alone, by network: step time, time to compile and temporary memory, over plain.
        like: gradflow with the numbers of the alternatives that it has, over plain, by network.
        flax: Flax's perturb over plain, by network.
        flax_memory: memory of that over memory of plain, by network.
        torch: PyTorch with hooks over plain, by network, where it is installed.
        deep: a network of thousands of layers, and one of ten.
    """

    shrink: int
    cases: Shaped[np.ndarray, " cases"]
    native: bool
    seconds: Float[np.ndarray, "cases 4 rounds"]
    time_ratio: Float[np.ndarray, "cases rounds"]
    time_ratio_reference: Float[np.ndarray, "cases rounds"]
    time_ratio_alone: Float[np.ndarray, "cases rounds"]
    compile_seconds: Float[np.ndarray, "cases 4"]
    memory_bytes: Int[np.ndarray, "cases 4"]
    floors: dict[str, float]
    statistics: Shaped[np.ndarray, " statistics"]
    by_statistic: dict[str, Float[np.ndarray, "statistics 3"]]
    like: dict[str, Float[np.ndarray, " rounds"]]
    flax: dict[str, Float[np.ndarray, " rounds"]]
    flax_memory: dict[str, float]
    torch: dict[str, Float[np.ndarray, " rounds"]]
    deep: Deep
