"""Measure how much of published Keras models, and of transformers of each framework, is predicted, for docs/predict.md.

python -m tests.theory.tracing.measure_frameworks [NAME...]

Keras: fresh weights, batch norm in training, 8 images of 64 x 64. Transformers: 12 blocks, 8 sequences.
"""

from __future__ import annotations

import os
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import numpy as np

from gradflow import theory
from tests.theory.tracing import language_models

NAMES = ("ResNet50", "MobileNetV2", "EfficientNetB0", "ConvNeXtTiny")
SIDE, BATCH, BLOCKS = 64, 8, 12


def main() -> None:
    """Print a row a model."""
    print(
        "| model | layers | outputs predicted | gradients predicted | outside attention | layers with an outlier "
        "| CPU seconds |\n|---|---|---|---|---|---|---|"
    )
    for name in sys.argv[1:] or (*NAMES, *language_models.MODELS):
        begin = time.process_time()
        prediction, attention = predict(name) if name in NAMES else predict_transformer(name)
        forward, backward = prediction.coverage
        layers, outliers = len(prediction.layers), len(prediction.outliers)
        shares = language_models.outside_attention(prediction, attention).coverage
        print(
            f"| {name} | {layers} | {forward:.0%} | {backward:.0%} | {shares[0]:.0%}, {shares[1]:.0%} "
            f"| {outliers} of {layers} | {time.process_time() - begin:.0f} |",
            flush=True,
        )


def predict_transformer(name: str) -> tuple[theory.Prediction, tuple[str, ...]]:
    """Predict a transformer; return the prediction and the names of attention."""
    model, params, attention = language_models.MODELS[name](BLOCKS, 0)
    shape = (BATCH, language_models.LENGTH)
    tokens = jax.random.randint(jax.random.key(1), shape, 0, language_models.VOCABULARY)
    return theory.predict(model, params, tokens), attention


def predict(name: str) -> tuple[theory.Prediction, tuple[str, ...]]:
    """Predict one of `keras.applications`, which have no attention, from weights that are drawn anew."""
    keras.utils.set_random_seed(0)
    options = {"weights": None, "input_shape": (SIDE, SIDE, 3), "classes": 10, "classifier_activation": None}
    model = getattr(keras.applications, name)(**options)
    state = [variable.value for variable in model.non_trainable_variables]
    images = jax.random.normal(jax.random.key(0), (BATCH, SIDE, SIDE, 3))
    params = [np.asarray(variable.value) for variable in model.trainable_variables]
    prediction = theory.predict(
        lambda params, x: model.stateless_call(params, state, x, training=True)[0], params, images
    )
    return prediction, ()


if __name__ == "__main__":
    main()
