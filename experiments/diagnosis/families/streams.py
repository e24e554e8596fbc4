"""Residual streams: a sum to which each block adds its branch of two dense layers."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.diagnosis import tasks
from experiments.diagnosis.families.building import (
    LECUN,
    MILD,
    RATES,
    Family,
    Params,
    Rng,
    affine,
    classifier,
    dense,
    layer_norm,
    norm,
    pick,
    standardized,
)
from experiments.diagnosis.specimen import Specimen, scaled

__all__ = ["stream"]

WIDTH = 24
Kind = Literal["post-activation", "layer norm", "batch norm", "Fixup", "SkipInit"]
DEPTHS: dict[Kind, tuple[int, ...]] = {
    "post-activation": (1, 2, 4, 8, 15),
    "layer norm": (1, 2, 4, 8, 12),
    "batch norm": (4, 8, 12),
    "Fixup": (2, 4, 8, 15),
    "SkipInit": (2, 4, 8, 15),
}
FACTORS: dict[Kind, tuple[float, ...]] = {
    "post-activation": (0.2, 0.5, 0.8, 1.0, 1.0, 1.25, 2.0),
    "layer norm": (0.2, 0.5, 0.8, 1.0, 1.0, 1.25, 2.0, 4.0),
}


@dataclasses.dataclass(frozen=True)
class Stream:
    """A residual network of dense layers.

    Attributes:
        kind: "post-activation": relu(x + f(x)), He et al. 2016a. "layer norm": x + f(norm(x)). "batch norm": the same
            with a norm of the batch before both layers, He et al. 2016b. "Fixup", Zhang et al. 2019: the second layer
            of a branch and the head are 0, the first is divided by the root of the depth. "SkipInit", De & Smith 2020:
            a branch has a learned factor, 0 at first.
        depth: number of blocks.
    """

    kind: Kind
    depth: int

    def init(self, rng: Rng) -> Params:
        """Draw the parameters.

        Args:
            rng: that draws them.
        """
        params: Params = {"inputs": dense(rng, tasks.FEATURES, WIDTH, LECUN)}
        first = 2 / self.depth if self.kind == "Fixup" else 2.0
        second = 0.0 if self.kind == "Fixup" else 1.0
        for k in range(self.depth):
            params[f"block_{k:02}_first"] = dense(rng, WIDTH, WIDTH, first)
            params[f"block_{k:02}_second"] = dense(rng, WIDTH, WIDTH, second)
            if self.kind in ("layer norm", "batch norm"):
                params[f"block_{k:02}_norm"] = norm(WIDTH)
            if self.kind in ("Fixup", "SkipInit"):
                params[f"block_{k:02}_factor"] = {"scale": jnp.full((), 1.0 if self.kind == "Fixup" else 0.0)}
        return params | {"head": dense(rng, WIDTH, tasks.CLASSES, second)}

    def __call__(self, params: Params, x: Float[Array, "batch features"]) -> Float[Array, "batch classes"]:
        """Return logits.

        Args:
            params: from `init`.
            x: inputs.
        """
        x = affine(params["inputs"], x)
        for k in range(self.depth):
            x = x + self._branch(params, f"block_{k:02}", x)
            if self.kind == "post-activation":
                x = jax.nn.relu(x)
        return affine(params["head"], standardized(x, -1) if self.kind == "layer norm" else x)

    def _branch(self, params: Params, name: str, x: Float[Array, "batch width"]) -> Float[Array, "batch width"]:
        if self.kind == "layer norm":
            x = layer_norm(params[f"{name}_norm"], x)
        if self.kind == "batch norm":
            own = params[f"{name}_norm"]
            x = jax.nn.relu(standardized(x, 0) * own["scale"] + own["bias"])
        inner = affine(params[f"{name}_first"], x)
        inner = jax.nn.relu(standardized(inner, 0) if self.kind == "batch norm" else inner)
        out = affine(params[f"{name}_second"], inner)
        return params[f"{name}_factor"]["scale"] * out if self.kind in ("Fixup", "SkipInit") else out


def stream(kind: Kind) -> Family:
    """Return the family of residual networks of one kind over depth, size of the weights and optimizer.

    Args:
        kind: of the networks.
    """

    def family(rng: Rng) -> Specimen:
        network = Stream(kind, pick(rng, DEPTHS[kind]))
        factor, way, seed = pick(rng, FACTORS.get(kind, MILD)), pick(rng, RATES), int(rng.integers(2**31))
        params = scaled(network.init(rng), factor)
        name = f"{network.depth} blocks, {factor:g} of the weights, {way}"
        return classifier(name, network, params, tasks.vectors(seed), RATES[way])

    return family
