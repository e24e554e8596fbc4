"""Flax Linen: a residual network with batch norm on images; the running statistics come back as aux.

python examples/linen_resnet.py; tensorboard --logdir runs
"""

import argparse

import jax
import numpy as np
import optax
from flax import linen as nn

import gradflow as gf

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--logdir", default="runs/linen_resnet")
args = parser.parse_args()

data = gf.data.load()  # a tenth of Fashion-MNIST, which is part of the package
images, labels = data.normalize(data.train.images), data.train.labels


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(16, (3, 3), strides=2, use_bias=False)(x)
        for _ in range(2):
            y = nn.relu(nn.BatchNorm(use_running_average=False)(x))
            y = nn.Conv(16, (3, 3), use_bias=False)(y)
            y = nn.relu(nn.BatchNorm(use_running_average=False)(y))
            x = x + nn.Conv(16, (3, 3), use_bias=False)(y)
        return nn.Dense(10)(nn.relu(x).mean((1, 2)))


def loss_fn(params, state, images, labels):
    logits, state = model.apply({"params": params, **state}, images, mutable=["batch_stats"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), state


def batch(step):
    rows = np.random.default_rng(step).integers(0, len(images), 64)
    return images[rows], labels[rows]


model, optimizer = ResNet(), optax.sgd(0.1, momentum=0.9)
state = jax.jit(model.init)(jax.random.key(0), batch(0)[0])
params = state.pop("params")
opt_state = optimizer.init(params)
print(gf.diagnose(loss_fn, params, state, *batch(0), has_aux=True))
watch = gf.watch(loss_fn, every=50, writers=[gf.live.TensorBoard(args.logdir)], has_aux=True)


def train_step(step, params, state, opt_state, images, labels):
    (loss, state), grads, record = watch(step, params, state, images, labels)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    record = watch.updates(record, updates, params)
    return optax.apply_updates(params, updates), state, opt_state, loss, record


train_step = watch.jit(train_step)
with watch:
    for step in range(args.steps):
        params, state, opt_state, loss, record = train_step(step, params, state, opt_state, *batch(step))
        watch.write(record)
print(f"loss after {args.steps} steps: {loss:.3f}")
