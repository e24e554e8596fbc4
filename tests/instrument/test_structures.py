"""What has a row and what is named instead: every way in which parameters meet data."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import gradflow as gf
from tests import oracles


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


X = normal(0, 5, 4)
PARAMS = {"a": normal(1, 4, 6), "b": normal(2, 6, 3)}
MASK = (normal(3, 4, 6) > 0).astype(jnp.float32)
ELEMENTWISE = "added to or multiplied with data (bias, scale, gate): no contraction"
INPUT = "enters a layer as its input: the layer's input gradient shows its signal"


def described(loss, params, *args, **options):
    """The static half of a flow: nothing is compiled."""
    return jax.eval_shape(gf.value_grad_and_flow(loss, **options), params, *args)[2]


def layers_behind(weight):
    """A loss with a layer whose weight is `weight(params, *args)`, and a plain one behind it."""
    return lambda params, x, *args: jnp.mean((jnp.tanh(x @ weight(params, *args)) @ params["b"]) ** 2)


WEIGHTS = {
    "mask as a constant": (lambda p: p["a"] * MASK, PARAMS, (), ("a", "b")),
    "mask as data": (lambda p, mask: p["a"] * mask, PARAMS, (MASK,), ("a", "b")),
    "mask by where": (lambda p, mask: jnp.where(mask > 0, p["a"], 0.0), PARAMS, (MASK,), ("a", "b")),
    "a mask for each unit": (lambda p, mask: p["a"] * mask, PARAMS, (MASK[0],), ("a", "b")),
    "low-rank update": (
        lambda p, frozen: frozen + p["u"] @ p["v"],
        {"u": normal(4, 4, 2), "v": normal(5, 2, 6), "b": PARAMS["b"]},
        (normal(6, 4, 6),),
        ("u+v", "b"),
    ),
    "full update": (lambda p, frozen: frozen + p["a"], PARAMS, (normal(6, 4, 6),), ("a", "b")),
    "weight normalization": (
        lambda p: p["a"] / jnp.linalg.norm(p["a"], axis=0) * p["g"],
        {**PARAMS, "g": jnp.ones(6)},
        (),
        ("a+g", "b"),
    ),
    "norm of a masked weight": (
        lambda p, mask: p["a"] * mask / jnp.linalg.norm(p["a"] * mask, axis=0),
        PARAMS,
        (MASK,),
        ("a", "b"),
    ),
    "quantized with a scale": (
        lambda p: jnp.round(p["a"] / p["s"]) * p["s"],
        {**PARAMS, "s": jnp.ones(())},
        (),
        ("a+s", "b"),
    ),
    "divided by running state": (lambda p, sigma: p["a"] / sigma, PARAMS, (jnp.float32(2.0),), ("a", "b")),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_weight_stays_a_weight(kind):
    weight, params, args, names = WEIGHTS[kind]
    flow = described(layers_behind(weight), params, X, *args)
    assert flow.layers == names
    assert flow.unseen == ()
    assert flow.inputs == ("input",)


def attention(params, x):
    q, k, v = (jnp.einsum("btd,dhk->bthk", x, params[name]) for name in "qkv")
    scores = jnp.einsum("bthk,bshk->bhts", q + params["bias"], k) + params["relative"]
    scores += jnp.where(jnp.tril(jnp.ones((5, 5))) > 0, 0.0, -1e9)
    mixed = jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(scores), v)
    return jnp.mean(jnp.einsum("bthk,hkd->btd", mixed, params["o"]) ** 2)


HEADS = {
    **{name: normal(k, 4, 2, 3) for k, name in enumerate("qkv")},
    "o": normal(4, 2, 3, 4),
    "relative": normal(5, 2, 5, 5),
    "bias": normal(6, 2, 3),
}


def batch_norm(params, x, mean, variance):
    h = (x @ params["a"] - mean) / jnp.sqrt(variance + 1e-5) * params["scale"] + params["shift"]
    return jnp.mean((jax.nn.relu(h) @ params["b"]) ** 2)


NEGATIVES = {
    "closed-over batch times a norm scale": (
        lambda p: jnp.mean(((X * p["s"]) @ p["a"]) ** 2),
        {"s": jnp.ones(4), "a": PARAMS["a"]},
        (),
        {"a": "layer"},
        {"s": ELEMENTWISE},
    ),
    "position added to an unbatched sequence": (
        lambda p, x: jnp.mean(((x + p["position"]) @ p["a"]) ** 2),
        {"position": normal(3, 5, 4), "a": PARAMS["a"]},
        (X,),
        {"position": "embedding", "a": "layer"},
        {},
    ),
    "relative position bias and additive mask": (
        attention,
        HEADS,
        (normal(0, 2, 5, 4),),
        {**dict.fromkeys("qkv", "layer"), "relative": "embedding", "o": "layer"},
        {"bias": ELEMENTWISE},
    ),
    "the same, unbatched": (
        lambda p, x: jnp.mean((jax.nn.softmax((x @ p["q"]) @ (x @ p["k"]).T + p["bias"]) @ (x @ p["v"])) ** 2),
        {**{name: normal(k, 4, 4) for k, name in enumerate("qkv")}, "bias": normal(5, 5, 5)},
        (X,),
        {**dict.fromkeys("qkv", "layer"), "bias": "embedding"},
        {},
    ),
    "batch norm with running statistics": (
        batch_norm,
        {**PARAMS, "scale": jnp.ones(6), "shift": jnp.zeros(6)},
        (X, jnp.zeros(6), jnp.ones(6)),
        {"a": "layer", "b": "layer"},
        {"scale": ELEMENTWISE, "shift": ELEMENTWISE},
    ),
    "a norm scale written as einsum": (
        lambda p, x: jnp.mean((jnp.einsum("bd,d->bd", x @ p["a"], p["s"]) @ p["b"]) ** 2),
        {**PARAMS, "s": jnp.ones(6)},
        (X,),
        {"a": "layer", "b": "layer"},
        {"s": ELEMENTWISE},
    ),
    "a layer of constant features, then a look-up": (
        lambda p, t: jnp.mean((jnp.eye(7) @ p["w"])[t] ** 2),
        {"w": normal(1, 7, 4)},
        (jnp.array([1, 2]),),
        {"w": "layer"},
        {},
    ),
    "learned inputs": (
        lambda p: jnp.mean((jnp.tanh(p["z"] @ p["a"]) @ p["b"]) ** 2),
        {**PARAMS, "z": normal(3, 5, 4)},
        (),
        {"a": "layer", "b": "layer"},
        {"z": INPUT},
    ),
    "weight decay": (
        lambda p, x: jnp.mean((x @ p["a"]) ** 2) + 1e-3 * sum(jnp.sum(w**2) for w in p.values()),
        PARAMS,
        (X,),
        {"a": "layer"},
        {"b": "meets no data: a penalty, the weight of a term, or a loss of parameters alone"},
    ),
}


@pytest.mark.parametrize("kind", NEGATIVES)
def test_data_stays_data(kind):
    loss, params, args, kinds, unseen = NEGATIVES[kind]
    flow = described(loss, params, *args)
    assert {name: flow[name].kind for name in flow.layers} == kinds
    assert dict(flow.unseen) == unseen


POSITIONS = {"position": normal(3, 9, 4), "a": PARAMS["a"]}


class TestPositions:
    """A table of positions has the same numbers whether it is looked up or sliced."""

    def test_looked_up_or_sliced(self):
        x = normal(0, 2, 5, 4)

        def loss(p, x, rows):
            return jnp.mean(jnp.tanh((x + rows(p["position"])) @ p["a"]) ** 2)

        flows = [
            jax.jit(gf.value_grad_and_flow(lambda p, x, r=rows: loss(p, x, r)))(POSITIONS, x)[2]
            for rows in (lambda t: t[:5], lambda t: t[jnp.arange(5)])
        ]
        for flow in flows:
            assert flow.layers == ("position", "a")
        grad = jax.grad(lambda r: loss({**POSITIONS, "position": r}, x, lambda t: t))(POSITIONS["position"][:5])
        for flow in flows:
            np.testing.assert_allclose(flow["position"].output_grad_rms, oracles.rms(grad), rtol=1e-5)
            np.testing.assert_allclose(flow["position"].output_rms, oracles.rms(POSITIONS["position"][:5]), rtol=1e-5)


class TestUnseen:
    def test_a_solve(self):
        params = {"w": normal(1, 4, 4), "a": normal(2, 4, 4)}
        flow = described(lambda p, x: jnp.mean(jnp.linalg.solve(p["w"], (x @ p["a"]).T) ** 2), params, X)
        assert flow.layers == ("a",)
        assert [u.path for u in flow.unseen] == ["w"]
        assert "custom_linear_solve" in flow.unseen[0].why

    def test_a_while_loop(self):
        def loss(p, x):
            h = lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.tanh(s[1] @ p["w"])), (0, x))[1]
            return jnp.mean((lax.stop_gradient(h) @ p["a"]) ** 2)

        flow = described(loss, {"w": normal(1, 4, 4), "a": normal(2, 4, 4)}, X)
        assert flow.layers == ("a",)
        assert tuple(flow.unseen) == (("w", "inside while"),)

    def test_a_custom_rule_with_several_outputs(self):
        @jax.custom_vjp
        def rule(x, w):
            return x @ w, jnp.tanh(x @ w)

        rule.defvjp(lambda x, w: (rule(x, w), (x, w)), lambda r, g: (g[0] @ r[1].T, r[0].T @ g[0]))
        flow = described(lambda p, x: jnp.mean((sum(rule(x, p["a"])) @ p["b"]) ** 2), PARAMS, X)
        assert flow.layers == ("b",)
        assert [u.path for u in flow.unseen] == ["a"]
        assert "custom_vjp_call" in flow.unseen[0].why

    def test_a_foreign_call(self):
        def loss(p, x):
            call = jax.ffi.ffi_call("some_target", jax.ShapeDtypeStruct((5, 6), jnp.float32))
            return jnp.mean((call(x, lax.stop_gradient(p["a"])) @ p["b"]) ** 2)

        flow = described(loss, PARAMS, X)
        assert [u.path for u in flow.unseen] == ["a"]
        assert "ffi_call" in flow.unseen[0].why

    def test_ambiguous_contractions_are_named(self):
        def loss(p, x):
            h = x + p["position"]
            return jnp.mean((h @ h.T) ** 2)

        flow = described(loss, {"position": normal(1, 5, 4)}, X)
        assert "neither is the weight" in dict(flow.unseen)["position"]

    def test_leaves_that_the_loss_does_not_use(self):
        flow = described(lambda p, x: jnp.mean((x @ p["a"]) ** 2), PARAMS, X)
        assert dict(flow.unseen) == {"b": "not used by the loss"}
        assert not flow.parameters["b"].reached
        assert flow.parameters["a"].reached

    def test_every_leaf_has_a_row_or_is_named(self):
        """Nothing is passed over in silence: on every network above."""
        cases = [(layers_behind(w), p, (X, *a)) for w, p, a, _ in WEIGHTS.values()]
        cases += [(loss, params, args) for loss, params, args, _, _ in NEGATIVES.values()]
        for loss, params, args in cases:
            flow = described(loss, params, *args)
            seen = {k for name in flow.layers for k in flow[name].weight.leaves}
            named = {u.path for u in flow.unseen}
            assert len(flow.parameters) == len(jax.tree.leaves(params))
            for k, path in enumerate(flow.parameters):
                assert k in seen or path in named, path


class TestParameters:
    def test_norms_give_the_global_norm_and_tied_weights_count_once(self):
        params = {"e": normal(1, 7, 4), "rows": normal(2, 3, 4, 4), "pair": normal(3, 2, 4, 4), "s": jnp.float32(2.0)}

        def loss(p, tokens):
            h = p["e"][tokens]
            h, _ = lax.scan(lambda h, w: (jnp.tanh(h @ w), None), h, p["rows"])
            h = jnp.tanh(h @ p["pair"][1]) * p["s"]
            return jnp.mean((h @ p["e"].T) ** 2)

        _, grads, flow = jax.jit(gf.value_grad_and_flow(loss))(params, jnp.array([1, 2, 6]))
        assert tuple(flow.parameters) == ("e", "pair", "rows", "s")
        assert flow["e#2"].role == "read-out"
        for path, leaf in flow.parameters.items():
            np.testing.assert_allclose(leaf.rms, oracles.rms(params[path]), rtol=1e-5)
            np.testing.assert_allclose(leaf.gradient_rms, oracles.rms(grads[path]), rtol=1e-5)
            assert leaf.gradient_norm.shape == ()
        norms = [leaf.gradient_norm for leaf in flow.parameters.values()]
        total = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
        np.testing.assert_allclose(np.linalg.norm(norms), total, rtol=1e-5)

    def test_leaves_of_one_row_are_told_apart(self):
        params = {**PARAMS, "s": jnp.float32(0.5)}

        def loss(p, x):
            return jnp.mean((x @ (jnp.round(p["a"] / p["s"]) * p["s"]) @ p["b"]) ** 2)

        _, grads, flow = jax.jit(gf.value_grad_and_flow(loss))(params, X)
        assert float(flow.parameters["a"].gradient_norm) == 0.0
        np.testing.assert_allclose(flow.parameters["s"].gradient_norm, abs(grads["s"]), rtol=1e-5)

    def test_not_asked_for(self):
        flow = jax.jit(gf.value_grad_and_flow(lambda p, x: jnp.mean((x @ p["a"]) ** 2), statistics="output_rms"))(
            PARAMS, X
        )[2]
        assert np.isnan(flow.parameters["a"].gradient_norm)
        assert flow.parameters["a"].shape == (4, 6)

    def test_without_contractions(self):
        params = {"tau": jnp.ones(3), "v": jnp.full((3,), 0.5)}

        def loss(p):
            def step(v, t):
                v = v + 0.1 * (jnp.sin(t) - v) / p["tau"]
                return v, v

            return jnp.mean(lax.scan(step, p["v"], jnp.arange(4.0))[1] ** 2)

        value, grads, flow = jax.jit(gf.value_grad_and_flow(loss))(params)
        oracles.assert_same_gradients(loss, value, grads, params)
        assert flow.layers == ()
        assert len(flow.carries) == 1
        for path in params:
            np.testing.assert_allclose(flow.parameters[path].gradient_norm, np.linalg.norm(grads[path]), rtol=1e-5)


class TestPasses:
    """Derivatives inside the loss: a row says which pass it belongs to."""

    def test_second_derivative(self):
        params = {"a": normal(1, 4, 6), "b": normal(2, 6, 6), "c": normal(3, 6, 1)}

        def loss(p, x):
            def u(x):
                return (jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"]).sum()

            return jnp.mean(jax.vmap(lambda x: jnp.trace(jax.hessian(u)(x)))(x) ** 2)

        flow = described(loss, params, X)
        passes = {name: flow[name].computed_in for name in flow.layers}
        assert passes["a"] == passes["b"] == "value"
        assert passes["a#2"] == passes["b#2"] == "tangent"
        assert {passes[name] for name in ("a#3", "b#3", "b#4", "c")} == {"cotangent"}

    def test_a_weight_used_twice_under_a_derivative_is_a_value_twice(self):
        def loss(p, x):
            def u(x):
                return jnp.sum(jnp.tanh(jnp.tanh(x @ p["w"]) @ p["w"]))

            return jnp.mean(jax.grad(u)(x) ** 2)

        flow = described(loss, {"w": normal(1, 4, 4)}, X)
        assert [flow[name].computed_in for name in flow.layers] == ["value", "value", "cotangent", "cotangent"]

    def test_adapted_weights(self):
        """MAML: the network after one inner step has rows, under the leaves that it was adapted from."""
        target = normal(7, 5, 3)

        def inner(p, x):
            return jnp.mean((jnp.tanh(x @ p["a"]) @ p["b"] - target) ** 2)

        def loss(p, x):
            return inner(jax.tree.map(lambda w, g: w - 0.1 * g, p, jax.grad(inner)(p, x)), x)

        value, grads, flow = jax.jit(gf.value_grad_and_flow(loss))(PARAMS, X)
        oracles.assert_same_gradients(loss, value, grads, PARAMS, X)
        adapted = jax.tree.map(lambda w, g: w - 0.1 * g, PARAMS, jax.grad(inner)(PARAMS, X))
        last = [name for name in flow.layers if flow[name].computed_in == "value"][-1]
        np.testing.assert_allclose(
            flow[last].output_rms, oracles.rms(jnp.tanh(X @ adapted["a"]) @ adapted["b"]), rtol=1e-5
        )
        assert {k for name in flow.layers[-2:] for k in flow[name].weight.leaves} == {0, 1}
