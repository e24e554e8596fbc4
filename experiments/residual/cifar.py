"""He et al. 2016's networks for CIFAR-10, residual and plain, by their recipe.

Momentum .9, weight decay 1e-4, batch 128, rate .1, divided by 10 at half and at three quarters of the steps (32,000 and
48,000 of 64,000); ResNet-110 begins at .01 until its training error is below 80 %, here for 400 steps (their section
4.2). 45,000 images to train on, 5,000 held out, padding of 4, random crop and flip, the mean image subtracted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
import optax
from jaxtyping import Bool, Float, Int

import gradflow as gf
from experiments.framework import resume
from experiments.framework.claims import Claim
from experiments.framework.images import load
from experiments.framework.progress import track
from experiments.residual import bands

STEPS = 64_000
BATCH, HELD_OUT = 128, 5000
RATE, WARM_RATE, WARM_STEPS, WARM_DEPTH = 0.1, 0.01, 400, 110


@dataclasses.dataclass(frozen=True)
class Training:
    """He et al.'s networks on CIFAR-10, residual ones first; errors in %."""

    depths: Int[np.ndarray, " networks"]
    residual: Bool[np.ndarray, " networks"]
    steps: Int[np.ndarray, " records"]
    train_error: Float[np.ndarray, "networks records"]
    loss: Float[np.ndarray, "networks records"]
    test_error: Float[np.ndarray, " networks"]


def schedule(depth: int, steps: int) -> optax.Schedule:
    """Return the learning rate over steps.

    Args:
        depth: layers; from 110 on the rate begins low.
        steps: of the whole training.
    """
    rates, ends = [RATE, 0.1 * RATE, 0.01 * RATE], [steps // 2, 3 * steps // 4]
    if depth >= WARM_DEPTH:
        rates, ends = [WARM_RATE, *rates], [WARM_STEPS, *ends]
    return optax.join_schedules([optax.constant_schedule(rate) for rate in rates], ends)


def train(
    data: gf.data.ImageDataset, depth: int, *, residual: bool, steps: int, records: int, seed: int
) -> dict[str, np.ndarray]:
    """Train one network; in a run from the command line with checkpoints, for `--resume`.

    Args:
        data: CIFAR-10, or images of its form.
        depth: 6n + 2.
        residual: with skip connections (option A), or plain.
        steps: training steps, a multiple of `records`.
        records: points of the curves.
        seed: of weights, order of images, crops and flips.

    Returns:
        `train_error` (records,) in %, of the augmented images since the record before; `loss` (records,); `test_error`
        () in %, after the last step.
    """
    model = gf.models.ResNet(depth=depth, outputs=10, residual=residual, shortcut="A")
    loss = gf.training.classification(model)
    optimizer = gf.training.with_clipping_and_decay(optax.sgd(schedule(depth, steps), momentum=0.9), weight_decay=1e-4)
    normalization = data.normalization("pixel_mean")
    source = gf.data.on_device(
        data.train.images, data.train.labels, min(BATCH, len(data.train)), normalization=normalization,
        augment=gf.data.crop_and_flip,
    )  # fmt: skip
    test = normalization(jax.numpy.asarray(data.test.images)), jax.numpy.asarray(data.test.labels)
    state = gf.training.init(model, optimizer, jax.random.key(seed), test[0][:1])
    saved = resume.checkpoints(label((depth, residual)))
    fitted = gf.training.fit(
        loss, optimizer, state, source, steps, every=steps // records, validation=test, checkpoints=saved
    )
    return {
        "train_error": 100 * (1 - fitted.curve["accuracy"]),
        "loss": fitted.curve["loss"],
        "test_error": np.array(100 * (1 - fitted.validation["accuracy"][-1])),
    }


def measure(name: str, residual: Sequence[int], plain: Sequence[int], *, steps: int, seed: int) -> Training | None:
    """Train networks of several depths.

    Args:
        name: of the images.
        residual: depths of the residual networks.
        plain: depths of the plain ones.
        steps: training steps of each.
        seed: of everything.

    Returns:
        What was recorded; None if no network is asked for.
    """
    networks = [(depth, True) for depth in residual] + [(depth, False) for depth in plain]
    if not networks:
        return None
    data = load(name, validation=HELD_OUT)
    records = min(steps, 64)
    rows = [
        train(data, depth, residual=skip, steps=steps, records=records, seed=seed)
        for depth, skip in track(networks, "CIFAR-10", label)
    ]
    return Training(
        depths=np.array([depth for depth, _ in networks]),
        residual=np.array([skip for _, skip in networks]),
        steps=np.arange(1, records + 1) * (steps // records),
        **{key: np.stack([row[key] for row in rows]) for key in rows[0]},
    )


def label(network: tuple[int, bool]) -> str:
    """Name a network.

    Args:
        network: its depth, and whether it is residual.
    """
    return f"{'ResNet' if network[1] else 'plain'}-{network[0]}"


def claims(results: Training | None) -> list[Claim]:
    """Hold the test errors against He et al.'s table; only after all of their steps.

    Args:
        results: from `measure`, or none of it.

    Returns:
        One claim a residual network of the table, and one on plain networks of different depths.
    """
    if results is None or results.steps[-1] < STEPS:
        return []
    depths, skip = results.depths, results.residual
    found = [
        Claim(f"cifar-resnet-{depth}", f"ResNet-{depth}: test error, %", bands.cifar(depth), error)
        for depth, error in zip(depths[skip].tolist(), results.test_error[skip], strict=True)
        if depth in bands.CIFAR
    ]
    if (~skip).sum() > 1:
        plain = results.train_error[~skip, -1]
        worse = plain[depths[~skip].argmax()] - plain[depths[~skip].argmin()]
        line = "plain: training error of the deepest minus the shallowest, %"
        found.append(Claim("cifar-degradation", line, bands.cifar_degradation(), worse))
    return found
