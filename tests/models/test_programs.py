"""Each family reused in a bare JAX program: it learns, and nothing else of gradflow is loaded."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

REST = {"diagnosis", "live", "data", "training", "plots", "theory.spectra", "theory.tracing", "initializers.lsuv"}

ACTIVATION = """
from gradflow import activations
phi = activations.get("tanh")
x = jax.random.normal(jax.random.key(0), (256, 300))
for key in jax.random.split(jax.random.key(1), 10):
    x = phi(x @ (phi.gain / 300**0.5 * jax.random.normal(key, (300, 300))))
assert abs((x**2).mean() / phi.moments(1.0).square - 1) < 0.5
"""
INITIALIZER = """
from gradflow import initializers
point = initializers.critical("tanh", bias_variance=0.05, kernel="orthogonal")
keys = jax.random.split(jax.random.key(0), 40).reshape(20, 2)
layers = [(point.kernel(k, (300, 300)), point.bias(b, (300,))) for k, b in keys]
net = lambda x: functools.reduce(lambda h, layer: jnp.tanh(h @ layer[0] + layer[1]), layers, x)
slope = jax.grad(lambda x: net(x)[0])(jax.random.normal(jax.random.key(1), (300,)))
assert 0.2 < (slope**2).sum() < 2
"""
TRAINING = """
from gradflow.models import MODEL
x, y = jax.random.normal(jax.random.key(0), SHAPE), jnp.arange(16) % 2
variables = model.init(jax.random.key(1), x)
def loss(params):
    logits, state = model.apply({**variables, "params": params}, x, TRAIN, mutable=["batch_stats"])
    return -(jax.nn.log_softmax(logits)[jnp.arange(16), y]).mean(), state
step = jax.jit(jax.value_and_grad(loss, has_aux=True))
params = variables["params"]
for _ in range(STEPS):
    (value, state), grads = step(params)
    params, variables = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), {**variables, **state}
assert value < 0.4, value
"""


def training(model, options, shape, train, steps):
    lines = (
        TRAINING.replace("MODEL", model).replace("SHAPE", shape).replace("STEPS", str(steps)).replace("TRAIN", train)
    )
    return lines.replace("variables = model", f"model = {model}({options})\nvariables = model", 1)


# Program, and what else of gradflow than the rest it may not load.
PROGRAMS = {
    "activations": (ACTIVATION, {"models", "initializers", "instrument"}),
    "initializers": (INITIALIZER, {"models", "instrument"}),
    "mlp": (training("MLP", "depth=3, width=32, outputs=2, normalization='batch'", "(16, 9)", "train=True", 60), set()),
    "resnet": (training("ResNet", "depth=8, outputs=2", "(16, 8, 8, 3)", "train=True", 20), set()),
    "cnn": (training("CNN", "depth=4, channels=8, outputs=2", "(16, 8, 8, 3)", "train=True", 300), set()),
    "recurrent": (training("Recurrent", "cell='gru', hidden=16, outputs=2", "(16, 6, 4)", "lengths=None", 200), set()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_bare_jax_program(name):
    program, others = PROGRAMS[name]
    body = [line for line in program.splitlines() if line]
    assert len(body) <= 14
    code = "\n".join(
        [
            "import functools, sys\nimport jax, jax.numpy as jnp",
            *body,
            "names = [name.split('.') for name in sys.modules if name.startswith('gradflow.')]",
            "parts = {'.'.join(name[1:depth]) for name in names for depth in (2, 3)}",
            f"assert not {REST | others!r} & parts, parts",
            "assert not {'optax', 'orbax', 'matplotlib', 'tensorflow_datasets'} & set(sys.modules)",
        ]
    )
    quick = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=quick, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
