"""Graph networks, and layers of experts of which each example takes one."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.diagnosis import tasks
from experiments.diagnosis.families.building import (
    LECUN,
    RATES,
    Params,
    Rng,
    affine,
    classifier,
    dense,
    normal,
    pick,
)
from experiments.diagnosis.specimen import Specimen, scaled

__all__ = ["experts", "graph_network"]

WIDTH = 24
FACTORS = (0.5, 0.8, 1.0, 1.0, 1.0, 1.25, 2.0)
CLOSED = -1e9  # added to what a router says of an expert that is never asked


@dataclasses.dataclass(frozen=True)
class GraphNetwork:
    """Each layer takes the mean over a node and its neighbours: Kipf & Welling 2017.

    Attributes:
        depth: number of such layers.
    """

    depth: int

    def init(self, rng: Rng) -> Params:
        """Draw the parameters.

        Args:
            rng: that draws them.
        """
        widths = [tasks.SIGNALS, *[WIDTH] * self.depth]
        layers = {f"graph_{k}": dense(rng, widths[k], widths[k + 1]) for k in range(self.depth)}
        return layers | {"head": dense(rng, WIDTH, tasks.CLASSES, LECUN)}

    def __call__(self, params: Params, x: Float[Array, "batch nodes width"]) -> Float[Array, "all_nodes classes"]:
        """Return logits of every node.

        Args:
            params: from `init`.
            x: signals of the nodes, and behind them the rows of the normalized adjacency.
        """
        signals, neighbours = jnp.split(x, [tasks.SIGNALS], axis=-1)
        for k in range(self.depth):
            signals = jax.nn.relu(affine(params[f"graph_{k}"], neighbours @ signals))
        return affine(params["head"], signals).reshape(-1, tasks.CLASSES)


def graph_network(rng: Rng) -> Specimen:
    """Draw a graph network over depth, size of the weights and optimizer.

    Args:
        rng: that draws it.
    """
    depth, factor, way = pick(rng, (1, 2, 3, 4, 8)), pick(rng, FACTORS), pick(rng, RATES)
    network, seed = GraphNetwork(depth), int(rng.integers(2**31))
    params = scaled(network.init(rng), factor)
    return classifier(f"{depth} layers, {factor:g} of He, {way}", network, params, tasks.graphs(seed), RATES[way])


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Layers of which each example takes the expert that a router prefers: Fedus et al. 2022, "Switch Transformers".

    Attributes:
        depth: number of such layers.
        experts: of each layer.
        idle: experts that are never asked.
        residual: whether a layer is added to its input.
    """

    depth: int
    experts: int
    idle: int
    residual: bool

    def init(self, rng: Rng) -> Params:
        """Draw the parameters.

        Args:
            rng: that draws them.
        """
        params = {"inputs": dense(rng, tasks.FEATURES, WIDTH)}
        for k in range(self.depth):
            deviation = (2 / WIDTH) ** 0.5
            params[f"router_{k}"] = dense(rng, WIDTH, self.experts, LECUN)
            params[f"experts_{k}"] = {"kernel": normal(rng, (self.experts, WIDTH, WIDTH), deviation)}
        return params | {"head": dense(rng, WIDTH, tasks.CLASSES, LECUN)}

    def __call__(self, params: Params, x: Float[Array, "batch features"]) -> Float[Array, "batch classes"]:
        """Return logits.

        Args:
            params: from `init`.
            x: inputs.
        """
        x = jax.nn.relu(affine(params["inputs"], x))
        closed = jnp.where(jnp.arange(self.experts) < self.idle, CLOSED, 0.0)
        for k in range(self.depth):
            shares = jax.nn.softmax(affine(params[f"router_{k}"], x) + closed)
            taken = shares * jax.nn.one_hot(jnp.argmax(shares, axis=-1), self.experts)
            each = jax.nn.relu(jnp.einsum("bi,eij->bej", x, params[f"experts_{k}"]["kernel"]))
            mixed = jnp.einsum("be,bej->bj", taken, each)
            x = x + mixed if self.residual else mixed
        return affine(params["head"], x)


def experts(rng: Rng) -> Specimen:
    """Draw a network with experts over depth, their number, those that are idle, and optimizer.

    Args:
        rng: that draws it.
    """
    count, way = pick(rng, (4, 8)), pick(rng, RATES)
    network = Mixture(pick(rng, (1, 2, 3)), count, pick(rng, (0, 0, 1, count // 2)), bool(rng.integers(2)))
    seed = int(rng.integers(2**31))
    skip = "with" if network.residual else "without"
    name = f"{network.depth} layers of {count} experts, {network.idle} idle, {skip} skips, {way}"
    return classifier(name, network, network.init(rng), tasks.vectors(seed), RATES[way])
