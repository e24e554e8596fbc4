"""Long training in stretches: between two of them a run says how far it is, saves for `--resume`, and can be stopped.

A compiled program cannot be interrupted, so training of hours is many runs of one program. Training that is no longer
than a stretch is a single one, as if this module were not there.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradflow as gf
from experiments.framework import progress, resume

__all__ = ["in_stretches", "take"]

WORK = 2e12  # floating-point operations of a stretch: half a minute to two minutes on one core
SAID = 30.0  # seconds from one line about the progress to the next
SAVED = 60.0  # seconds from one file to the next; whatever ends a run early saves at once
WORTH = 10.0  # seconds of training that are worth a file when they are over

Tree = Any
Advance = Callable[[Tree, int], tuple[Tree, Tree]]


class _Course(NamedTuple):
    """How far training has come: steps done, its state, and the records so far; None and None before the start.

    After the last step, what is kept of the state takes its place.
    """

    done: int
    state: Tree
    records: Tree


def _nothing(state: Tree) -> None:
    """Keep nothing of the last state."""


def in_stretches(
    name: str,
    advance: Advance,
    *,
    steps: int,
    every: int,
    work: float,
    axis: int = 0,
    sums: bool = False,
    end: Callable[[Tree], Tree] = _nothing,
) -> tuple[Tree, Tree]:
    """Train, and go on from what a stopped run of the same settings has saved.

    Args:
        name: of the training, unlike those of all others of the experiment.
        advance: (state, count) -> (state, records): `count` further steps; the state None stands for the start. Where
            `count` is a multiple of `every`, 0 among them, records have count / every rows and that of the last state;
            else they are None. It can be traced.
        steps: of the whole training, a multiple of `every`.
        every: steps from one record to the next.
        work: floating-point operations a step, about; stretches have `WORK` of them.
        axis: of the rows in every record.
        sums: whether a row is not of one state but of `every` steps. There is none of the last state then, and a
            stretch has at least `every` steps.
        end: the last state to what is kept of it; it can be traced.

    Returns:
        What `end` gives, and the records of all steps, as NumPy arrays.

    Raises:
        Stopped: if another part of the experiment has failed or was interrupted.
    """
    length = _length(every, work, whole=sums)
    file = resume.file(name)
    course = _read(file, advance, steps, end) if file is not None and file.exists() else _Course(0, None, None)
    if course.done == steps:
        return course.state, course.records
    began = said = saved = time.monotonic()
    written = course.done
    try:
        while course.done < steps:
            progress.check_stopping()
            count = min(length, steps - course.done)
            started = time.monotonic()
            course = _further(course, advance, count, every, axis, last=course.done + count == steps)
            now = time.monotonic()
            if now - said >= SAID:
                said = now
                each = (now - started) / count
                progress.stage(f"{name}: {course.done:,} of {steps:,} steps, {each:.2g} s each")
            if file is not None and now - saved >= SAVED:
                _write(file, course)
                saved, written = now, course.done
        ended = course._replace(state=jax.device_get(end(course.state)))
    except BaseException:
        if file is not None and course.done > written:
            _write(file, course)
        raise
    if file is not None and time.monotonic() - began >= WORTH:
        _write(file, ended)
    return ended.state, ended.records


def take(
    step: gf.training.Step,
    state: gf.training.TrainState,
    source: Any,
    steps: int,
    *,
    every: int,
    record: Callable[[gf.training.TrainState], Tree],
    data_key: Any = None,
) -> tuple[gf.training.TrainState, Tree]:
    """Take steps by `gf.training.run`, and look at the state as `in_stretches` wants it; pure, for `jit` and `vmap`.

    Args:
        step: as `gf.training.run` takes it.
        state: the same.
        source: the same.
        steps: the same.
        every: steps from one record to the next.
        record: state to what is kept of it.
        data_key: as `gf.training.run` takes it.

    Returns:
        The state, and the records; None for steps that are no multiple of `every`.
    """
    if steps % every:
        return gf.training.run(step, state, source, steps, every=steps, data_key=data_key)[0], None
    state, _, found = gf.training.run(step, state, source, steps, every=every, data_key=data_key, record=record)
    return state, found


def _length(every: int, work: float, *, whole: bool) -> int:
    """Steps of a stretch: a multiple of `every`, or a divisor of it."""
    affordable = max(1, int(WORK / work))
    if whole or affordable >= every:
        return max(1, affordable // every) * every
    return max(count for count in range(1, affordable + 1) if every % count == 0)


def _further(course: _Course, advance: Advance, count: int, every: int, axis: int, *, last: bool) -> _Course:
    """Go on for some steps, and keep each row once."""
    if count % every == 0:
        state, rows = jax.block_until_ready(advance(course.state, count))
        return _Course(course.done + count, state, _joined(course.records, jax.device_get(rows), count // every, axis))
    state, records = course.state, course.records
    if course.done % every == 0:
        state, row = advance(state, 0)
        records = _joined(records, jax.device_get(row), 1, axis)
    state, _ = jax.block_until_ready(advance(state, count))
    if last:
        state, row = advance(state, 0)
        records = _joined(records, jax.device_get(row), 1, axis)
    return _Course(course.done + count, state, records)


def _joined(before: Tree, rows: Tree, count: int, axis: int) -> Tree:
    """Put rows behind those before; one more than `count` of them stands for the last of those before."""

    def both(before: np.ndarray, now: np.ndarray) -> np.ndarray:
        twice = now.shape[axis] - count
        kept = np.take(before, range(before.shape[axis] - twice), axis)
        return np.concatenate([kept, now], axis)

    return rows if before is None else jax.tree.map(both, before, rows)


def _write(file: Path, course: _Course) -> None:
    """Write everything under another name first, so that there is a whole file at any moment."""
    arrays = {"done": np.array(course.done)}
    for part in ("state", "records"):
        leaves = map(_data, jax.tree.leaves(getattr(course, part)))
        arrays |= {f"{part}_{number}": np.asarray(leaf) for number, leaf in enumerate(leaves)}
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    with partial.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)
    os.replace(partial, file)


def _read(file: Path, advance: Advance, steps: int, end: Callable[[Tree], Tree]) -> _Course:
    """Read what `_write` wrote; only what `advance` and `end` return knows the form of it."""
    state, records = jax.eval_shape(functools.partial(advance, None, 0))
    with np.load(file, allow_pickle=False) as arrays:
        done, parts = int(arrays["done"]), []
        forms = (jax.eval_shape(end, state) if done == steps else state, records)
        for part, form in zip(("state", "records"), forms, strict=True):
            leaves, tree = jax.tree.flatten(form)
            found = [_like(leaf, arrays[f"{part}_{number}"]) for number, leaf in enumerate(leaves)]
            parts.append(jax.tree.unflatten(tree, found))
    progress.stage(f"{file.stem}: goes on from step {done:,}")
    return _Course(done, *parts)


def _is_key(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _like(form: Any, data: np.ndarray) -> Any:
    return jax.random.wrap_key_data(jnp.asarray(data)) if _is_key(form) else data
