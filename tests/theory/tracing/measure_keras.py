"""Measure how much of published Keras models is predicted, for docs/predict.md.

python -m tests.theory.tracing.measure_keras [NAME...]    fresh weights, batch norm in training, 8 images of 64 x 64
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

NAMES = ("ResNet50", "MobileNetV2", "EfficientNetB0", "ConvNeXtTiny")
SIDE, BATCH = 64, 8


def main() -> None:
    """Print a row a model."""
    print("| model | layers | outputs predicted | gradients predicted | layers with an outlier | CPU seconds |")
    print("|---|---|---|---|---|---|")
    for name in sys.argv[1:] or NAMES:
        begin = time.process_time()
        prediction = predict(name)
        forward, backward = prediction.coverage
        layers, outliers = len(prediction.layers), len(prediction.outliers)
        spent = time.process_time() - begin
        print(
            f"| {name} | {layers} | {forward:.1%} | {backward:.1%} | {outliers} of {layers} | {spent:.0f} |", flush=True
        )


def predict(name: str) -> theory.Prediction:
    """Predict one of `keras.applications` from weights that are drawn anew."""
    keras.utils.set_random_seed(0)
    options = {"weights": None, "input_shape": (SIDE, SIDE, 3), "classes": 10, "classifier_activation": None}
    model = getattr(keras.applications, name)(**options)
    state = [variable.value for variable in model.non_trainable_variables]
    images = jax.random.normal(jax.random.key(0), (BATCH, SIDE, SIDE, 3))
    params = [np.asarray(variable.value) for variable in model.trainable_variables]
    return theory.predict(lambda params, x: model.stateless_call(params, state, x, training=True)[0], params, images)


if __name__ == "__main__":
    main()
