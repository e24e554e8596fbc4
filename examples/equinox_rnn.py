"""Equinox: a plain recurrent network that adds two numbers of a sequence, and how far its gradient reaches.

python examples/equinox_rnn.py; tensorboard --logdir runs
"""

import argparse

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import gradflow as gf

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=500)
parser.add_argument("--length", type=int, default=50)
parser.add_argument("--logdir", default="runs/equinox_rnn")
args = parser.parse_args()


class RNN(eqx.Module):
    read: eqx.nn.Linear
    recur: eqx.nn.Linear
    head: eqx.nn.Linear

    def __init__(self, key):
        a, b, c = jax.random.split(key, 3)
        self.read = eqx.nn.Linear(2, 32, key=a)
        self.recur = eqx.nn.Linear(32, 32, key=b)
        self.head = eqx.nn.Linear(32, 1, key=c)

    def __call__(self, sequence):
        step = lambda h, x: (jnp.tanh(self.read(x) + self.recur(h)), None)
        return self.head(jax.lax.scan(step, jnp.zeros(32), sequence)[0])


def loss_fn(model, inputs, targets):
    return jnp.mean((jax.vmap(model)(inputs) - targets) ** 2)


source = gf.data.generate(gf.data.sequences.Adding(args.length), batch_size=64)
batch = jax.jit(lambda step: source.batch(jax.random.key(1), step)[:2])
model, optimizer = RNN(jax.random.key(0)), optax.adam(1e-3)
opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
print(gf.diagnose(loss_fn, model, *batch(0)))
watch = gf.watch(loss_fn, every=50, writers=[gf.live.TensorBoard(args.logdir)])


def train_step(step, model, opt_state, inputs, targets):
    loss, grads, record = watch(step, model, inputs, targets)
    updates, opt_state = optimizer.update(grads, opt_state)
    record = watch.updates(record, updates, model)
    return eqx.apply_updates(model, updates), opt_state, loss, record


train_step = watch.jit(train_step, jit=eqx.filter_jit)
with watch:
    for step in range(args.steps):
        model, opt_state, loss, record = train_step(step, model, opt_state, *batch(step))
        watch.write(record)
print(f"loss after {args.steps} steps: {loss:.3f}")
