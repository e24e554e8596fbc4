"""Runs in processes of their own, which the tests kill, stop and let work together."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

import gradflow as gf
from tests.live.problems import batch, loss_fn, make_train_step, parameters


def main(folder: str, first: int, steps: int, every: int, pause: float) -> None:
    """Train, and say every step that was written on a line of its own."""
    watch = gf.watch(loss_fn, every=every, writers=[gf.live.Jsonl(Path(folder) / "run.jsonl")], statistics="output_rms")
    run, params = watch.jit(make_train_step(watch)), parameters()
    with watch:
        for step in range(first, first + steps):
            params, _, record = run(step, params, batch(step))
            watch.write(record)
            if step % every == 0:
                print(step, flush=True)
            time.sleep(pause)


def together(folder: str, port: int, process: int) -> None:
    """Train in one of two processes."""
    jax.distributed.initialize(f"localhost:{port}", 2, process)
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    path = Path(folder) / f"run{process}.jsonl"
    watch = gf.watch(loss_fn, every=2, writers=[gf.live.Jsonl(path)], statistics=("output_rms", "output_grad_rms"))
    run = watch.jit(make_train_step(watch), out_shardings=everywhere)
    params = jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, everywhere, lambda i: x[i]), parameters())
    with watch:
        for step in range(5):
            x = jax.make_array_from_callback((8, 5), split, lambda i, step=step: batch(step)[i])
            params, _, record = run(jnp.int32(step), params, x)
            watch.write(record)


if __name__ == "__main__":
    name, folder, *numbers = sys.argv[1:]
    if name == "together":
        together(folder, *map(int, numbers))
    else:
        first, steps, every, pause = numbers
        main(folder, int(first), int(steps), int(every), float(pause))
