"""The instrument sees every contraction of every model, in forward order, under the name of its parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.models import MLP, Recurrent, ResNet

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
    "lstm": (
        Recurrent(cell="lstm", hidden=4, outputs=2, layers=2),
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
        Recurrent(cell="gru", hidden=4, outputs=2, bidirectional=True),
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
