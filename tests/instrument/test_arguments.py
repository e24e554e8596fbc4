"""What is differentiated: modules with state, complex numbers, losses without contractions, and what is refused."""

from __future__ import annotations

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import gradflow as gf
from gradflow.instrument.errors import FlowError

X = jax.random.normal(jax.random.key(0), (4, 2))


def assert_same(a, b):
    """Same structure, same numbers, same keys."""
    assert jax.tree.structure(a) == jax.tree.structure(b)

    def numbers(x):
        return jax.random.key_data(x) if jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key) else x

    jax.tree.map(lambda a, b: np.testing.assert_allclose(numbers(a), numbers(b), rtol=2e-5, atol=2e-6), a, b)


def nnx_net():
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(2, 6, rngs=rngs)
            self.norm = nnx.BatchNorm(6, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
            self.head = nnx.Linear(6, 3, rngs=rngs)
            self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

        def __call__(self, x):
            self.calls[...] += 1
            x = self.dropout(self.norm(jnp.tanh(self.first(x))))
            self.last = nnx.Intermediate(x)
            return self.head(x)

    return nnx, Net(nnx.Rngs(0))


def nnx_loss(net, x):
    return jnp.mean((net(x) - 1) ** 2)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("compiled", [False, True])
def test_nnx_module_is_differentiated_and_updated_as_by_nnx(compiled):
    """Twice in a row: batch statistics, random counts, a counter and a variable that the first call makes."""
    found = []
    for transformed in ("nnx", "gf"):
        nnx, net = nnx_net()
        grad = (nnx.value_and_grad if transformed == "nnx" else gf.value_grad_and_flow)(nnx_loss)
        grad = nnx.jit(grad) if compiled else grad
        results = [grad(net, X)[:2] for _ in range(2)]
        found.append((results, nnx.state(net)))
        assert int(net.calls[...]) == 2
    assert_same(*found)
    assert isinstance(found[1][0][0][1], nnx.State)


def test_nnx_module_has_names_of_its_parameters():
    _, net = nnx_net()
    _, _, flow = gf.value_grad_and_flow(nnx_loss)(net, X)
    assert flow.layers == ("first", "head")
    assert list(flow.parameters) == [
        f"{layer}/{name}"
        for layer, names in (("first", "bias kernel"), ("head", "bias kernel"), ("norm", "bias scale"))
        for name in names.split()
    ]


def test_nnx_state_of_modules_that_are_not_differentiated_or_come_back_as_aux():
    nnx, net = nnx_net()

    def loss(params, x, *, frozen, rngs):
        return jnp.mean((params["w"] * frozen(x) + jax.random.normal(rngs.noise(), (3,))) ** 2), frozen

    rngs = nnx.Rngs(1)
    (_, aux), grads, flow = gf.value_grad_and_flow(loss, has_aux=True)(
        {"w": nnx.Param(jnp.ones(3))}, X, frozen=net, rngs=rngs
    )
    assert aux is net
    assert int(net.calls[...]) == 1
    assert int(rngs.noise.count[...]) == 1 if "noise" in rngs else int(rngs.default.count[...]) == 1
    assert isinstance(grads["w"], nnx.Param)
    assert list(flow.parameters) == ["w"]


def test_nnx_diff_state_chooses_variables():
    nnx, net = nnx_net()
    chosen = nnx.DiffState(0, nnx.All(nnx.Param, nnx.PathContains("kernel")))
    value, grads, flow = gf.value_grad_and_flow(nnx_loss, argnums=chosen)(net, X)
    _, other = nnx_net()
    assert_same((value, grads), nnx.value_and_grad(nnx_loss, argnums=chosen)(other, X))
    assert list(flow.parameters) == ["first/kernel", "head/kernel"]


def test_nnx_state_is_never_lost_in_silence():
    _, net = nnx_net()
    with pytest.raises(FlowError, match=r"made outside of a transformation.*nnx\.split\(model, nnx\.Param, \.\.\.\)"):
        jax.vmap(lambda x: gf.value_grad_and_flow(nnx_loss)(net, x)[0])(X[None])
    with pytest.raises(FlowError, match="which stands in a differentiated and in another argument"):
        gf.value_grad_and_flow(lambda a, b: nnx_loss(a, X) + nnx_loss(b, X))(net, net)
    with pytest.raises(Exception, match="different trace level"):  # Flax's own
        gf.value_grad_and_flow(lambda w: nnx_loss(net, X * w))(1.0)
    assert not isinstance(net.calls[...], jax.core.Tracer)


def test_equinox_module_with_everything_in_it():
    import equinox as eqx

    class Net(eqx.Module):
        first: eqx.nn.Linear
        norm: eqx.nn.BatchNorm
        activation: object
        table: jax.Array
        scale: float
        depth: int
        name: str
        on: bool
        nothing: None

        def __init__(self, key):
            self.first = eqx.nn.Linear(2, 3, key=key)
            self.norm = eqx.nn.BatchNorm(3, axis_name="batch", mode="batch")
            self.activation, self.table, self.scale, self.depth = jnp.tanh, jnp.arange(3), 2.0, 3
            self.name, self.on, self.nothing = "net", True, None

        def __call__(self, x, state):
            y, state = self.norm(self.first(x), state)
            return self.activation(y) * self.scale, state

    def loss(net, state, x):
        y, state = jax.vmap(net, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)
        return jnp.mean((y - 1) ** 2), state

    net, state = eqx.nn.make_with_state(Net)(jax.random.key(0))
    (value, after), grads, flow = eqx.filter_jit(gf.value_grad_and_flow(loss, has_aux=True))(net, state, X)
    assert_same(((value, after), grads), eqx.filter_value_and_grad(loss, has_aux=True)(net, state, X))
    assert grads.activation is grads.table is grads.scale is None
    assert flow.layers == ("first",)


def test_haiku_state_as_aux():
    import haiku as hk

    def forward(x):
        return hk.Linear(3)(hk.BatchNorm(True, True, 0.9)(x, is_training=True))

    net = hk.without_apply_rng(hk.transform_with_state(forward))
    with jax.numpy_dtype_promotion("standard"):
        params, state = net.init(jax.random.key(0), X)

    def loss(params, state, x):
        y, state = net.apply(params, state, x)
        return jnp.mean((y - 1) ** 2), state

    with jax.numpy_dtype_promotion("standard"):
        (value, after), grads, _ = gf.value_grad_and_flow(loss, has_aux=True)(params, state, X)
        assert_same(((value, after), grads), jax.value_and_grad(loss, has_aux=True)(params, state, X))


def test_keras_variables_leave_as_aux_or_are_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import keras

        net = keras.Sequential(
            [
                keras.layers.Input((2,)),
                keras.layers.Dense(3),
                keras.layers.BatchNormalization(),
                keras.layers.Dropout(0.5),
            ]
        )
    params, state = ([v.value for v in vs] for vs in (net.trainable_variables, net.non_trainable_variables))

    def loss(params, state, x):
        y, state = net.stateless_call(params, state, x, training=True)
        return jnp.mean((y - 1) ** 2), state

    (value, after), grads, _ = gf.value_grad_and_flow(loss, has_aux=True)(params, state, X)
    assert_same(((value, after), grads), jax.value_and_grad(loss, has_aux=True)(params, state, X))
    before = [np.asarray(v.value) for v in net.variables]
    with pytest.raises(FlowError, match=r"batch_normalization\S*/moving_mean.*would be lost.*stateless_call"):
        gf.value_grad_and_flow(lambda w: jnp.mean(net(X * w, training=True) ** 2))(1.0)
    for variable, was in zip(net.variables, before, strict=True):
        np.testing.assert_array_equal(variable.value, was)


def test_a_wrapped_object_with_keras_loaded():
    """`functools.wraps` may stand around an object with `__call__`, as it does in `training.fit`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import keras

        assert keras.backend.backend() == "jax"

    class Loss:
        def __call__(self, w):
            return jnp.sum(w**2)

    loss = Loss()

    @functools.wraps(loss, assigned=())
    def wrapped(w):
        return loss(w)

    value, _, _ = gf.value_grad_and_flow(wrapped)(jnp.ones(3))
    assert float(value) == 3.0


@pytest.mark.parametrize(
    "leaf, words",
    [
        (jax.random.key(0), r"a random key \(key<fry>\)"),
        (jax.random.PRNGKey(0), r"uint32.*a raw random key"),
        (np.ones(3, bool), r"a mask \(bool\) of shape \(3,\)"),
        (True, r"a switch \(bool\)"),
        (3, r"an integer \(int32\).*a step counter"),
        (np.arange(3, dtype=np.int32), r"integers \(int32\) of shape \(3,\).*labels"),
        ("relu", "expected arrays as parameters, got str.*eqx.partition.*nnx.split"),
    ],
)
def test_what_cannot_be_differentiated_is_called_what_it_is(leaf, words):
    with pytest.raises(TypeError, match=words) as info:
        gf.value_grad_and_flow(lambda p: jnp.sum(p["w"]))({"w": jnp.ones(2), "other": {"leaf": leaf}})
    assert "'other/leaf'" in str(info.value)


def complex_loss(params, x):
    return jnp.mean(jnp.abs(jnp.tanh(x @ params["w"]) * params["phase"]) ** 2)


def test_complex_parameters_as_jax_takes_them():
    key = jax.random.split(jax.random.key(1), 3)
    params = {
        "w": jax.random.normal(key[0], (2, 3), jnp.complex64),
        "phase": jax.random.normal(key[1], (3,), jnp.complex64),
    }
    x = jax.random.normal(key[2], (4, 2), jnp.complex64)
    value, grads, flow = jax.jit(gf.value_grad_and_flow(complex_loss))(params, x)
    assert_same((value, grads), jax.value_and_grad(complex_loss)(params, x))

    def rms(a):
        return np.sqrt(np.mean(np.abs(np.asarray(a, np.complex128)) ** 2))

    for name, leaf in flow.parameters.items():
        np.testing.assert_allclose(leaf.rms, rms(params[name]), rtol=1e-4)
        np.testing.assert_allclose(leaf.gradient_rms, rms(grads[name]), rtol=1e-4)
    np.testing.assert_allclose(flow["w"].output_rms, rms(x @ params["w"]), rtol=1e-4)


def test_a_complex_loss_is_refused_in_words_about_complex_numbers():
    with pytest.raises(FlowError, match=r"a complex number \(complex64\).*holomorphic.*jnp.abs"):
        gf.value_grad_and_flow(lambda w: jnp.sum(w**2))(jnp.ones(2, jnp.complex64))


def cell(params, current):
    """A membrane with gates: 200 elementwise operations in all, none of them a contraction."""

    def step(state, drive):
        v, m = state
        for _ in range(20):
            v = v + 0.01 * (drive - params["leak"] * v - params["gain"] * m * (v - 1))
            m = m + 0.01 * (jax.nn.sigmoid(v) - m)
        return (v, m), v

    start = jnp.zeros(current.shape[1])
    return jnp.mean(lax.scan(step, (start, start), current)[1] ** 2)


def test_a_loss_without_contractions():
    params = {"leak": jnp.full(3, 0.3), "gain": jnp.float32(0.5), "unused": jnp.ones(2)}
    current = jnp.ones((5, 3))
    value, grads, flow = jax.jit(gf.value_grad_and_flow(cell))(params, current)
    assert_same((value, grads), jax.value_and_grad(cell)(params, current))
    assert flow.layers == ()
    assert flow.carries == () or all(flow[name].output_rms.shape == (5,) for name in flow.carries)
    for name, leaf in flow.parameters.items():
        np.testing.assert_allclose(leaf.gradient_norm, np.linalg.norm(grads[name]), rtol=1e-4)
    assert not flow.parameters["unused"].reached
    assert ("unused", "not used by the loss") in flow.unseen
    assert str(flow)


def test_nothing_differentiated_in_the_loss():
    """All that matters is closed over."""
    w = jnp.ones((2, 3))
    value, grads, flow = gf.value_grad_and_flow(lambda unused: jnp.mean((X @ w) ** 2))(jnp.ones(3))
    np.testing.assert_allclose(value, jnp.mean((X @ w) ** 2), rtol=1e-6)
    np.testing.assert_array_equal(grads, jnp.zeros(3))
    assert len(flow) == 0
    assert flow.parameters["unused"].gradient_norm == 0
    assert str(flow)
