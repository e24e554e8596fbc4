"""Flax NNX: a small GPT learns a sonnet by heart, character by character.

python examples/nnx_gpt.py; tensorboard --logdir runs
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import gradflow as gf

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--blocks", type=int, default=2)
parser.add_argument("--logdir", default="runs/nnx_gpt")
args = parser.parse_args()

TEXT = """Shall I compare thee to a summer's day? Thou art more lovely and more temperate: Rough winds do shake the
darling buds of May, And summer's lease hath all too short a date: So long as men can breathe or eyes can see, So long
lives this, and this gives life to thee."""
CHARACTERS = sorted(set(TEXT))
tokens, LENGTH, WIDTH = np.array([CHARACTERS.index(c) for c in TEXT]), 32, 64


class Block(nnx.Module):
    def __init__(self, rngs):
        self.norm1, self.norm2 = nnx.LayerNorm(WIDTH, rngs=rngs), nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, WIDTH, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs), nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x), mask=nnx.make_causal_mask(x[..., 0]))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class GPT(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(len(CHARACTERS), WIDTH, rngs=rngs)
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (LENGTH, WIDTH)))
        self.blocks = nnx.List([Block(rngs) for _ in range(args.blocks)])
        self.norm, self.head = nnx.LayerNorm(WIDTH, rngs=rngs), nnx.Linear(WIDTH, len(CHARACTERS), rngs=rngs)

    def __call__(self, x):
        x = self.embed(x) + self.positions[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def loss_fn(model, text):
    return optax.softmax_cross_entropy_with_integer_labels(model(text[:, :-1]), text[:, 1:]).mean()


def batch(step):
    starts = np.random.default_rng(step).integers(0, len(tokens) - LENGTH, (16, 1))
    return jnp.asarray(tokens[starts + np.arange(LENGTH + 1)])


model = GPT(nnx.Rngs(0))
optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
graph, params = nnx.split(model)  # a diagnosis wants parameters that it may change
print(gf.diagnose(lambda params, text: loss_fn(nnx.merge(graph, params), text), params, batch(0)))
watch = gf.watch(loss_fn, every=50, writers=[gf.live.TensorBoard(args.logdir)])


def train_step(step, model, optimizer, text):
    loss, grads, record = watch(step, model, text)
    optimizer.update(model, grads)
    return loss, record


train_step = watch.jit(train_step, jit=nnx.jit)
with watch:
    for step in range(args.steps):
        loss, record = train_step(step, model, optimizer, batch(step))
        watch.write(record)
print(f"loss after {args.steps} steps: {loss:.3f}")
