"""Xiao et al. 2018: convolutional networks of thousands of layers, without skip connections or normalization."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

import gradflow as gf
from experiments.progress import track
from experiments.runner import Results

KERNELS = ("delta_orthogonal", "gaussian")
BIAS_VARIANCE = 2e-5
PATCH = 4  # pixels; a patch's pixels become channels, so that no layer has to see more than a few positions
BATCH, MEASURED = 16, 4


def patches(images: Float[np.ndarray, "n h w c"]) -> Float[Array, "n h/4 w/4 16*c"]:
    """Turn each patch of pixels into the channels of one position.

    Args:
        images: whose sides are multiples of `PATCH`.
    """
    n, h, w, c = images.shape
    parts = images.reshape(n, h // PATCH, PATCH, w // PATCH, PATCH, c).transpose(0, 1, 3, 2, 4, 5)
    return jnp.asarray(parts.reshape(n, h // PATCH, w // PATCH, PATCH * PATCH * c))


def network(kernel: str, depth: int, channels: int, remat: Any) -> gf.models.CNN:
    """A critical tanh network.

    Args:
        kernel: one of `KERNELS`.
        depth: convolutions.
        channels: of each.
        remat: as `gf.models.CNN` takes it.
    """
    critical = gf.initializers.critical("tanh", bias_variance=BIAS_VARIANCE, kernel=kernel)  # type: ignore[arg-type]
    options: dict[str, Any] = {"initializer": critical.kernel, "bias": critical.bias, "scan": True, "remat": remat}
    return gf.models.CNN(depth=depth, channels=channels, outputs=10, **options)


def profile(x: Array, y: Array, kernel: str, depth: int, channels: int, seed: int) -> dict[str, np.ndarray]:
    """Signal and gradient of every layer of an untrained network, measured by the instrument.

    Args:
        x: images in patches.
        y: their classes.
        kernel: one of `KERNELS`.
        depth: convolutions.
        channels: of each.
        seed: of the weights.

    Returns:
        `forward`, `backward` (depth,), rms of the outputs of the convolutions and of the loss's gradient there.
    """
    model = network(kernel, depth, channels, True)
    params = jax.jit(model.init)(jax.random.key(seed), x[:1])

    def loss(params: Any, x: Array, y: Array) -> Array:
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, x), y).mean()

    run = gf.value_grad_and_flow(loss, statistics=("output_rms", "output_grad_rms"), data_gradients=False)
    # The gradient itself is as large as the network and not asked for.
    flow = jax.jit(lambda *given: run(*given)[2])(params, x[:MEASURED], y[:MEASURED])
    found = gf.monitor.profile(flow)
    return {
        "forward": np.asarray(found["output_rms"])[:depth],
        "backward": np.asarray(found["output_grad_rms"])[:depth],
    }


def train(
    x: Array, y: Array, kernel: str, *, depth: int, channels: int, steps: int, rate: float, seed: int
) -> Float[np.ndarray, " steps"]:
    """Training loss of one network, momentum .9; chance from the step on at which it went non-finite.

    Args:
        x: images in patches.
        y: their classes.
        kernel: one of `KERNELS`.
        depth: convolutions.
        channels: of each.
        steps: training steps.
        rate: learning rate.
        seed: of weights and order.
    """
    model = network(kernel, depth, channels, "segments")
    optimizer = optax.sgd(rate, momentum=0.9)
    step = gf.training.make_step(gf.training.classification(model), optimizer)
    state = gf.training.init(model, optimizer, jax.random.key(seed), x[:1])
    source = gf.data.on_device(x, y, BATCH)

    @jax.jit
    def run(state: gf.training.TrainState, source: gf.data.OnDevice) -> Array:
        return gf.training.averages(gf.training.run(step, state, source, steps)[1])["loss"]

    return np.nan_to_num(np.asarray(run(state, source)), nan=np.log(10))


def measure(
    data: gf.data.ImageDataset, *, depth: int, deepest: int, channels: int, steps: int, rate: float, seed: int
) -> Results:
    """Train networks from both kinds of kernel, and measure a deeper one before training.

    Args:
        data: images.
        depth: convolutions of the trained networks.
        deepest: convolutions of the network that is measured only.
        channels: of each.
        steps: training steps; 0 to leave training out.
        rate: learning rate.
        seed: of everything.

    Returns:
        `cnn_kernels`, `cnn_depth`; `cnn_loss` (kernels, steps); `cnn_forward`, `cnn_backward` (kernels, deepest);
        `cnn_theory` (2, deepest), signal and gradient that theory predicts, the signal from the first layer's on, the
        gradient relative to the last.
    """
    count = len(data.train)
    x = patches(np.asarray(data.normalize(data.train.images[:count])))
    y = jnp.asarray(data.train.labels)
    profiles = [
        profile(x, y, kernel, deepest, channels, seed)
        for kernel in track(KERNELS, "instrumented", lambda kernel: f"{deepest} layers, {kernel}")
    ]
    losses = [
        train(x, y, kernel, depth=depth, channels=channels, steps=steps, rate=rate, seed=seed)
        for kernel in track(KERNELS if steps else (), "trained", lambda kernel: f"{depth} layers, {kernel}")
    ]
    return {
        "cnn_kernels": np.array(KERNELS),
        "cnn_depth": np.array(depth),
        "cnn_loss": np.array(losses).reshape(len(losses), steps),
        "cnn_forward": np.stack([found["forward"] for found in profiles]),
        "cnn_backward": np.stack([found["backward"] for found in profiles]),
        "cnn_theory": predicted(float(profiles[0]["forward"][0]), deepest),
    }


def predicted(first: float, depth: int) -> Float[np.ndarray, "2 depth"]:
    """Signal and gradient over depth by mean field theory: q_(l+1) = sigma_w^2 E[tanh^2] + sigma_b^2.

    Args:
        first: rms of the first layer's pre-activation.
        depth: layers.
    """
    weight_variance = gf.theory.critical_weight_variance("tanh", bias_variance=BIAS_VARIANCE)
    options = {"weight_variance": weight_variance, "bias_variance": BIAS_VARIANCE}
    before = max(first**2 - BIAS_VARIANCE, 0) / weight_variance  # mean square that would give this first layer
    variances = np.asarray(gf.theory.variance_profile("tanh", depth, before, **options))
    rates = gf.theory.backward_rates("tanh", variances[:-1], weight_variance=weight_variance)
    backward = np.concatenate([np.cumprod(np.asarray(rates)[::-1])[::-1], [1.0]])
    return np.sqrt(np.stack([variances, backward]))
