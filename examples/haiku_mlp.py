"""Haiku: a multilayer perceptron on images, with a post-mortem of the batch that spoils it.

python examples/haiku_mlp.py; tensorboard --logdir runs
"""

import argparse

import haiku as hk
import jax
import numpy as np
import optax

import gradflow as gf

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=600)
parser.add_argument("--logdir", default="runs/haiku_mlp")
args = parser.parse_args()

data = gf.data.load()  # a tenth of Fashion-MNIST, which is part of the package
images, labels = data.normalize(data.train.images), data.train.labels


def batch(step):
    rows = np.random.default_rng(step).integers(0, len(images), 128)
    scale = 100 if step == 40 else 1  # one batch that somebody forgot to normalize
    return images[rows] * np.float32(scale), labels[rows]


def loss_fn(params, images, labels):
    logits = net.apply(params, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([128, 128, 64, 10])(hk.Flatten()(x))))
params = net.init(jax.random.key(0), batch(0)[0])
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
opt_state = optimizer.init(params)
print(gf.diagnose(loss_fn, params, *batch(0)))
watch = gf.watch(loss_fn, every=50, writers=[gf.live.TensorBoard(args.logdir)], history=100)


def train_step(step, params, opt_state, images, labels):
    _, grads, record = watch(step, params, images, labels)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    record = watch.updates(record, updates, params)
    return optax.apply_updates(params, updates), opt_state, record


train_step = watch.jit(train_step, donate_argnums=(1, 2))
with watch:
    for step in range(args.steps):
        params, opt_state, record = train_step(step, params, opt_state, *batch(step))
        watch.write(record)
for postmortem in watch.postmortems:
    print(postmortem.sentence)
