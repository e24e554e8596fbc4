"""The tasks of `recurrent`: adding, as first posed and as posed today, copy memory, and images read as sequences."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

import gradflow as gf
from experiments.recurrent import training
from experiments.recurrent.training import Problem, Setup, Trained
from gradflow.data import Batch
from gradflow.data.sequences import Adding, AddingOriginal, CopyMemory, Task

HELD_OUT = 1000


class Training(NamedTuple):
    """How networks are trained on a task.

    Attributes:
        hidden: units.
        batch: sequences a step.
        updates: training steps.
        every: of them between two records.
        seed: of everything.
    """

    hidden: int
    batch: int
    updates: int
    every: int
    seed: int


READINGS = ("rows", "pixels", "permuted pixels")


def adding(length: int, arms: Sequence[str], options: Training) -> Trained:
    """Train on the adding problem.

    Args:
        length: T.
        arms: names of networks.
        options: of training.
    """
    return _drawn("adding", Adding(length), length, arms, options)


def original(length: int, arms: Sequence[str], options: Training) -> Trained:
    """Train on the adding problem as Hochreiter & Schmidhuber posed it.

    Args:
        length: least length of a sequence.
        arms: names of networks.
        options: of training.
    """
    task = AddingOriginal(length)
    return _drawn("original", task, task.longest, arms, options)


def copy(pause: int, arms: Sequence[str], options: Training) -> Trained:
    """Train on copy memory.

    Args:
        pause: T.
        arms: names of networks.
        options: of training.
    """
    return _drawn("copy", CopyMemory(pause), pause + 20, arms, options)


def images(data: gf.data.ImageDataset, reading: str, arms: Sequence[str], options: Training) -> Trained:
    """Train on images, one row or one pixel a step.

    Args:
        data: the images.
        reading: one of `READINGS`.
        arms: names of networks.
        options: of training.
    """
    order = jax.random.key(options.seed)

    def read(split: gf.data.Split) -> Batch:
        scaled = jnp.asarray(data.normalize(split.images))
        sequences = {
            "rows": gf.data.sequences.rows,
            "pixels": gf.data.sequences.pixels,
            "permuted pixels": lambda x: gf.data.sequences.permuted_pixels(x, order),
        }[reading](scaled)
        return Batch(sequences, jnp.asarray(split.labels))

    train = read(data.train)
    source = gf.data.on_device(train.inputs, train.targets, options.batch)
    held_out = jax.tree.map(lambda x: x[:HELD_OUT], read(data.test))
    classes = len(data.class_names)
    setup = Setup(reading, train.inputs.shape[1], classes, False, False, options.hidden, options.updates, options.every)
    return training.measure(arms, setup, Problem(source, held_out), options.seed)


def _drawn(name: str, task: Task, steps: int, arms: Sequence[str], options: Training) -> Trained:
    source = gf.data.generate(task, options.batch)
    held_out = task.sample(jax.random.fold_in(jax.random.key(options.seed), 1), HELD_OUT)
    every_step = isinstance(task, CopyMemory)
    setup = Setup(
        name, steps, task.outputs, not every_step, every_step, options.hidden, options.updates,
        options.every,
    )  # fmt: skip
    found = training.measure(arms, setup, Problem(source, held_out), options.seed)
    return dataclasses.replace(found, baseline=task.baseline())
