"""How the gradient grows over the blocks of the networks of `residual` before training, plain and residual.

A branch hands down 1 / v of the squared gradient, v the variance over the batch that its batch normalization finds;
the skip hands down all of it. A branch adds 1 - 1/pi to v. In a plain network v is that, and the gradient explodes by
pi / (pi - 1) a block (Yang et al. 2019); in a residual one v grows with every block, and the gradient by no more than a
power of depth.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

import gradflow as gf
from experiments.framework.bands import gradient_rate
from experiments.framework.claims import Claim
from experiments.framework.images import Images
from experiments.residual import bands, network
from experiments.residual.network import Form

NETWORKS, BATCH = 32, 64


@dataclasses.dataclass(frozen=True)
class Profile:
    """Gradient over blocks at initialization, plain networks first, and by theory."""

    measured: Float[np.ndarray, "2 networks blocks"]
    theory: Float[np.ndarray, "2 blocks"]


def gradients(key: PRNGKeyArray, kind: Form, images: Images, *, blocks: int, width: int) -> Float[Array, " blocks"]:
    """Rms of the loss's gradient with respect to the stream before each block, over that before the last.

    Args:
        key: randomness.
        kind: of network.
        images: one batch.
        blocks: of the network.
        width: of the stream.
    """
    params = network.init(key, blocks, width, images.x.shape[1])
    function = gf.value_grad_and_flow(network.loss, statistics=("output_grad_rms",))
    rms = function(params, images, kind)[2]["stream"].output_grad_rms
    return rms / rms[-1]


def predicted(blocks: int, variance: float, *, skip: bool) -> Float[np.ndarray, " blocks"]:
    """Rms of the gradient before each block over that before the last, for unrelated examples.

    Args:
        blocks: of the network.
        variance: v of the stream that enters.
        skip: with skip connections.
    """
    added = 1 / gf.theory.batchnorm_rate("relu", BATCH)
    v = variance + added * np.arange(blocks) if skip else np.full(blocks, added)
    squares = np.cumprod((skip + 1 / v[:-1])[::-1])[::-1]
    return np.sqrt(np.append(squares, 1.0))


def measure(images: Images, blocks: int, width: int, seed: int) -> Profile:
    """Measure 32 networks of either kind on one batch.

    Args:
        images: training images, of which the first 64 are the batch.
        blocks: of the networks.
        width: of their streams.
        seed: of their randomness.
    """
    batch = images.first(BATCH)
    keys = jax.random.split(jax.random.key(seed), NETWORKS)

    @jax.jit
    def both(kinds: Form) -> Array:
        def one(kind: Form) -> Array:
            return jax.vmap(lambda key: gradients(key, kind, batch, blocks=blocks, width=width))(keys)

        return jax.lax.map(one, kinds)

    entering = float(jnp.var(batch.x, 0).mean())
    return Profile(
        measured=np.asarray(both(Form(jnp.asarray([0.0, 1.0]), jnp.ones(2), jnp.ones(2)))),
        theory=np.stack([predicted(blocks, entering, skip=skip) for skip in (False, True)]),
    )


def upper_rates(profiles: Float[np.ndarray, "networks blocks"]) -> Float[np.ndarray, " networks"]:
    """Fit the factor of the squared gradient over the upper half of the blocks.

    By then examples have come as far apart as batch normalization brings them.

    Args:
        profiles: from `gradients`.
    """
    return gradient_rate(profiles[:, profiles.shape[1] // 2 :])


def claims(results: Profile) -> list[Claim]:
    """Hold the growth of the gradient over blocks against theory: it explodes in the plain network alone.

    Args:
        results: from `measure`.
    """
    found = []
    for name, profiles, theory in zip(("plain", "residual"), results.measured, results.theory, strict=True):
        expected = float(upper_rates(theory[None])[0])
        line = f"{name}, at initialization: ln of the squared gradient's factor a block over theory's {expected:.3f}"
        away = np.log(upper_rates(profiles).mean() / expected)
        found.append(Claim(f"gradient-{name}", line, bands.gradient_rate(name), away))
    return found
