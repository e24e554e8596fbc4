"""Small networks, and a loop that trains them under a watch."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np

WIDTHS = (5, 7, 6, 3)
NAMES = ("first", "second", "head")


def parameters(seed=0, widths=WIDTHS, names=NAMES):
    random = np.random.default_rng(seed)
    return {
        name: {"kernel": jnp.asarray(random.normal(size=shape).astype(np.float32) / 2), "bias": jnp.zeros(shape[1])}
        for name, shape in zip(names, itertools.pairwise(widths), strict=True)
    }


def loss_fn(params, x):
    for name in NAMES:  # not params.values(), which jit sorts
        layer = params[name]
        x = jnp.tanh(x @ layer["kernel"] + layer["bias"])
    return jnp.mean(jnp.square(x - 0.5))


def batch(step):
    return jnp.asarray(np.random.default_rng(1000 + step).normal(size=(8, WIDTHS[0])).astype(np.float32))


def make_train_step(differentiate, rate=0.1):
    """A step of plain gradient descent, by a watch or by `jax.value_and_grad`."""

    def train_step(step, params, x):
        value, grads, *record = differentiate(step, params, x)
        params = jax.tree.map(lambda p, g: p - rate * g, params, grads)
        return params, value, *record

    return train_step


class Collected:
    """A writer that keeps what it gets."""

    def __init__(self):
        self.flows, self.closed = {}, 0

    def write(self, flow, step):
        assert step not in self.flows
        self.flows[step] = flow

    def close(self):
        self.closed += 1


class Snapshots:
    """A writer that keeps whole snapshots and post-mortems."""

    def __init__(self):
        self.taken, self.postmortems = {}, []

    def write(self, flow, step):
        raise AssertionError("write_snapshot stands for it")

    def write_snapshot(self, snapshot):
        self.taken[snapshot.step] = snapshot

    def write_postmortem(self, postmortem):
        self.postmortems.append(postmortem)


class FullDisk:
    """A file on a disk that takes a hundred bytes more of each piece."""

    def __init__(self, file):
        self.fileno, self.file, self.close = file.fileno, file, file.close

    def write(self, data):
        self.file.write(data[:100])
        raise OSError("No space left on device")
