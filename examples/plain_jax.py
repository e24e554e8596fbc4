"""Plain JAX: six layers of sigmoids do not learn, and the verdict says why. With rectifiers they do.

python examples/plain_jax.py                        the sick network
python examples/plain_jax.py --activation relu      the cured one
tensorboard --logdir runs
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradflow as gf

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--activation", choices=["sigmoid", "relu"], default="sigmoid")
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--logdir", default="runs/plain_jax")
args = parser.parse_args()

data = gf.data.load()  # a tenth of Fashion-MNIST, which is part of the package
images, labels = data.normalize(data.train.images), data.train.labels
WIDTHS = [784, *[64] * 6, 10]
keys = jax.random.split(jax.random.key(0), len(WIDTHS) - 1)
params = [
    {"w": jax.random.normal(key, (n, m)) * (2 / n) ** 0.5, "b": jnp.zeros(m)}
    for key, n, m in zip(keys, WIDTHS[:-1], WIDTHS[1:], strict=True)
]


def loss_fn(params, images, labels):
    x = images.reshape(len(images), -1)
    for layer in params[:-1]:
        x = getattr(jax.nn, args.activation)(x @ layer["w"] + layer["b"])
    logits = x @ params[-1]["w"] + params[-1]["b"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def batch(step):
    rows = np.random.default_rng(step).integers(0, len(images), 128)
    return images[rows], labels[rows]


print(gf.diagnose(loss_fn, params, *batch(0)))
watch = gf.watch(loss_fn, every=100, writers=[gf.live.TensorBoard(args.logdir)])


def train_step(step, params, images, labels):
    loss, grads, record = watch(step, params, images, labels)  # in place of jax.value_and_grad(loss_fn)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), loss, record


train_step = watch.jit(train_step)  # two programs: the steps between records are those of an unwatched run
with watch:
    for step in range(args.steps):
        params, loss, record = train_step(step, params, *batch(step))
        watch.write(record)
print(f"loss after {args.steps} steps: {loss:.3f}")
