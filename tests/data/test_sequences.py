"""Sequence tasks against slow readings of their own sequences; baselines against Monte Carlo; images as sequences."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.data import sequences as tasks

TASKS = [
    tasks.Adding(9),
    tasks.AddingOriginal(30),
    tasks.TemporalOrder(50),
    tasks.TemporalOrder(100, symbols=3),
    tasks.TemporalOrder(60, symbols=6),
    tasks.CopyMemory(5),
    tasks.Latch(8),
    tasks.Latch(8, informative=1),
]
COUNT = 50_000
sample = jax.jit(lambda task, key, count: task.sample(key, count), static_argnums=(0, 2))


@pytest.fixture(scope="module", params=TASKS, ids=str)
def drawn(request):
    """A task with many sequences of it."""
    return request.param, jax.device_get(sample(request.param, jax.random.key(0), COUNT))


@pytest.mark.quick_cases(4)
def test_contract_of_every_task(drawn):
    task, batch = drawn
    assert isinstance(task, tasks.Task)
    assert batch.inputs.dtype == np.float32
    assert batch.inputs.shape[::2] == (COUNT, task.features)
    assert len(batch.targets) == COUNT
    if batch.targets.dtype == np.int32:
        assert set(np.unique(batch.targets)) == set(range(task.outputs)), "every class comes, no other does"
    else:
        assert batch.targets.shape == (COUNT, task.outputs)
    again, other = (sample(task, jax.random.key(seed), 20) for seed in (1, 2))
    np.testing.assert_array_equal(again.inputs, sample(task, jax.random.key(1), 20).inputs)
    assert not np.array_equal(again.inputs, other.inputs)


def test_baseline_against_monte_carlo(drawn):
    """Predicting the mean, or the frequencies of the classes at each step: within 5 standard errors."""
    task, batch = drawn
    if batch.targets.dtype == np.float32:
        squares = (batch.targets.astype(np.float64) - batch.targets.mean(dtype=np.float64)) ** 2
        assert abs(squares.mean() - task.baseline()) < 5 * squares.std() / math.sqrt(COUNT)
        return
    steps = batch.targets.reshape(COUNT, -1).T
    losses = []
    for step in steps:
        frequency = np.bincount(step, minlength=task.outputs) / COUNT
        losses.append(-np.sum(frequency[frequency > 0] * np.log(frequency[frequency > 0])))
    # The entropy of measured frequencies is low by about (classes - 1) / (2 count), with as large a spread.
    assert np.mean(losses) == pytest.approx(task.baseline(), abs=5 * task.outputs / COUNT)


def test_baselines_of_the_papers():
    assert tasks.Adding(100).baseline() == 1 / 6
    for pause, paper in ((100, 0.1733), (200, 0.0945), (500, 0.0400)):
        assert round(tasks.CopyMemory(pause).baseline(), 4) == paper


def read(task, inputs, length):
    """Solve a sequence by plain reading, step by step."""
    if isinstance(task, tasks.Adding):
        assert np.all((inputs[:, 0] >= 0) & (inputs[:, 0] <= 1))
        marked = np.flatnonzero(inputs[:, 1])
        assert marked[0] < task.length // 2 <= marked[1]
        assert len(marked) == 2
        return inputs[marked, 0].sum()
    if isinstance(task, tasks.AddingOriginal):
        assert np.all(inputs[length:] == 0)
        assert inputs[length - 1, 1] == -1
        marked = np.flatnonzero(inputs[:, 1] == 1)
        assert len(marked) == 2
        assert min(marked) < 10
        assert max(marked) < task.length // 2 - 1
        assert inputs[0, 1] == (1 if marked[0] == 0 else -1)
        return 0.5 + inputs[marked, 0].sum() / 4
    if isinstance(task, tasks.TemporalOrder):
        codes = inputs.argmax(1)
        assert np.all(inputs.sum(1) == 1)
        found = np.flatnonzero(codes >= 4)
        assert len(found) == task.symbols
        for place, (first, end) in zip(found, task.windows, strict=True):
            assert first <= place < end
        return int("".join(str(code - 4) for code in codes[found]), 2)
    if isinstance(task, tasks.CopyMemory):
        codes = inputs.argmax(1).tolist()
        assert codes[10:] == [8] * (task.pause - 1) + [9] + [8] * 10
        return [8] * (task.pause + 10) + codes[:10]
    assert np.all(np.abs(inputs[: task.informative]) == 1)
    return int(inputs[0, 0] > 0)


def test_targets_are_what_the_sequence_says(drawn):
    task, batch = drawn
    lengths = np.zeros(COUNT, int) if batch.lengths is None else batch.lengths
    for inputs, target, length in zip(batch.inputs[:300], batch.targets[:300], lengths[:300], strict=True):
        np.testing.assert_allclose(target, np.squeeze(read(task, inputs, length)), atol=1e-6)


def test_places_and_lengths_are_uniform():
    batch = jax.device_get(sample(tasks.AddingOriginal(30), jax.random.key(0), COUNT))
    assert set(batch.lengths) == {30, 31, 32, 33}
    marks = (batch.inputs[..., 1] == 1).mean(0)
    expected = np.where(np.arange(33) < 10, 0.1 + 0.9 / 13, np.where(np.arange(33) < 14, 1 / 13, 0))
    np.testing.assert_allclose(marks, expected, atol=5 * math.sqrt(0.17 / COUNT))
    zeroed = (batch.inputs[:, :10] == [0, 1]).all(-1).any(1).mean()
    assert zeroed == pytest.approx(0.1 + 0.9 / 13, abs=5 * math.sqrt(0.17 / COUNT))


def test_windows_of_the_paper():
    assert tasks.TemporalOrder(100).windows == ((10, 21), (50, 61))
    assert tasks.TemporalOrder(100, symbols=3).windows == ((10, 21), (33, 44), (66, 77))
    spread = tasks.TemporalOrder(60, symbols=6).windows
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spread))


def test_noise_of_the_latch_has_the_variance_asked_for():
    noise = sample(tasks.Latch(8, noise_variance=0.2), jax.random.key(0), COUNT).inputs[:, 3:]
    assert float(noise.mean()) == pytest.approx(0, abs=0.005)
    assert float(noise.var()) == pytest.approx(0.2, rel=0.01)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: tasks.Adding(1), "length of at least 2, got 1"),
        (lambda: tasks.AddingOriginal(20), "length of at least 24"),
        (lambda: tasks.TemporalOrder(50, symbols=1), "symbols of at least 2"),
        (lambda: tasks.CopyMemory(0), "pause of at least 1"),
        (lambda: tasks.Latch(3), "length of at least 4"),
        (lambda: gf.data.generate(tasks.Adding(5), 0), "batch size of at least 1"),
    ],
)
def test_impossible_tasks_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_images_as_sequences():
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 2)).astype(np.uint8)
    rows, pixels = tasks.rows(images), tasks.pixels(images)
    assert (rows.shape, pixels.shape, pixels.dtype) == ((3, 4, 10), (3, 20, 2), jnp.uint8)
    np.testing.assert_array_equal(rows[1, 2], images[1, 2].ravel())
    np.testing.assert_array_equal(pixels[1, 2 * 5 + 3], images[1, 2, 3])
    permuted = tasks.permuted_pixels(images, jax.random.key(1))
    np.testing.assert_array_equal(permuted, tasks.permuted_pixels(images, jax.random.key(1)))
    assert not np.array_equal(permuted, pixels)
    for image, sequence in zip(np.asarray(pixels), np.asarray(permuted), strict=True):
        assert sorted(map(tuple, image.tolist())) == sorted(map(tuple, sequence.tolist()))
    one = tasks.permuted_pixels(images[:1], jax.random.key(1))
    np.testing.assert_array_equal(permuted[:1], one, "one order for all images")
