"""Singular values of deep networks at the start, measured and by free probability."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

import gradflow as gf
from experiments.framework import resume
from experiments.framework.progress import track
from gradflow.theory.mean_field.ensembles import Ensemble

_AIRY_MEAN = -1.2065  # of the Tracy-Widom law of real matrices
_BELOW_EDGE = 0.01  # part of the edge, over which its density is a square root


class Network(NamedTuple):
    """A kind of network whose Jacobian is decomposed.

    Attributes:
        activation: name.
        ensemble: of the weights.
        bias_variance: sigma_b^2; weights are critical for it.
    """

    activation: str
    ensemble: Ensemble
    bias_variance: float

    @property
    def name(self) -> str:
        """As figures and claims call it."""
        return f"{self.activation}, {self.ensemble}"


NETWORKS = (
    Network("identity", "orthogonal", 0.0),
    Network("identity", "gaussian", 0.0),
    Network("tanh", "orthogonal", 1e-3),
    Network("tanh", "gaussian", 1e-3),
    Network("relu", "orthogonal", 0.0),
    Network("relu", "gaussian", 0.0),
)

ACTIVATIONS = ("identity", "tanh", "relu")
ENSEMBLES: tuple[Ensemble, ...] = ("orthogonal", "gaussian")
GRID = np.geomspace(0.02, 10, 400)  # singular values at which densities are computed


class Point(NamedTuple):
    """Where a network sits: sigma_w^2 and the variance q of its pre-activations."""

    weight_variance: float
    q: float


def point(network: Network) -> Point:
    """Critical weight variance and the fixed point of the variance; 1 where every variance is one.

    Args:
        network: which.
    """
    if network.activation in ("identity", "relu"):
        return Point({"identity": 1.0, "relu": 2.0}[network.activation], 1.0)
    weight_variance = gf.theory.critical_weight_variance(network.activation, bias_variance=network.bias_variance)
    found = gf.theory.fixed_point(
        network.activation, weight_variance=weight_variance, bias_variance=network.bias_variance
    )
    return Point(weight_variance, found.q_star)


class Settings(NamedTuple):
    """A kind of network as numbers.

    Attributes:
        activation: its place in `ACTIVATIONS`.
        ensemble: that of the weights in `ENSEMBLES`.
        deviation: sigma_w.
        bias_deviation: sigma_b.
        input_deviation: of the inputs, such that the first pre-activations have the variance q.
    """

    activation: int
    ensemble: int
    deviation: float
    bias_deviation: float
    input_deviation: float


def settings(network: Network, at: Point) -> Settings:
    """Put a kind of network into numbers.

    Args:
        network: which.
        at: its weight variance, and the variance q of the first pre-activation.
    """
    return Settings(
        ACTIVATIONS.index(network.activation), ENSEMBLES.index(network.ensemble), math.sqrt(at.weight_variance),
        math.sqrt(network.bias_variance), math.sqrt((at.q - network.bias_variance) / at.weight_variance),
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("depths", "width"))
def jacobians(
    keys: PRNGKeyArray, settings: Settings, *, depths: tuple[int, ...], width: int
) -> Float[Array, "draws depths width width"]:
    """J = D_L W_L ... D_1 W_1 of random networks at a random input, after given numbers of layers.

    Args:
        keys: of weights, biases and the input, one a network.
        settings: as numbers, so that one program serves all kinds of network.
        depths: numbers of layers, ascending.
        width: of every layer.
    """

    def kernel(key: PRNGKeyArray) -> Float[Array, "width width"]:
        draws = [init(1.0) for init in (gf.initializers.orthogonal, gf.initializers.gaussian)]
        branches = [functools.partial(draw, shape=(width, width), dtype=jnp.float32) for draw in draws]
        return settings.deviation * jax.lax.switch(settings.ensemble, branches, key)

    def layer(carry: tuple[Array, Array], key: PRNGKeyArray) -> tuple[tuple[Array, Array], Array]:
        x, product = carry
        weight_key, bias_key = jax.random.split(key)
        weights = kernel(weight_key)
        z = x @ weights + settings.bias_deviation * jax.random.normal(bias_key, (width,))
        slopes = [functools.partial(jax.jvp, gf.activations.get(name)) for name in ACTIVATIONS]
        x, slope = jax.lax.switch(settings.activation, slopes, (z,), (jnp.ones_like(z),))
        product = (product @ weights) * slope
        return (x, product), product

    def one(key: PRNGKeyArray) -> Float[Array, "depths width width"]:
        start_key, layers_key = jax.random.split(key)
        start = (settings.input_deviation * jax.random.normal(start_key, (width,)), jnp.eye(width))
        _, products = jax.lax.scan(layer, start, jax.random.split(layers_key, depths[-1]))
        return products[np.array(depths) - 1]

    return jax.lax.map(one, keys)


@dataclasses.dataclass(frozen=True)
class Spectra:
    """Singular values of Jacobians; by theory E[s^4] / E[s^2]^2, the largest's mean at this width, and the density."""

    networks: Shaped[np.ndarray, " networks"]
    depths: Int[np.ndarray, " depths"]
    values: Float[np.ndarray, "networks depths draws width"]
    second: Float[np.ndarray, "networks depths"]
    largest: Float[np.ndarray, "networks depths"]
    grid: Float[np.ndarray, " points"]
    density: Float[np.ndarray, "networks depths points"]


def decomposed(key: PRNGKeyArray, settings: Settings, depths: tuple[int, ...], width: int) -> list[list[float]]:
    """Singular values of one network's Jacobians, (depths, width), as JSON holds them.

    Args:
        key: of the network, (1,).
        settings: as `jacobians` takes them.
        depths: the same.
        width: the same.
    """
    (products,) = np.asarray(jacobians(key, settings, depths=depths, width=width), np.float64)
    values: list[list[float]] = np.linalg.svd(products, compute_uv=False).tolist()
    return values


def measure(*, depths: tuple[int, ...], width: int, draws: int, seed: int) -> Spectra:
    """Decompose Jacobians of every kind of network, and predict what comes out; draws are not done twice by `--resume`.

    Args:
        depths: numbers of layers, ascending.
        width: of every layer.
        draws: networks of each kind.
        seed: of everything.
    """
    keys = jax.random.split(jax.random.key(seed), draws)
    parts, found = resume.Parts("spectra"), []
    for network in track(NETWORKS, "spectra", lambda network: network.name):
        at = point(network)
        values = np.stack([
            parts.part(f"{network.name}, draw {draw}", functools.partial(
                decomposed, keys[draw : draw + 1], settings(network, at), depths, width))
            for draw in range(draws)
        ], axis=1)  # fmt: skip
        options: dict[str, Any] = {"weight_variance": at.weight_variance, "ensemble": network.ensemble}
        rows = [_theory(network, at, depth, width, options) for depth in depths]
        found.append((values, *(np.stack(column) for column in zip(*rows, strict=True))))
    values, second, largest, density = (np.stack(column) for column in zip(*found, strict=True))
    return Spectra(
        networks=np.array([network.name for network in NETWORKS]),
        depths=np.array(depths),
        values=values,
        second=second,
        largest=largest,
        grid=GRID,
        density=density,
    )


def tracy_widom(edge: float, below: float, density: float, width: int) -> float:
    """Mean of the largest singular value of a real random matrix whose density ends at an edge as C sqrt(edge - s).

    edge - 1.2065 / (pi N C)^(2/3), the unit of length in which all such edges are that of the Airy kernel
    (Tracy & Widom 1996).

    Args:
        edge: where the density ends.
        below: a point a little below.
        density: there.
        width: N.
    """
    return edge + _AIRY_MEAN / (math.pi * width * density / math.sqrt(edge - below)) ** (2 / 3)


def _theory(network: Network, at: Point, depth: int, width: int, options: dict[str, Any]) -> tuple[np.ndarray, ...]:
    moments = gf.theory.spectrum_moments(network.activation, [at.q] * depth, **options)
    second = moments.variance / moments.mean**2 + 1
    if network.name == "identity, orthogonal":
        return np.array(second), np.array(1.0), np.full(len(GRID), np.nan)
    edge = gf.theory.largest_singular_value(network.activation, depth, q=at.q, **options)
    below = (1 - _BELOW_EDGE) * edge
    density = gf.theory.spectrum_density(network.activation, depth, np.append(GRID, below), q=at.q, **options)
    return np.array(second), np.array(tracy_widom(edge, below, density[-1], width)), density[:-1]
