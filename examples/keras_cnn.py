"""Keras 3 on JAX: a convolutional network, trained by `model.fit` and watched by a callback.

python examples/keras_cnn.py; tensorboard --logdir runs
"""

import argparse
import os

os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported
import keras
from keras import layers

import gradflow as gf

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--logdir", default="runs/keras_cnn")
args = parser.parse_args()

data = gf.data.load()  # a tenth of Fashion-MNIST, which is part of the package
size = 64
count = min(args.steps * size, len(data.train.labels))
images, labels = data.normalize(data.train.images[:count]), data.train.labels[:count]

keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        layers.Input((28, 28, 1)),
        layers.Conv2D(16, 3, 2, activation="relu", name="first"),
        layers.Conv2D(32, 3, 2, activation="relu", name="second"),
        layers.Flatten(),
        layers.Dense(64, activation="relu", name="hidden"),
        layers.Dense(10, name="head"),
    ]
)
cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=cross_entropy)


def loss_fn(trainable, images, labels):
    fixed = [variable.value for variable in model.non_trainable_variables]
    logits, _ = model.stateless_call(trainable, fixed, images, training=True)
    return cross_entropy(labels, logits)


trainable = [variable.value for variable in model.trainable_variables]
print(gf.diagnose(loss_fn, trainable, images[:size], labels[:size]))
watch = gf.watch(every=50, writers=[gf.live.TensorBoard(args.logdir)])  # Keras brings the loss
with watch:
    epochs = -(-args.steps // (count // size))
    model.fit(images, labels, size, epochs, verbose=2, callbacks=[gf.live.KerasCallback(watch)])
