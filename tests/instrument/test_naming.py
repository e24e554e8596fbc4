"""Names: what frameworks add drops out, what a scan carries is called h and c, numbers get the name of their role."""

from __future__ import annotations

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import gradflow as gf
from gradflow.instrument import naming

X = jax.random.normal(jax.random.key(9), (6, 3, 2))  # steps, examples, features


def names(loss, *args, argnums=0):
    """Trace only."""
    return jax.eval_shape(lambda *a: gf.value_grad_and_flow(loss, argnums)(*a)[2], *args)


def paths(tree, argument="params"):
    return naming.leaf_names([path for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]], [argument], True)


def test_collections_drop_out_wherever_they_stand():
    tree = {"actor": {"params": {"Dense_0": {"kernel": 1}}}, "critic": {"params": {"Dense_0": {"kernel": 1}}}}
    assert paths(tree) == [("actor", "Dense_0", "kernel"), ("critic", "Dense_0", "kernel")]
    assert paths({"params": {"Dense_0": {"kernel": 1}}}) == [("Dense_0", "kernel")]


def test_collections_stay_where_names_would_clash():
    assert paths({"params": {"w": 1}, "w": 2}) == [("params", "w"), ("w",)]
    # Not the leaves, but the layers they belong to.
    clash = {"params": {"a": {"kernel": 1}}, "a": {"scale": 2}}
    assert paths(clash) == [("a", "scale"), ("params", "a", "kernel")]
    assert paths({"params": 1}) == [("params",)]
    assert paths(1.0, "w") == [("w",)]


def test_two_models_in_two_arguments():
    def loss(actor, critic, x):
        return jnp.mean((x @ actor["params"]["Dense_0"]["kernel"] @ critic["params"]["Dense_0"]["kernel"]) ** 2)

    one = {"params": {"Dense_0": {"kernel": jnp.ones((2, 2))}}}
    assert names(loss, one, one, X, argnums=(0, 1)).layers == ("actor/Dense_0", "critic/Dense_0")


def test_wrappers_of_arrays_have_no_name_of_their_own():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class NamedArray:
        array: jax.Array

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Linear:
        weight: NamedArray
        bias: NamedArray

    model = {"up": Linear(NamedArray(jnp.ones((2, 4))), NamedArray(jnp.ones(4)))}
    flow = names(lambda m, x: jnp.mean((x @ m["up"].weight.array + m["up"].bias.array) ** 2), model, X)
    assert flow.layers == ("up",)
    assert list(flow.parameters) == ["up/weight", "up/bias"]


def scanned(step, *start):
    def loss(params, x):
        states, _ = lax.scan(lambda states, row: (step(params, states, row), None), start, x)
        return sum(jnp.mean(s**2) for s in states)

    return loss


def lstm_step(params, states, row):
    c, h = states
    i, f, g, o = jnp.split(row @ params["cell"]["wi"] + h @ params["cell"]["wh"], 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return c, jax.nn.sigmoid(o) * jnp.tanh(c)


CELL = {"cell": {"wi": jnp.ones((2, 16)), "wh": jnp.ones((4, 16))}}


def test_the_carry_that_a_layer_reads_is_h_and_the_one_beside_it_c():
    zeros = jnp.zeros((3, 4))
    assert names(scanned(lstm_step, zeros, zeros), CELL, X).carries == ("cell/c", "cell/h")


def test_a_single_carry_is_h_only_where_a_layer_reads_it():
    def read(params, states, row):
        return (jnp.tanh(states[0] @ params["cell"]["wh"][:, :4] + (row @ params["cell"]["wi"])[:, :4]),)

    def summed(params, states, row):
        return (0.5 * states[0] + row @ params["cell"]["wi"],)

    assert names(scanned(read, jnp.zeros((3, 4))), CELL, X).carries == ("cell/h",)
    assert names(scanned(summed, jnp.zeros((3, 16))), CELL, X).carries == ("cell/carry_0",)


def test_carries_keep_numbers_where_their_roles_are_not_clear():
    def two(params, states, row):  # two layers, each with a state that its kernel reads
        a, b = states
        a = jnp.tanh(a @ params["cell"]["wh"][:, :4] + (row @ params["cell"]["wi"])[:, :4])
        return a, jnp.tanh(b @ params["cell"]["other"] + a)

    zeros = jnp.zeros((3, 4))
    params = {"cell": {**CELL["cell"], "other": jnp.ones((4, 4))}}
    assert names(scanned(two, zeros, zeros), params, X).carries == ("cell/carry_0", "cell/carry_1")

    def other_shape(params, states, row):  # a mean over time beside the state
        h = jnp.tanh(states[0] @ params["cell"]["wh"][:, :4] + (row @ params["cell"]["wi"])[:, :4])
        return h, states[1] + h.mean(0)

    flow = names(scanned(other_shape, zeros, jnp.zeros(4)), CELL, X)
    assert flow.carries == ("cell/carry_0", "cell/carry_1")


def test_carries_keep_numbers_where_a_layer_has_the_name():
    def step(params, states, row):
        return (jnp.tanh(states[0] @ params["cell"]["h"]["kernel"] + row @ params["cell"]["i"]["kernel"]),)

    params = {"cell": {"h": {"kernel": jnp.ones((4, 4))}, "i": {"kernel": jnp.ones((2, 4))}}}
    flow = names(scanned(step, jnp.zeros((3, 4))), params, X)
    assert set(flow.layers) == {"cell/i", "cell/h"}
    assert flow.carries == ("cell/carry_0",)


@pytest.mark.parametrize("layer, cell", [("LSTM", "lstm_cell"), ("GRU", "gru")])
def test_leaves_known_by_number_are_named_by_their_role(layer, cell):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import keras

        net = keras.Sequential([keras.layers.Input((6, 2)), getattr(keras.layers, layer)(4)])
        params = [v.value for v in net.trainable_variables]
        state = [v.value for v in net.non_trainable_variables]
        flow = names(lambda p, x: jnp.mean(net.stateless_call(p, state, x)[0] ** 2), params, jnp.ones((3, 6, 2)))
    assert set(flow.layers) == {f"{cell}/kernel", f"{cell}/recurrent_kernel"}
    assert set(flow.carries) == {f"{cell}/{name}" for name in ("hc" if layer == "LSTM" else "h")}
    assert flow[f"{cell}/recurrent_kernel"].role == "recurrent"


def test_numbers_without_a_cell_stay_numbers():
    def loss(params, x):
        with jax.named_scope("block"):
            return jnp.mean((x @ params[0] @ params[1]) ** 2)

    assert names(loss, [jnp.ones((2, 4)), jnp.ones((4, 3))], X).layers == ("block/0", "block/1")


def test_the_second_use_of_an_embedding_is_the_read_out():
    def loss(params, tokens):
        table = params["embed"]["table"]
        return jnp.mean((jnp.tanh(table[tokens]) @ table.T) ** 2)

    flow = names(loss, {"embed": {"table": jnp.ones((5, 4))}}, jnp.array([0, 3, 1]))
    assert flow.layers == ("embed", "embed#2")
    assert (flow["embed"].role, flow["embed#2"].role) == ("", "read-out")
