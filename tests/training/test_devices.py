"""Four devices are one: the same training within rounding, statistics of the whole batch, all else on each."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import gradflow as gf
from gradflow import training
from gradflow.training import Checkpoints
from gradflow.training.devices import SplitWindow

ROWS, BATCH, STEPS = 64, 16, 12
MODEL = gf.models.MLP(depth=2, width=8, outputs=3, activation="tanh", normalization="batch")
LOSS = training.classification(MODEL)
OPTIMIZER = training.with_clipping_and_decay(optax.sgd(0.1, momentum=0.9), weight_decay=1e-3, clip_norm=1.0)


def examples():
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, 5)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int32) + (x[:, 1] > 0).astype(np.int32)


def fit(mesh, steps=STEPS, source=None, **options):
    x, classes = examples()
    state = training.init(MODEL, OPTIMIZER, jax.random.key(0), jnp.asarray(x[:2]))
    return training.fit(
        LOSS,
        OPTIMIZER,
        state,
        source or gf.data.on_device(x, classes, BATCH),
        steps,
        every=4,
        mesh=mesh,
        watch=gf.watch(every=4, statistics=("output_rms", "output_grad_rms", "dead_fraction")),
        validation=(jnp.asarray(x[:23]), jnp.asarray(classes[:23])),
        validate_every=4,
        progress=False,
        **options,
    )


@pytest.fixture(scope="module")
def single():
    return fit(None)


def close(a, b):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-4, atol=1e-6)


def compare(got, want):
    jax.tree.map(close, got.state.params, want.state.params)
    jax.tree.map(close, got.state.model_state, want.state.model_state)
    for kind in ("curve", "validation"):
        close(getattr(got, kind)["loss"], getattr(want, kind)["loss"])
        np.testing.assert_array_equal(getattr(got, kind).counts["loss"], getattr(want, kind).counts["loss"])
    for name, values in want.flow.values.items():
        close(got.flow.values[name], values)


def meshes():
    devices = np.array(jax.devices()[:4])
    return {
        "one axis": training.data_mesh(devices),
        "two axes": Mesh(devices.reshape(2, 2), ("a", "b")),
        "explicit": jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,), devices=devices),
    }


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("kind", ["one axis", "two axes", "explicit"])
def test_four_devices_are_one(single, kind):
    mesh = meshes()[kind]
    got = fit(mesh)
    compare(got, single)
    for leaf in jax.tree.leaves(got.state.params):
        assert len(leaf.sharding.device_set) == 4
        assert leaf.sharding.is_fully_replicated


def test_every_device_computes_its_part_of_the_batch():
    mesh = training.data_mesh(jax.devices()[:4])
    window = SplitWindow(gf.data.on_device(*examples(), BATCH), mesh)
    drawn = jax.jit(lambda window: window.batch(jax.random.key(0), 3))(window)
    assert {shard.data.shape for shard in drawn.inputs.addressable_shards} == {(BATCH // 4, 5)}
    text = jax.jit(lambda s, w: training.make_step(LOSS, OPTIMIZER)(s, w.batch(jax.random.key(0), 3))).lower(
        training.init(MODEL, OPTIMIZER, jax.random.key(0), jnp.ones((2, 5))), window
    )
    assert "all-reduce" in text.compile().as_text()


def test_a_stream_can_come_already_split(single):
    mesh = training.data_mesh(jax.devices()[:4])
    assert training.window_sharding(mesh) == NamedSharding(mesh, PartitionSpec(None, ("data",)))
    records = list(zip(*examples(), strict=True))
    plain = fit(None, source=gf.data.stream(records, BATCH))
    split = fit(mesh, source=gf.data.stream(records, BATCH, sharding=training.window_sharding(mesh)))
    compare(split, plain)


def test_a_run_goes_on_with_other_devices(tmp_path, single):
    """What a checkpoint holds does not depend on where it came from."""
    mesh = training.data_mesh(jax.devices()[:4])
    fit(mesh, 8, checkpoints=Checkpoints(tmp_path, every_steps=4))
    compare(fit(None, checkpoints=Checkpoints(tmp_path, resume=True)), single)


def test_batches_that_cannot_be_shared_are_refused():
    mesh = training.data_mesh(jax.devices()[:3])
    with pytest.raises(ValueError, match=r"that 3 devices can share evenly, got 16 examples\. Fix: a batch size of 18"):
        fit(mesh)


def test_joining_takes_all_or_nothing():
    with pytest.raises(ValueError, match=r"coordinator='here:1234', processes=None"):
        training.join("here:1234")
    with pytest.raises(RuntimeError, match="this process could not join the others"):
        training.join("localhost:1", 1, 0)  # JAX has computed something already
