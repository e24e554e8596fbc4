"""Small networks with a known fault, and sound ones that look as if they had one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

BATCH, INPUTS, CLASSES = 32, 24, 5


class Case(NamedTuple):
    """A call of `gradflow.diagnose`."""

    loss: Callable[..., Any]
    params: Any
    args: tuple[Any, ...]
    optimizer: Any = None
    batches: Any = None


def data(batch=BATCH, scale=1.0, dtype=jnp.float32):
    x = jax.random.normal(jax.random.key(1), (batch, INPUTS))
    y = jnp.argmax(x[:, :CLASSES] + 0.5 * x[:, CLASSES : 2 * CLASSES], axis=-1)
    return (scale * x).astype(dtype), y


def cross_entropy(logits, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def layers(widths, scale, key=0, bias=0.0):
    """Weights N(0, scale^2 / fan_in)."""
    keys = jax.random.split(jax.random.key(key), len(widths))
    pairs = itertools.pairwise(widths)
    return {
        f"layer_{k:02}": {"w": scale * jax.random.normal(keys[k], (n, m)) / n**0.5, "b": jnp.full((m,), bias)}
        for k, (n, m) in enumerate(pairs)
    }


def forward(params, x, activation):
    *hidden, last = params.values()
    for p in hidden:
        x = activation(x @ p["w"] + p["b"])
    return x @ last["w"] + last["b"]


def mlp(depth=6, width=32, activation=jax.nn.relu, scale=2**0.5, optimizer=None, change=None, factor=1.0, **of_data):
    """A chain of layers; `change` rewrites its parameters."""
    params = layers([INPUTS] + [width] * (depth - 1) + [CLASSES], scale)
    if change is not None:
        params = change(params)

    def loss(params, x, y):
        return factor * cross_entropy(forward(params, x, activation), y)

    return Case(loss, params, data(**of_data), optimizer)


def each(params, **changes):
    return {name: p | {k: f(p[k]) for k, f in changes.items()} for name, p in params.items()}


def rnn(radius, cell=jnp.tanh, steps=60, width=32, inputs=1.0):
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "in": {"w": inputs * jax.random.normal(keys[0], (4, width)) / 2},
        "recurrent": {"w": radius * jax.random.orthogonal(keys[1], width)},
        "out": {"w": jax.random.normal(keys[2], (width, CLASSES)) / width**0.5},
    }
    x = jax.random.normal(keys[3], (steps, BATCH, 4))
    y = jnp.arange(BATCH) % CLASSES

    def loss(params, x, y):
        def step(h, x):
            return cell(x @ params["in"]["w"] + h @ params["recurrent"]["w"]), None

        h, _ = jax.lax.scan(step, jnp.zeros((x.shape[1], width)), x)
        return cross_entropy(h @ params["out"]["w"], y)

    return Case(loss, params, (x, y))


def batch_of_one_normalized():
    params = layers([INPUTS, 32, 32, CLASSES], 2**0.5)

    def loss(params, x, y):
        *hidden, last = params.values()
        for p in hidden:
            z = x @ p["w"]
            x = jax.nn.relu((z - z.mean(0)) / jnp.sqrt(z.var(0) + 1e-5) + p["b"])
        return cross_entropy(x @ last["w"] + last["b"], y)

    return Case(loss, params, data(batch=1))


def small_loss_in_half_precision():
    case = mlp(depth=4)

    def loss(params, x, y):
        logits = forward(jax.tree.map(lambda p: p.astype(jnp.float16), params), x.astype(jnp.float16), jax.nn.relu)
        return 1e-9 * cross_entropy(logits, y).astype(jnp.float32)

    return case._replace(loss=loss)


def log_of_zero():
    case = mlp(depth=3)

    def loss(params, x, y):
        return -jnp.log(jax.nn.relu(forward(params, x, jnp.tanh))).mean()

    return case._replace(loss=loss)


def through_argmax():
    case = mlp(depth=4)

    def loss(params, x, y):
        first, *rest = params.values()
        code = jax.nn.one_hot(jnp.argmax(x @ first["w"], axis=-1), 32)
        return cross_entropy(forward(dict(enumerate(rest)), code, jax.nn.relu), y)

    return case._replace(loss=loss)


def slow_layer():
    """One layer is written as a small number times a large weight, so that its gradient is small beside its size."""
    case = mlp(depth=4, optimizer=optax.sgd(0.1))
    params = case.params | {"layer_01": {"w": 1e3 * case.params["layer_01"]["w"], "b": case.params["layer_01"]["b"]}}

    def loss(params, x, y):
        scaled = params | {"layer_01": {"w": 1e-3 * params["layer_01"]["w"], "b": params["layer_01"]["b"]}}
        return cross_entropy(forward(scaled, x, jax.nn.relu), y)

    return case._replace(loss=loss, params=params)


def too_steep():
    """Linear regression at 1.3 times the largest rate that converges, 2 over the largest curvature."""
    x, _ = data()
    y = x[:, :1] - x[:, 1:2]
    curvature = 2 * jnp.linalg.eigvalsh(x.T @ x / len(x))[-1]

    def loss(params, x, y):
        return jnp.square(x @ params["w"] - y).mean()

    return Case(loss, {"w": jnp.zeros((INPUTS, 1))}, (x, y), optax.sgd(float(2.6 / curvature)))


SICK: dict[str, tuple[str, Callable[[], Case]]] = {
    "sigmoid": ("vanishing", lambda: mlp(12, activation=jax.nn.sigmoid, scale=1.0)),
    "small weights": ("vanishing", lambda: mlp(12, scale=0.3)),
    "argmax": ("vanishing", through_argmax),
    "forgetful RNN": ("vanishing", lambda: rnn(0.8)),
    "large weights": ("exploding", lambda: mlp(10, scale=5.0)),
    "loud RNN": ("exploding", lambda: rnn(1.3, cell=lambda x: x, inputs=0.01)),
    "biases of -10": ("dead_units", lambda: mlp(4, change=lambda p: each(p, b=lambda b: b - 10.0))),
    "biases of -1.5": ("dead_units", lambda: mlp(4, change=lambda p: each(p, b=lambda b: b - 3.0))),
    "constant weights": (
        "poor_initialization",
        lambda: mlp(4, change=lambda p: each(p, w=lambda w: jnp.full_like(w, 0.1))),
    ),
    "zero weights": ("poor_initialization", lambda: mlp(4, change=lambda p: each(p, w=jnp.zeros_like))),
    "bent too much": ("shattered", lambda: mlp(20, activation=jnp.tanh, scale=2.5)),
    "alike": ("rank_collapse", lambda: mlp(12, activation=jax.nn.sigmoid, scale=3.0)),
    "slow layer": ("stalled_layer", slow_layer),
    "rate of 1e6": ("unstable_update", lambda: mlp(4, optimizer=optax.sgd(1e6))),
    "rate above 2 / curvature": ("learning_rate", too_steep),
    "rate of 1e-7": ("learning_rate", lambda: mlp(4, optimizer=optax.sgd(1e-7))),
    "log of 0": ("nonfinite", log_of_zero),
    "small loss in float16": ("underflow", small_loss_in_half_precision),
    "batch norm of one": ("batch_norm", batch_of_one_normalized),
}


def unscaled():
    case = mlp(4, activation=jnp.tanh, scale=1.0)
    return case._replace(args=(255.0 * case.args[0], case.args[1]))


SICK["unscaled data"] = ("saturation", unscaled)


def residual(gain, *, zero_last=False, depth=12, width=32, normalize=False):
    """A stream with branches times a learned gain: ReZero, SkipInit; with a last layer of zeros: Fixup."""
    keys = jax.random.split(jax.random.key(0), 2 * depth + 2)

    def weight(key, n, m):
        return (2 / n) ** 0.5 * jax.random.normal(key, (n, m))

    params = {
        "in": {"w": weight(keys[0], INPUTS, width)},
        **{
            f"block_{k:02}": {
                "first": weight(keys[2 * k + 1], width, width),
                "second": jnp.zeros((width, width)) if zero_last else weight(keys[2 * k + 2], width, width),
                "gain": jnp.asarray(gain),
            }
            for k in range(depth)
        },
        "out": {"w": jnp.zeros((width, CLASSES)) if zero_last else weight(keys[-1], width, CLASSES)},
    }

    def loss(params, x, y):
        x = x @ params["in"]["w"]
        for k in range(depth):
            p = params[f"block_{k:02}"]
            z = (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5) if normalize else x
            x = x + p["gain"] * (jax.nn.relu(z @ p["first"]) @ p["second"])
        return cross_entropy(x @ params["out"]["w"], y)

    return Case(loss, params, data(), optax.adam(1e-3))


def low_rank():
    base = mlp(4)
    keys = jax.random.split(jax.random.key(5), 4)
    params = {
        name: {"a": jax.random.normal(key, (p["w"].shape[0], 4)), "b": jnp.zeros((4, p["w"].shape[1]))}
        for key, (name, p) in zip(keys, base.params.items(), strict=True)
    }

    def loss(params, x, y):
        full = {n: {"w": p["w"] + params[n]["a"] @ params[n]["b"], "b": p["b"]} for n, p in base.params.items()}
        return base.loss(full, x, y)

    return Case(loss, params, base.args, optax.adam(1e-3))


def transformer(depth=4, width=32, heads=2, length=8, vocabulary=200):
    """Pre-norm, with a causal mask, padding, dropout and tied embeddings of which most rows are not used."""
    keys = iter(jax.random.split(jax.random.key(0), 6 * depth + 2))

    def weight(n, m):
        return jax.random.normal(next(keys), (n, m)) / n**0.5

    params = {
        "embed": {"table": 0.02 * jax.random.normal(next(keys), (vocabulary, width))},
        **{
            f"block_{k}": {"qkv": weight(width, 3 * width), "o": weight(width, width), "up": weight(width, 4 * width),
                           "down": weight(4 * width, width)}
            for k in range(depth)
        },
    }  # fmt: skip
    tokens = jax.random.randint(jax.random.key(3), (BATCH, length + 1), 0, 20)
    mask = jnp.arange(length)[None] < jax.random.randint(jax.random.key(4), (BATCH, 1), 3, length + 1)

    def norm(x):
        x = x - x.mean(-1, keepdims=True)
        return x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)

    def attention(p, x):
        q, k, v = jnp.split((x @ p["qkv"]).reshape(*x.shape[:2], heads, -1), 3, -1)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
        scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -jnp.inf)
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v).reshape(x.shape) @ p["o"]

    def loss(params, tokens, mask, key):
        x = params["embed"]["table"][tokens[:, :-1]]
        for k in range(depth):
            p = params[f"block_{k}"]
            x = x + attention(p, norm(x))
            keep = jax.random.bernoulli(jax.random.fold_in(key, k), 0.9, x.shape)
            x = x + jnp.where(keep, jax.nn.gelu(norm(x) @ p["up"]) @ p["down"], 0) / 0.9
        logits = norm(x) @ params["embed"]["table"].T
        each_token = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
        kept = mask.astype(each_token.dtype)
        return jnp.sum(each_token * kept) / jnp.sum(kept)

    return Case(loss, params, (tokens, mask, jax.random.key(9)), optax.adam(1e-3))


def experts():
    """Eight experts, two of which get no example."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "in": {"w": jax.random.normal(keys[0], (INPUTS, 32)) / INPUTS**0.5},
        "experts": {"w": jax.random.normal(keys[1], (8, 32, 32)) / 32**0.5},
        "out": {"w": jax.random.normal(keys[2], (32, CLASSES)) / 32**0.5},
    }

    def loss(params, x, y):
        h = jax.nn.relu(x @ params["in"]["w"])
        route = jnp.arange(x.shape[0]) % 6
        h = jax.nn.relu(jnp.einsum("bi,bij->bj", h, params["experts"]["w"][route]))
        return cross_entropy(h @ params["out"]["w"], y)

    return Case(loss, params, data(), optax.adam(1e-3))


def frozen():
    case = mlp(6, optimizer=optax.adam(1e-3))

    def loss(params, x, y):
        kept = {n: jax.lax.stop_gradient(p) if n < "layer_03" else p for n, p in params.items()}
        return case.loss(kept, x, y)

    return case._replace(loss=loss)


def wide_and_narrow(rate=0.02):
    params = layers([INPUTS, 8, 1024, 16, 512, CLASSES], 2**0.5)

    def loss(params, x, y):
        return cross_entropy(forward(params, x, jax.nn.relu), y)

    return Case(loss, params, data(), optax.sgd(rate))


def large_targets():
    params = layers([INPUTS, 32, 32, 1], 2**0.5)
    x, _ = data()
    y = 1e4 * (x[:, :1] - x[:, 1:2])

    def loss(params, x, y):
        return jnp.square(forward(params, x, jax.nn.relu) - y).mean()

    return Case(loss, params, (x, y), optax.adam(3e-2))


def half_precision():
    case = mlp(4)

    def loss(params, x, y):
        logits = forward(jax.tree.map(lambda p: p.astype(jnp.float16), params), x.astype(jnp.float16), jax.nn.relu)
        return 256.0 * cross_entropy(logits.astype(jnp.float32), y)

    return case._replace(loss=loss)


def lstm(steps=30, width=32):
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "in": {"w": jax.random.normal(keys[0], (4, 4 * width)) / 2},
        "recurrent": {"w": jax.random.normal(keys[1], (width, 4 * width)) / width**0.5},
        "bias": jnp.zeros(4 * width).at[width : 2 * width].set(2.0),
        "out": {"w": jax.random.normal(keys[2], (width, CLASSES)) / width**0.5},
    }
    x = jax.random.normal(keys[3], (steps, BATCH, 4))

    def loss(params, x, y):
        def step(carry, x):
            h, c = carry
            i, f, g, o = jnp.split(x @ params["in"]["w"] + h @ params["recurrent"]["w"] + params["bias"], 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

        zero = jnp.zeros((x.shape[1], width))
        (h, _), _ = jax.lax.scan(step, (zero, zero), x)
        return cross_entropy(h @ params["out"]["w"], y)

    return Case(loss, params, (x, jnp.arange(BATCH) % CLASSES), optax.adam(1e-3))


HEALTHY: dict[str, Callable[[], Case]] = {
    "He": lambda: mlp(6, optimizer=optax.sgd(0.05)),
    "PyTorch's initialization": lambda: mlp(5, scale=3**-0.5, optimizer=optax.adam(1e-3)),
    "deep rectifiers": lambda: mlp(24, width=64, optimizer=optax.adam(1e-4)),
    "tanh": lambda: mlp(8, activation=jnp.tanh, scale=1.1, optimizer=optax.sgd(0.1)),
    "ReZero": lambda: residual(0.0),
    "SkipInit": lambda: residual(0.0, normalize=False, depth=24),
    "Fixup": lambda: residual(1.0, zero_last=True),
    "batch norm and skips": lambda: residual(1.0, normalize=True),
    "low rank": low_rank,
    "transformer": transformer,
    "experts": experts,
    "frozen": frozen,
    "widths": wide_and_narrow,
    "batch of one": lambda: mlp(5, batch=1),
    "one class": lambda: (c := mlp(5, optimizer=optax.adam(1e-3)))._replace(args=(c.args[0], jnp.zeros(BATCH, int))),
    "large targets": large_targets,
    "float16 with a loss scale": half_precision,
    "LSTM": lstm,
    "small loss": lambda: mlp(6, factor=1e-6, optimizer=optax.adam(1e-3, eps=1e-14)),
}
