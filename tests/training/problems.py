"""Tiny problems, in plain JAX so that processes start fast, and what the tests let other processes do."""

from __future__ import annotations

import itertools
import multiprocessing
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradflow as gf
from gradflow import training
from gradflow.training import Checkpoints, Mean

WIDTH, BATCH = 6, 8
# Not Adam: the one of Optax breaks the strict promotion that the tests run under.
OPTIMIZER = training.with_clipping_and_decay(
    optax.rmsprop(lambda count: 3e-3 * 0.995 ** count.astype(jnp.float32), momentum=0.9),
    weight_decay=1e-3,
    clip_norm=1.0,
)


def parameters(depth=2, width=WIDTH, seed=0):
    random = np.random.default_rng(seed)
    widths = [width] * (depth + 1) + [1]
    kernels = [(random.normal(size=(n, m)) / np.sqrt(n)).astype(np.float32) for n, m in itertools.pairwise(widths)]
    return {
        f"Dense_{i}": {"kernel": jnp.asarray(w), "bias": jnp.asarray(np.zeros(w.shape[1], np.float32))}
        for i, w in enumerate(kernels)
    }


def outputs(params, x):
    *hidden, last = params.values()
    for layer in hidden:
        x = jnp.tanh(x @ layer["kernel"] + layer["bias"])
    return (x @ last["kernel"] + last["bias"])[:, 0]


def loss_fn(params, model_state, batch, key, *, train=True):
    """Squared error of a tanh network that sees noise and centres its inputs by a running mean."""
    x, y = batch
    mean = 0.9 * model_state["mean"] + 0.1 * x.mean(0) if train else model_state["mean"]
    noise = 0.1 * jax.random.normal(key, x.shape) if train else jnp.zeros(x.shape)
    losses = jnp.square(outputs(params, x - mean + noise) - y)
    return losses.mean(), ({"loss": Mean(losses.sum(), jnp.float32(len(x)))}, {"mean": mean})


def batch(key, step):
    x = 1 + jax.random.normal(jax.random.fold_in(key, step), (BATCH, WIDTH), jnp.float32)
    return x, jnp.sin(x.sum(1))


def watch(every, **options):
    statistics = ("output_rms", "output_grad_rms", "weight_rms", "weight_grad_rms")
    return gf.watch(every=every, **{"statistics": statistics, **options})


def start(optimizer=OPTIMIZER, depth=2, seed=0):
    return training.start(parameters(depth), optimizer, jax.random.key(seed), {"mean": jnp.zeros(WIDTH, jnp.float32)})


def leaves(fitted):
    """Everything that a run leaves behind, as NumPy arrays."""
    state = fitted.state._replace(key=jax.random.key_data(fitted.state.key))
    arrays = {f"state{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
    for kind in ("curve", "validation"):
        curve = getattr(fitted, kind)
        arrays[kind] = np.stack([curve.steps, curve.totals["loss"], curve.counts["loss"]])
    if fitted.flow is not None:
        arrays |= {"flow/steps": fitted.flow.steps, **{f"flow/{k}": v for k, v in fitted.flow.values.items()}}
    return arrays


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name, strict=True)


class Slow:
    """Batches that keep the host waiting, so that a run takes a while, and tell when all is compiled."""

    def __init__(self, seconds, compiled):
        self.seconds, self.compiled, self.calls = seconds, compiled, 0

    def window(self, first, count):
        self.calls += 1
        if self.calls == 3:
            self.compiled.touch()
        time.sleep(self.seconds)
        return jax.tree_util.Partial(batch)


def run(folder: Path, name: str, steps: int, pause: float) -> None:
    """A process that trains, resuming where it can; what it compiles is kept beside the folder for those after it."""
    keep_compiled(folder.parent)
    fitted = fit(folder / "run", Slow(pause, folder / f"{name}.compiled"), steps, None)
    np.savez(folder / f"{name}.npz", **leaves(fitted))


def run_together(folder: Path, port: int, process: int, processes: int) -> None:
    """One of some processes that train together, and then go on from what they have saved."""
    keep_compiled(folder / f"of{process}")
    mesh = training.join(f"localhost:{port}", processes, process)
    fit(folder / "run", batch, 20, mesh)
    fitted = fit(folder / "run", batch, 40, mesh)
    np.savez(folder / f"process{process}.npz", **leaves(fitted))


def keep_compiled(folder: Path) -> None:
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def fit(folder, source, steps, mesh):
    return training.fit(
        loss_fn,
        OPTIMIZER,
        start(),
        source,
        steps,
        every=5,
        watch=watch(10),
        checkpoints=Checkpoints(folder, every_steps=10, keep=2, resume=True),
        validation=jax.tree.map(np.asarray, batch(jax.random.key(9), 0)),
        validate_every=20,
        mesh=mesh,
        progress=False,
    )


def processes():
    """Processes forked off one that has imported everything and computed nothing yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["orbax.checkpoint", "tests.training.problems"])
    return context


def begin(target, *args):
    process = processes().Process(target=target, args=args)
    process.start()
    return process


def wait_for(path: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path.name} after {seconds} s"
        time.sleep(0.005)
