"""Xiao et al. 2018: convolutional networks of thousands of layers, without skip connections or normalization."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Shaped

import gradflow as gf
from experiments.framework.progress import track
from experiments.framework.stretches import in_stretches

KERNELS = ("delta_orthogonal", "gaussian")
PATCH = 4  # pixels; a patch's pixels become channels, so that no layer has to see more than a few positions
BATCH, MEASURED = 32, 4
MOMENTUM, CLIPPED = 0.9, 1.0  # CLIPPED: norm of the whole gradient, beyond which a step is shortened


def patches(images: Float[np.ndarray, "n h w c"], pooled: int = 1) -> Float[Array, "n rows columns 16*c"]:
    """Turn each patch of pixels into the channels of one position.

    Inputs are centered, pixel by pixel, and of mean square 1: what all images share would be learnt first and says
    nothing of their class.

    Args:
        images: any; what a side has beyond a multiple of `PATCH` is cut off at both ends.
        pooled: side of the squares whose pixels are averaged into one beforehand.
    """
    n, c = images.shape[0], images.shape[-1]
    counts = [side // (pooled * PATCH) for side in images.shape[1:3]]
    h, w = (count * PATCH for count in counts)
    top, left = ((side - kept * pooled) // 2 for side, kept in zip(images.shape[1:3], (h, w), strict=True))
    kept = images[:, top : top + h * pooled, left : left + w * pooled]
    small = kept.reshape(n, h, pooled, w, pooled, c).mean((2, 4))
    centered = small - small.mean(0)
    parts = (centered / centered.std()).reshape(n, counts[0], PATCH, counts[1], PATCH, c).transpose(0, 1, 3, 2, 4, 5)
    return jnp.asarray(parts.reshape(n, *counts, PATCH * PATCH * c), jnp.float32)


def network(kernel: str, depth: int, channels: int, remat: Any) -> gf.models.CNN:
    """A critical tanh network, as nonlinear as isometry over its depth allows (`gf.theory.best_variances`).

    Args:
        kernel: one of `KERNELS`.
        depth: convolutions.
        channels: of each.
        remat: as `gf.models.CNN` takes it.
    """
    bias_variance = gf.theory.best_variances("tanh", depth).bias_variance
    critical = gf.initializers.critical("tanh", bias_variance=bias_variance, kernel=kernel)  # type: ignore[arg-type]
    options: dict[str, Any] = {"initializer": critical.kernel, "bias": critical.bias, "scan": True, "remat": remat}
    return gf.models.CNN(depth=depth, channels=channels, outputs=10, **options)


def input_scale(depth: int) -> float:
    """Factor of inputs of mean square 1 that gives the first layer the variance q*, at which it stays.

    Args:
        depth: convolutions.
    """
    best = gf.theory.best_variances("tanh", depth)
    return math.sqrt((best.q_star - best.bias_variance) / best.weight_variance)


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
    found = gf.live.profile(flow)
    return {
        "forward": np.asarray(found["output_rms"])[:depth],
        "backward": np.asarray(found["output_grad_rms"])[:depth],
    }


def train(
    x: Array, y: Array, kernel: str, *, depth: int, channels: int, steps: int, rate: float, seed: int
) -> Float[np.ndarray, " steps"]:
    """Training loss of one network by clipped descent with momentum; chance once it went non-finite.

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
    optimizer = optax.chain(optax.clip_by_global_norm(CLIPPED), optax.sgd(rate, momentum=MOMENTUM))
    step = gf.training.make_step(gf.training.classification(model), optimizer)
    start = gf.training.init(model, optimizer, jax.random.key(seed), x[:1])
    source = gf.data.on_device(x, y, BATCH)

    @functools.partial(jax.jit, static_argnames="steps")
    def advance(state: gf.training.TrainState, source: gf.data.OnDevice, steps: int) -> Any:
        state, metrics = gf.training.run(step, state, source, steps)
        return state, gf.training.means(metrics)["loss"]

    positions = math.prod(x.shape[1:3])
    loss = in_stretches(
        f"{depth} convolutions, {kernel}", lambda state, count: advance(state or start, source, count),
        steps=steps, every=1, work=8.0 * BATCH * positions * 9 * channels**2 * depth, sums=True,
    )[1]  # fmt: skip
    return np.nan_to_num(loss, nan=np.log(10))


@dataclasses.dataclass(frozen=True)
class Convolutions:
    """Plain convolutional networks of both kinds of kernel.

    Attributes:
        kernels: their names.
        depth: layers of those that are trained.
        loss: of these, empty without training.
        forward: rms of pre-activations of the deepest ones before training.
        backward: rms of the gradient there.
        theory: both by theory, for delta-orthogonal kernels.
        spread: standard deviation of the logarithm of the gradient between networks of this width.
        signal_spread: that of the last layer's signal.
        signal_shift: of ln of that signal, by the finite width.
    """

    kernels: Shaped[np.ndarray, " kernels"]
    depth: int
    loss: Float[np.ndarray, "kernels steps"]
    forward: Float[np.ndarray, "kernels layers"]
    backward: Float[np.ndarray, "kernels layers"]
    theory: Float[np.ndarray, "2 layers"]
    spread: Float[np.ndarray, " layers"]
    signal_spread: float
    signal_shift: float


def measure(
    data: gf.data.ImageDataset,
    *,
    depth: int,
    deepest: int,
    channels: int,
    pooled: int,
    steps: int,
    rate: float,
    seed: int,
) -> Convolutions:
    """Train networks from both kinds of kernel, and measure a deeper one before training.

    Args:
        data: images.
        depth: convolutions of the trained networks.
        deepest: convolutions of the network that is measured only; every position of its inputs has the mean square
            that `input_scale` gives.
        channels: of each.
        pooled: as `patches` takes it.
        steps: training steps; 0 to leave training out.
        rate: learning rate.
        seed: of everything.
    """
    x = patches(np.asarray(data.normalize(data.train.images)), pooled)
    y = jnp.asarray(data.train.labels)
    # Every position by itself: one below q* would have its gradient grow until its signal has reached it.
    sizes = jnp.sqrt(jnp.mean(x**2, -1, keepdims=True))
    scaled = x / jnp.maximum(sizes, 1e-6) * jnp.float32(input_scale(deepest))
    profiles = [
        profile(scaled, y, kernel, deepest, channels, seed)
        for kernel in track(KERNELS, "instrumented", lambda kernel: f"{deepest} layers, {kernel}")
    ]
    losses = [
        train(x, y, kernel, depth=depth, channels=channels, steps=steps, rate=rate, seed=seed)
        for kernel in track(KERNELS if steps else (), "trained", lambda kernel: f"{depth} layers, {kernel}")
    ]
    return Convolutions(
        kernels=np.array(KERNELS),
        depth=depth,
        loss=np.array(losses).reshape(len(losses), steps),
        forward=np.stack([found["forward"] for found in profiles]),
        backward=np.stack([found["backward"] for found in profiles]),
        theory=predicted(float(profiles[0]["forward"][0]), deepest),
        **spreads(deepest, channels),
    )


def predicted(first: float, depth: int) -> Float[np.ndarray, "2 depth"]:
    """Signal and gradient over depth by mean field theory: q_(l+1) = sigma_w^2 E[tanh^2] + sigma_b^2.

    Args:
        first: rms of the first layer's pre-activation.
        depth: layers.
    """
    best = gf.theory.best_variances("tanh", depth)
    options = {"weight_variance": best.weight_variance, "bias_variance": best.bias_variance}
    before = max(first**2 - best.bias_variance, 0) / best.weight_variance  # mean square that would give this layer
    variances = np.asarray(gf.theory.variance_profile("tanh", depth, before, **options))
    rates = gf.theory.backward_rates("tanh", variances[:-1], weight_variance=best.weight_variance)
    backward = np.concatenate([np.cumprod(np.asarray(rates)[::-1])[::-1], [1.0]])
    return np.sqrt(np.stack([variances, backward]))


def spreads(depth: int, channels: int) -> dict[str, Any]:
    """Standard deviations of ln of the rms gradient relative to the last layer's, and of ln of the rms signal there.

    Over delta-orthogonal kernels and of one position, where such a network is a fully connected one of orthogonal
    weights; a mean over positions strays less, as far as their masks differ.

    Orthogonal weights keep |h|^2, so the n pre-activations lie on a sphere and E[h^4] = 3 q^2 n / (n + 2), not 3 q^2.
    The map of tanh, q -> sigma_w^2 (q - (2/3) E[h^4] + ...) + sigma_b^2, then gains 4 q^2 / (n + 2) a layer. At
    criticality it gives back 2 q of a deviation a layer, so that after L layers q is larger by 2 (1 - exp(-2 q* L)) /
    (n + 2), and ln of the rms by half of that.

    Args:
        depth: layers.
        channels: of each.

    Returns:
        `spread` (depth,) of the gradient, `signal_spread` of the signal, `signal_shift` of the signal's mean.
    """
    best = gf.theory.best_variances("tanh", depth)
    law = gf.theory.width_profile(
        "tanh", [channels] * depth, input_scale(depth) ** 2, weight_variance=best.weight_variance,
        bias_variance=best.bias_variance, ensemble="orthogonal",
    )  # fmt: skip
    gradient = np.append(np.sqrt(law.jacobian_variance[:-1])[::-1] / 2, 0.0)
    return {
        "spread": gradient,
        "signal_spread": math.sqrt(law.signal_variance[-1]) / 2,
        "signal_shift": -math.expm1(-2 * input_scale(depth) ** 2 * depth) / (channels + 2),
    }
