"""The instrument sees every contraction of every model, in forward order, under the name of its parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import gradflow as gf
from gradflow.models import CNN, MLP, Recurrent, ResNet

FLAT, IMAGES, SEQUENCES = (4, 7), (2, 8, 8, 3), (3, 5, 2)

# Model, shape of its input, layers in forward order with the shape of each statistic: () or (length of the scan,).
CASES = {
    "mlp": (
        MLP(depth=3, width=5, outputs=2, activation="prelu", normalization="batch", residual="plain"),
        FLAT,
        {"Dense_0": (), "Dense_1": (), "Dense_2": (), "Dense_3": ()},
    ),
    "mlp scan": (
        MLP(depth=4, width=5, outputs=2, scan=True, remat=True, residual="plain", activation="tanh"),
        FLAT,
        {"Dense_0": (), "Hidden/Dense": (3,), "Dense_4": ()},
    ),
    "resnet": (
        ResNet(depth=8, outputs=2, shortcut="B"),
        IMAGES,
        {
            "Conv_stem": (),
            "Block_0/Conv_0": (),
            "Block_0/Conv_1": (),
            "Block_1/Conv_0": (),
            "Block_1/Conv_1": (),
            "Block_1/Conv_shortcut": (),
            "Block_2/Conv_0": (),
            "Block_2/Conv_1": (),
            "Block_2/Conv_shortcut": (),
            "Dense_head": (),
        },
    ),
    "cnn scan": (
        CNN(depth=4, channels=4, outputs=2, scan=True),
        IMAGES,
        {"Conv_0": (), "Hidden/Conv": (3,), "Dense_head": ()},
    ),
    "linen cell": (
        Recurrent(cell=nn.SimpleCell, hidden=4, outputs=2, unroll=1),
        SEQUENCES,
        {"Layer_0/SimpleCell/i": (5,), "Layer_0/SimpleCell/h": (5,), "Dense_head": ()},
    ),
    "lstm": (
        Recurrent(cell="lstm", hidden=4, outputs=2, layers=2, unroll=1),
        SEQUENCES,
        {
            "Layer_0/input": (5,),
            "Layer_0/recurrent": (5,),
            "Layer_1/input": (5,),
            "Layer_1/recurrent": (5,),
            "Dense_head": (),
        },
    ),
    "minimal rnn, projecting before the scan": (
        Recurrent(cell="minimal_rnn", hidden=4, outputs=2, hoist=True),
        SEQUENCES,
        {"Layer_0/input": (), "Layer_0/latent": (), "Layer_0/recurrent": (5,), "Dense_head": ()},
    ),
    "gru, both directions": (
        Recurrent(cell="gru", hidden=4, outputs=2, bidirectional=True, unroll=1),
        SEQUENCES,
        {
            "Layer_0/input": (5,),
            "Layer_0/recurrent": (5,),
            "Layer_0_reverse/input": (5,),
            "Layer_0_reverse/recurrent": (5,),
            "Dense_head": (),
        },
    ),
}


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("name", CASES)
def test_layers_are_seen_in_forward_order_by_the_names_of_their_parameters(name):
    model, shape, layers = CASES[name]
    x = jax.random.normal(jax.random.key(1), shape)
    training = {} if isinstance(model, Recurrent) else {"train": True}
    variables = jax.jit(model.init)(jax.random.key(0), x)

    def loss(params):
        y, _ = model.apply({**variables, "params": params}, x, **training, mutable=["batch_stats"])
        return (y**2).mean()

    _, grads, flow = jax.jit(gf.value_grad_and_flow(loss))(variables["params"])
    assert flow.layers == tuple(layers)
    for layer, steps in layers.items():
        kernel = grads
        for key in (*layer.split("/"), "kernel"):
            kernel = kernel[key]
        assert jnp.shape(flow[layer].output_grad_rms) == steps
        assert np.all(np.asarray(flow[layer].output_grad_rms) > 0)
        # The name is right: the statistic is that of this leaf, one number for each layer where they are stacked.
        stacked = layer.startswith("Hidden/")
        axes = tuple(range(int(stacked), kernel.ndim))
        expected = np.sqrt(np.mean(np.asarray(kernel, np.float64) ** 2, axis=axes))
        np.testing.assert_allclose(flow[layer].weight_grad_rms, expected, rtol=1e-5)


def lstm_gates(layer, states, x, nudge):
    c, h = states
    i, f, g, o = jnp.split(
        x @ layer["input"]["kernel"] + layer["input"]["bias"] + h @ layer["recurrent"]["kernel"], 4, axis=-1
    )
    gates = {"i": jax.nn.sigmoid(i), "f": jax.nn.sigmoid(f), "g": jnp.tanh(g), "o": jax.nn.sigmoid(o)}
    gates = {name: nudge(name, gate) for name, gate in gates.items()}
    c = nudge("c", gates["f"] * c + gates["i"] * gates["g"])
    return c, nudge("h", gates["o"] * jnp.tanh(c))


def gru_gates(layer, states, x, nudge):
    (h,) = states
    a = x @ layer["input"]["kernel"] + layer["input"]["bias"]
    b = h @ layer["recurrent"]["kernel"]
    r = nudge("r", jax.nn.sigmoid(a[:, :4] + b[:, :4]))
    z = nudge("z", jax.nn.sigmoid(a[:, 4:8] + b[:, 4:8]))
    n = nudge("n", jnp.tanh(a[:, 8:] + r * (b[:, 8:] + layer["recurrent"]["bias"])))
    return (nudge("h", (1 - z) * n + z * h),)


def minimal_gates(layer, states, x, nudge):
    (h,) = states
    z = jnp.tanh(x @ layer["input"]["kernel"] + layer["input"]["bias"])
    latent = layer["latent"]
    u = nudge("u", jax.nn.sigmoid(h @ layer["recurrent"]["kernel"] + z @ latent["kernel"] + latent["bias"]))
    return (nudge("h", u * h + (1 - u) * z),)


GATES = {"lstm": (lstm_gates, "ifgoch"), "gru": (gru_gates, "rznh"), "minimal_rnn": (minimal_gates, "uh")}


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("cell, hoist", [("lstm", False), ("gru", False), ("minimal_rnn", True)])
def test_gates_and_memory_are_seen_over_time(cell, hoist):
    """Against a loop that adds a zero to every gate and state, and differentiates with respect to it."""
    step, names = GATES[cell]
    lengths = [5, 2, 4]
    sides = ("Layer_0", "Layer_0_reverse") if cell == "gru" else ("Layer_0",)
    model = Recurrent(cell=cell, hidden=4, outputs=2, bidirectional=len(sides) == 2, hoist=hoist, unroll=1)
    x = jax.random.normal(jax.random.key(1), SEQUENCES)
    params = jax.jit(model.init)(jax.random.key(0), x)["params"]

    def loss(params):
        return (model.apply({"params": params}, x, jnp.array(lengths)) ** 2).mean()

    _, _, flow = jax.jit(gf.value_grad_and_flow(loss))(params)
    assert set(flow.taps) == {f"{side}/{name}" for side in sides for name in names}

    def by_hand(zeros):
        values, last = {}, []
        for side in sides:
            states = (jnp.zeros((3, 4)),) * len(set("ch") & set(names))
            for t in reversed(range(5)) if side.endswith("reverse") else range(5):

                def nudge(name, value, key=(side, t)):
                    values[(*key, name)] = value
                    return value + zeros[(*key, name)]

                new = step(params[side], states, x[:, t], nudge)
                counted = jnp.array([t < length for length in lengths])[:, None]
                states = tuple(jnp.where(counted, a, b) for a, b in zip(new, states, strict=True))
            last.append(states[-1])
        dense = params["Dense_head"]
        return ((jnp.concatenate(last, -1) @ dense["kernel"] + dense["bias"]) ** 2).mean(), values

    zeros = {(side, t, name): jnp.zeros((3, 4)) for side in sides for t in range(5) for name in names}
    grads, values = jax.jit(jax.grad(by_hand, has_aux=True))(zeros)

    def rms(arrays, side, name):
        return [float(jnp.sqrt((arrays[(side, t, name)] ** 2).mean())) for t in range(5)]

    for side in sides:
        for name in names:
            seen = flow[f"{side}/{name}"]
            np.testing.assert_allclose(seen.output_rms, rms(values, side, name), rtol=1e-4)
            np.testing.assert_allclose(seen.output_grad_rms, rms(grads, side, name), rtol=1e-4, atol=1e-9)
    # What the scan carries is reported as well, by number.
    if cell == "lstm":
        assert flow.carries == ("Layer_0/carry_0", "Layer_0/carry_1")
