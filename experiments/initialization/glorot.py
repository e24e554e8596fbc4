"""Glorot & Bengio 2010, Figs 6 to 8: activations, gradients and Jacobians of a tanh network at initialization."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Shaped

import gradflow as gf
from experiments.framework.images import Images, rows
from experiments.framework.progress import track

SCHEMES = {"standard": "standard", "normalized": "glorot_uniform"}
BINS = 101
EXAMPLES = 300  # images that histograms are taken over
JACOBIANS = 2  # images whose layer Jacobians are decomposed


@dataclasses.dataclass(frozen=True)
class Flow:
    """What flows through a tanh network at initialization under both schemes.

    Attributes:
        schemes: standard and normalized.
        activation_edges: of the bins of its densities.
        activation_density: of the activations of every hidden layer.
        activation_std: their standard deviation.
        activation_theory: their rms, from the images' mean squares through the variance map.
        variance: of every hidden layer's pre-activations, measured.
        gradient_edges: of the bins of its densities.
        gradient_density: of dL/dz of every hidden layer.
        gradient_std: its standard deviation.
        gradient_theory: rms relative to the last hidden layer, from the measured forward signal.
        weight_gradient_std: standard deviation of dL/dW of every layer.
        jacobian_mean: mean singular value of the Jacobians of layers 2 to depth.
        jacobian_theory: the same by free probability, at the variances that the pre-activations have.
        jacobian_values: singular values at one image.
    """

    schemes: Shaped[np.ndarray, "2"]
    activation_edges: Float[np.ndarray, " edges"]
    activation_density: Float[np.ndarray, "2 depth bins"]
    activation_std: Float[np.ndarray, "2 depth"]
    activation_theory: Float[np.ndarray, "2 depth"]
    variance: Float[np.ndarray, "2 depth"]
    gradient_edges: Float[np.ndarray, " edges"]
    gradient_density: Float[np.ndarray, "2 depth bins"]
    gradient_std: Float[np.ndarray, "2 depth"]
    gradient_theory: Float[np.ndarray, "2 depth"]
    weight_gradient_std: Float[np.ndarray, "2 layers"]
    jacobian_mean: Float[np.ndarray, "2 inner"]
    jacobian_theory: Float[np.ndarray, "2 inner"]
    jacobian_values: Float[np.ndarray, "2 inner width"]


@dataclasses.dataclass(frozen=True)
class Spread:
    """ln |J u|^2 of many ReLU networks, with mean and variance by theory."""

    depths: Int[np.ndarray, " depths"]
    width: int
    logs: Float[np.ndarray, "depths networks"]
    mean: Float[np.ndarray, " depths"]
    variance: Float[np.ndarray, " depths"]


def kernels(key: Array, scheme: str, sizes: list[int]) -> list[Float[Array, "fan_in fan_out"]]:
    """Draw the weights of a network without biases.

    Args:
        key: randomness.
        scheme: name of an initializer.
        sizes: entries of the input, units of every layer.
    """
    init = gf.initializers.get(scheme)
    keys = jax.random.split(key, len(sizes) - 1)
    return [init(k, (n, m), jnp.float32) for k, n, m in zip(keys, sizes, sizes[1:], strict=False)]


def signals(weights: list[Array], batch: Images) -> dict[str, list[Array]]:
    """Everything that flows through a tanh network: forward, backward, and into the weights.

    Args:
        weights: of every layer.
        batch: images and labels.

    Returns:
        `activation` and `slope`, tanh and its derivative in each hidden layer (batch, units); `gradient`, dL/dz there,
        for L the sum of cross-entropies; `weight_gradient`, dL/dW of every layer for the mean.
    """

    def loss(weights: list[Array], added: list[Array]) -> tuple[Array, list[Array]]:
        x, activations = batch.x, []
        for kernel, more in zip(weights[:-1], added, strict=True):
            x = jnp.tanh(x @ kernel + more)
            activations.append(x)
        losses = optax.softmax_cross_entropy_with_integer_labels(x @ weights[-1], batch.y)
        return losses.sum(), activations

    nothing = [jnp.zeros((len(batch.y), kernel.shape[1])) for kernel in weights[:-1]]
    (into_weights, cotangents), activations = jax.grad(loss, argnums=(0, 1), has_aux=True)(weights, nothing)
    return {
        "activation": activations,
        "slope": [1 - jnp.square(h) for h in activations],
        "gradient": cotangents,
        "weight_gradient": [g / len(batch.y) for g in into_weights],
    }


def jacobian_values(kernel: Float[Array, "n m"], slope: Float[Array, " m"]) -> Float[Array, " k"]:
    """Singular values of a layer's Jacobian dh_l/dh_(l-1) = diag(phi'(z_l)) W_l^T at one image.

    Args:
        kernel: W_l.
        slope: phi'(z_l).
    """
    return jnp.linalg.svd(kernel * slope, compute_uv=False)


def measure(data: gf.data.ImageDataset, *, depth: int, width: int, seed: int) -> Flow:
    """Measure both schemes on the same images.

    Args:
        data: images.
        depth: hidden layers.
        width: units of each.
        seed: of the weights.
    """
    batch = rows(data, data.train, EXAMPLES)
    sizes = [batch.x.shape[1], *[width] * depth, 10]
    compiled = jax.jit(signals)
    flows = {}
    for name, scheme in SCHEMES.items():
        weights = kernels(jax.random.key(seed), scheme, sizes)
        flows[name] = (weights, compiled(weights, batch))
    widest = max(float(jnp.std(g)) for _, flow in flows.values() for g in flow["gradient"])
    edges = {"activation": np.linspace(-1, 1, BINS + 1), "gradient": np.linspace(-4 * widest, 4 * widest, BINS + 1)}
    found: dict[str, Any] = {}
    for kind, marks in edges.items():
        found[f"{kind}_edges"] = marks
        found[f"{kind}_density"] = np.stack(
            [[np.histogram(np.asarray(v), marks, density=True)[0] for v in flow[kind]] for _, flow in flows.values()]
        )
    for kind in ("activation", "gradient", "weight_gradient"):
        found[f"{kind}_std"] = np.array([[float(jnp.std(v)) for v in flow[kind]] for _, flow in flows.values()])
    squares = np.square(np.asarray(batch.x, np.float64)).mean(1)
    found["variance"] = np.array([[float(jnp.var(z(h))) for h in flow["activation"]] for _, flow in flows.values()])
    for kind, predicted in (
        ("activation", lambda weights, flow: _signal(weights, squares)),
        ("gradient", _gradient),
        ("jacobian", _mean_values),
    ):
        found[f"{kind}_theory"] = np.stack([predicted(weights, flow) for weights, flow in flows.values()])
    values = np.stack([_jacobians(name, *flows[name]) for name in track(list(SCHEMES), "Jacobians")])
    return Flow(
        schemes=np.array(list(SCHEMES)), jacobian_mean=values.mean((2, 3)), jacobian_values=values[:, :, 0], **found
    )


def z(activation: Float[Array, "batch units"]) -> Float[Array, "batch units"]:
    """Pre-activations behind tanh.

    Args:
        activation: what it gave.
    """
    return jnp.arctanh(activation)


def _jacobians(name: str, weights: list[Array], flow: dict[str, list[Array]]) -> np.ndarray:
    decompose = jax.jit(jacobian_values)
    layers = zip(weights[1:-1], flow["slope"][1:], strict=True)
    return np.array([[decompose(kernel, slope[image]) for image in range(JACOBIANS)] for kernel, slope in layers])


def _signal(weights: list[Array], squares: np.ndarray) -> np.ndarray:
    """Rms of tanh's activations by layer: q_1 = n Var[W_1] s, q_(l+1) = n Var[W] E[tanh^2], s an image's mean square.

    The map is read off a table of 400 variances.
    """
    grid = np.geomspace(1e-4 * squares.min(), 4 * squares.max(), 400)
    mapped = gf.theory.variance_map("tanh", grid, weight_variance=1.0, bias_variance=0.0)
    rms = []
    for kernel in weights[:-1]:
        squares = np.interp(kernel.shape[0] * float(jnp.var(kernel)) * squares, grid, mapped)
        rms.append(np.sqrt(squares.mean()))
    return np.array(rms)


def _mean_values(weights: list[Array], flow: dict[str, list[Array]]) -> np.ndarray:
    """Mean singular value of the Jacobians of the inner layers, at the images that they are decomposed at."""
    means = []
    for kernel, h in zip(weights[1:-1], flow["activation"][1:], strict=True):
        variances = [float(jnp.var(z(h[image]))) for image in range(JACOBIANS)]
        scale = np.sqrt(len(kernel) * float(jnp.var(kernel)))
        means.append(scale * np.mean([mean_singular_value(q) for q in variances]))
    return np.array(means)


def mean_singular_value(q: float) -> float:
    """Mean singular value of D W, W square and wide of entries N(0, 1/n), D = diag(tanh'(z)), z ~ N(0, q).

    With x a squared singular value, s = sqrt(x) = (2 / pi) int x / (x + t) d sqrt(t) over t > 0. By free probability
    (`gf.theory.spectrum_density`, the equation at z = -t, w = -v) a v > 0 belongs to every t, and with d = tanh'(z)^2

        t = v E[v / (v + d)],   E[x / (x + t)] = E[d / (v + d)].

    D = 1 gives 8 / (3 pi), the mean of the quarter-circle law.

    Args:
        q: variance of the pre-activations.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    weights, d = weights / weights.sum(), np.cosh(np.sqrt(q) * nodes) ** -4.0
    v = np.geomspace(1e-8, 1e10, 2001)[:, None]
    root, inside = np.sqrt(v[:, 0] * (v / (v + d) @ weights)), d / (v + d) @ weights
    return float(2 / np.pi * np.trapezoid(inside, root))


def _gradient(weights: list[Array], flow: dict[str, list[Array]]) -> np.ndarray:
    """Rms of dL/dz over layers relative to the last: each layer multiplies its square by n Var[W] E[phi'^2].

    E[phi'^2] is that of a Gaussian with the variance that the layer's pre-activations have.
    """
    profile = [1.0]
    for kernel, activation in reversed(list(zip(weights[1:-1], flow["activation"][:-1], strict=True))):
        slope_square = float(gf.theory.moments("tanh", float(jnp.var(z(activation)))).slope_square)
        profile.append(profile[-1] * np.sqrt(kernel.shape[1] * float(jnp.var(kernel)) * slope_square))
    return np.array(profile[::-1])


def log_norms(
    key: Array, *, depths: tuple[int, ...], width: int, networks: int
) -> Float[np.ndarray, "depths networks"]:
    """Sample ln |J u|^2 of random ReLU networks for a fixed direction u, after given numbers of layers.

    A random sign of the pre-activation decides whether a unit is open, as at a random input.

    Args:
        key: randomness.
        depths: numbers of layers, growing.
        width: of every layer.
        networks: how many are drawn.
    """

    def one(key: Array) -> Array:
        def layer(carry: tuple[Array, Array], key: Array) -> tuple[tuple[Array, Array], Array]:
            x, u = carry
            kernel = jax.random.normal(key, (width, width)) * np.sqrt(2 / width).astype(np.float32)
            z = x @ kernel
            u = jnp.where(z > 0, u @ kernel, jnp.zeros_like(u))
            x = jax.nn.relu(z)
            return (x / jnp.linalg.norm(x), u), 2 * jnp.log(jnp.linalg.norm(u))

        start, direction = jax.random.normal(key, (2, width))
        keys = jax.random.split(key, depths[-1])
        _, logs = jax.lax.scan(layer, (start, direction / jnp.linalg.norm(direction)), keys)
        return logs[np.array(depths) - 1]

    over_networks = functools.partial(jax.lax.map, one, batch_size=50)
    return np.asarray(jax.jit(over_networks)(jax.random.split(key, networks))).T
