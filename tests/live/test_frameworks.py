"""The watch in the training loops of each framework: same flow as without a loop, same training as without a watch."""

from __future__ import annotations

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import gradflow as gf
from tests.live.problems import NAMES, Snapshots, batch, loss_fn, parameters

FEW = ("output_grad_rms", "weight_rms", "weight_grad_norm")


def close(a, b):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=2e-4, atol=1e-6)


def watched(loss, every=2, **options):
    writer = Snapshots()
    return gf.watch(loss, every=every, writers=[writer], statistics=FEW, **options), writer


def compile_by(way, watch, jit=jax.jit):
    return (lambda f: watch.jit(f, jit=jit)) if way == "two programs" else jit


WAYS = ("two programs", "a branch")


@pytest.mark.parametrize("way", WAYS)
def test_optax_with_clipping_and_accumulation(way):
    """Accumulation over 2: counted from 1, the recorded steps are those that update."""
    watch, writer = watched(loss_fn)
    optimizer = optax.MultiSteps(optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(0.1)), 2)

    def train_step(step, params, state, x):
        _, grads, record = watch(step + 1, params, x)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, watch.updates(record, updates, params)

    run, params = compile_by(way, watch)(train_step), parameters()
    state = optimizer.init(params)
    with watch, jax.numpy_dtype_promotion("standard"):  # the schedules of Optax want it
        for step in range(4):
            params, state, record = run(jnp.int32(step), params, state, batch(step))
            watch.write(record)
    first, *later = writer.taken
    assert later[-1] == 4
    assert first == (1 if way == "two programs" else 2)
    close(writer.taken[4].update_norm, 0.1 * 1e-3)  # the norm after clipping, times the rate
    assert writer.taken[4].update_ratios["first/kernel"] > 0
    if way == "two programs":
        assert writer.taken[1].update_norm is None  # this step only accumulated


def test_nnx_with_batch_norm_and_dropout():
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(5, 6, rngs=rngs)
            self.norm = nnx.BatchNorm(6, rngs=rngs)
            self.dropout = nnx.Dropout(0.3, rngs=rngs)
            self.head = nnx.Linear(6, 2, rngs=rngs)

        def __call__(self, x):
            return self.head(self.dropout(nnx.relu(self.norm(self.first(x)))))

    def loss(model, x):
        return jnp.mean(jnp.square(model(x) - 1))

    def make(differentiate):
        def train_step(model, optimizer, step, x):
            value, grads, *record = differentiate(step, model, x)
            optimizer.update(model, grads)
            return value, *record

        return train_step

    def train(run, watch=None):
        model = Net(nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
        values = []
        for step in range(4):
            value, *record = run(model, optimizer, jnp.int32(step), batch(step))
            values.append(float(value))
            if record:
                watch.write(*record)
        return values, nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))

    plain = nnx.jit(make(lambda step, *args: nnx.value_and_grad(loss)(*args)))
    want, state = train(plain)
    look = nnx.jit(lambda model, x: gf.value_grad_and_flow(loss, statistics=FEW)(model, x)[2])
    flow = look(Net(nnx.Rngs(0)), batch(0))
    for way in WAYS:
        watch, writer = watched(loss)
        with watch:
            values, found = train(compile_by(way, watch, nnx.jit)(make(watch)), watch)
        close(values, want)
        jax.tree.map(close, found, state)
        assert list(writer.taken) == [0, 2]
        assert writer.taken[0].flow.layers == ("first", "head")
        for name in flow.layers:
            close(writer.taken[0].flow[name].output_grad_rms, flow[name].output_grad_rms)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("way", WAYS)
def test_equinox(way):
    import equinox as eqx

    def loss(model, x):
        return jnp.mean(jnp.square(jax.vmap(model)(x) - 1))

    watch, writer = watched(loss, history=10)
    optimizer = optax.sgd(0.1)

    def train_step(model, state, step, x):
        _, grads, record = watch(step, model, x)
        updates, state = optimizer.update(grads, state, model)
        record = watch.updates(record, updates, model)
        return eqx.apply_updates(model, updates), state, record

    run = compile_by(way, watch, eqx.filter_jit)(train_step)
    model = eqx.nn.MLP(5, 2, 4, 1, key=jax.random.key(0))
    flow = jax.jit(lambda x: gf.value_grad_and_flow(loss, statistics=FEW)(model, x)[2])(batch(0))
    want = eqx.filter_value_and_grad(loss)(model, batch(0))[1]
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    first = eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, want))
    with watch:
        for step in range(3):
            model, state, record = run(model, state, jnp.int32(step), batch(step))
            watch.write(record)
            if step == 0:
                close(model.layers[0].weight, first.layers[0].weight)
    assert list(writer.taken) == [0, 2]
    assert writer.taken[0].flow.layers == ("layers/0", "layers/1")
    close(writer.taken[0].flow["layers/0"].output_grad_rms, flow["layers/0"].output_grad_rms)
    assert writer.taken[0].update_ratios.keys() == {f"layers/{k}/{w}" for k in (0, 1) for w in ("weight", "bias")}
    assert record.layers == ("layers/0", "layers/1")


def test_equinox_compiles_two_programs_also_for_steps_that_are_python_integers():
    """filter_jit takes a Python integer for a constant: a program for every step."""
    import equinox as eqx

    traced = []

    def loss(model, x):
        traced.append(1)
        return jnp.mean(jnp.square(jax.vmap(model)(x) - 1))

    for jit in (eqx.filter_jit, functools.partial(eqx.filter_jit, donate="none")):
        for passed in (lambda step: ((step,), {}), lambda step: ((), {"step": step})):
            watch, writer = watched(loss)
            model = eqx.nn.MLP(5, 2, 4, 1, key=jax.random.key(0))

            def train_step(model, x, step, watch=watch):
                _, grads, record = watch(step, model, x)
                return eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, grads)), record

            run, counts = watch.jit(train_step, jit=jit), []
            with watch:
                for step in range(6):
                    args, kwargs = passed(step)
                    model, record = run(model, batch(step), *args, **kwargs)
                    watch.write(record)
                    counts.append(len(traced))
            assert counts[1:] == counts[1:2] * 5
            assert list(writer.taken) == [0, 2, 4]


def test_haiku():
    import haiku as hk

    net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP((4, 2))(x)))
    params = net.init(jax.random.key(0), batch(0))
    watch, writer = watched(lambda params, x: jnp.mean(jnp.square(net.apply(params, x) - 1)))
    run = watch.jit(lambda step, params, x: watch(step, params, x)[1:])
    with watch:
        watch.write(run(0, params, batch(0))[1])
    assert writer.taken[0].flow.layers == ("mlp/~/linear_0", "mlp/~/linear_1")


def keras_model():
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Input((5,)),
            keras.layers.Dense(6, activation="tanh", name="first"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(2, name="head"),
        ]
    )
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    return model


def test_keras_fit():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = np.concatenate([np.asarray(batch(step)) for step in range(4)])
        y = np.tile(x[:, :1], (1, 2))
        options = {"batch_size": 8, "epochs": 2, "verbose": 0, "shuffle": False}
        plain, model = keras_model(), keras_model()
        state = [v.value for v in model.non_trainable_variables]
        params = {v.path: v.value for v in model.trainable_variables}
        plain.fit(x, y, **options)
        watch, writer = watched(None, every=3)
        with watch:
            model.fit(x, y, callbacks=[gf.live.KerasCallback(watch)], **options)
    for a, b in zip(plain.variables, model.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    assert list(writer.taken) == [0, 3, 6]

    def loss(params, x, y):
        values = [params[v.path] for v in model.trainable_variables]
        out, _ = model.stateless_call(values, state, x, training=True)
        return jnp.mean(jnp.square(out - y))

    value, _, flow = jax.jit(gf.value_grad_and_flow(loss, statistics=FEW))(params, x[:8], y[:8])
    got = writer.taken[0].flow
    assert got.layers == flow.layers == ("sequential/first", "sequential/head") or len(got.layers) == 2
    for a, b in zip(got.layers, flow.layers, strict=True):
        close(got[a].output_grad_rms, flow[b].output_grad_rms)
    close(writer.taken[0].loss, value)


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_several_devices(way, kind):
    """Data-parallel: the flow is that of the whole batch."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
    watch, writer = watched(loss_fn, history=4)

    def train_step(step, params, x):
        _, grads, record = watch(step, params, x)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), record

    flow = jax.jit(gf.value_grad_and_flow(loss_fn, statistics=FEW))(parameters(), batch(0))[2]
    run = compile_by(way, watch)(train_step)
    with jax.set_mesh(mesh), watch:
        params = jax.device_put(parameters(), NamedSharding(mesh, PartitionSpec()))
        for step in range(2):
            x = jax.device_put(batch(step), NamedSharding(mesh, PartitionSpec("data")))
            params, record = run(jnp.int32(step), params, x)
            watch.write(record)
    assert list(writer.taken) == [0]
    got = writer.taken[0].flow
    assert got.layers == NAMES
    for name in NAMES:
        close(got[name].output_grad_rms, flow[name].output_grad_rms)
        close(got[name].weight_grad_norm, flow[name].weight_grad_norm)
