"""Shattered gradients (Balduzzi et al. 2017): how like each other the gradients at nearby inputs are."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

import gradflow as gf
from experiments.framework.claims import Claim, goal
from experiments.framework.pilots import at_most
from experiments.residual import bands, network
from experiments.residual.network import Form, Params

PUBLISHED = {
    "plain + batch norm, 1 block": (1, network.form(skip=False, normalized=True)),
    "plain + batch norm, 24 blocks": (24, network.form(skip=False, normalized=True)),
    "residual + batch norm, 50 blocks, branch .1": (50, network.form(skip=True, normalized=True, branch_scale=0.1)),
}  # Balduzzi et al., Fig. 1
FURTHER = {
    "residual + batch norm, 50 blocks": (50, network.form(skip=True, normalized=True)),
    "plain, 24 blocks": (24, network.form(skip=False, normalized=False)),
    "residual, 50 blocks": (50, network.form(skip=True, normalized=False)),
}
NETWORKS = PUBLISHED | FURTHER
POINTS, LIMIT = 256, 2.0
LAGS = 15
AT_ONCE = 8  # networks, of which memory holds every block's stream for the backward pass
CORRELATION = 0.5  # of the two inputs whose gradients are compared over depth
BATCH = 64  # of the normalized networks that are measured over depth
KINDS = {
    "plain": network.form(skip=False, normalized=False),
    "residual": network.form(skip=True, normalized=False),
    "plain + batch norm": network.form(skip=False, normalized=True),
    "residual + batch norm": network.form(skip=True, normalized=True),
}


@dataclasses.dataclass(frozen=True)
class Lines:
    """Gradients along a line of inputs: one network of each kind, and mean autocorrelations.

    Of the two kinds without normalization, by theory, too, with the standard error that a mean over networks has.
    """

    x: Float[np.ndarray, " points"]
    gradient: Float[np.ndarray, "networks points"]
    autocorrelation: Float[np.ndarray, "networks lags"]
    theory: Float[np.ndarray, "2 lags"]
    error: Float[np.ndarray, "2 lags"]


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Correlation of the gradients at two inputs over depth, of each of `KINDS`, with standard error of the mean."""

    depths: Int[np.ndarray, " depths"]
    measured: Float[np.ndarray, "kinds depths"]
    error: Float[np.ndarray, "kinds depths"]
    theory: Float[np.ndarray, "kinds depths"]


def grid_gradients(
    key: PRNGKeyArray, depths: Int[Array, " kinds"], kinds: Form, *, blocks: int, width: int
) -> Float[Array, "kinds points"]:
    """Gradient of a random network's output at 256 numbers between -2 and 2, all of them one batch.

    The stem has a bias, as large as its weights: without it, and without normalization, the network is linear on either
    side of 0. Batch normalization takes it out again.

    Args:
        key: randomness, of the parameters that all kinds share.
        depths: blocks that count, of each kind.
        kinds: of network, stacked.
        blocks: blocks that there are.
        width: of the stream.
    """
    params_key, bias_key = jax.random.split(key)
    params = network.init(params_key, blocks, width, 1, 1)
    bias = jax.random.normal(bias_key, (width,))
    x = jnp.linspace(-LIMIT, LIMIT, POINTS)[:, None]

    def gradient(depth_and_kind: tuple[Array, Form]) -> Array:
        depth, kind = depth_and_kind
        return jax.grad(lambda x: jnp.sum(_readout(params, x @ params["stem"]["kernel"] + bias, kind, depth)))(x)[:, 0]

    return jax.lax.map(gradient, (depths, kinds))


def _readout(params: Params, x: Float[Array, "batch width"], kind: Form, depth: Array | int) -> Float[Array, "batch 1"]:
    """A linear function of the stream after `depth` blocks."""

    def block(x: Array, layer: tuple[dict[str, Array], Array]) -> tuple[Array, None]:
        there = functools.partial(_block, kind=kind)
        return jax.lax.cond(layer[1] < depth, there, lambda x, _: x, x, layer[0]), None

    indices = jnp.arange(len(params["blocks"]["scale"]))
    return jax.lax.scan(block, x, (params["blocks"], indices))[0] @ params["head"]["kernel"]


def _block(x: Float[Array, "batch width"], layer: dict[str, Array], kind: Form) -> Float[Array, "batch width"]:
    return kind.skip * x + network.branch(x, layer, kind)


def autocorrelation(gradients: Float[np.ndarray, "networks points"], lags: int) -> Float[np.ndarray, "networks lags"]:
    """Autocorrelation of gradients along the line of inputs, at distances of 0 ... lags - 1 points.

    Args:
        gradients: of several networks.
        lags: how many distances.
    """
    centred = gradients - gradients.mean(1, keepdims=True)
    power = (centred**2).sum(1)
    return np.stack([(centred[:, : POINTS - lag] * centred[:, lag:]).sum(1) / power for lag in range(lags)], axis=1)


def predicted_autocorrelation(blocks: int, lags: int, *, skip: bool) -> Float[np.ndarray, "draws lags"]:
    """Autocorrelation along the line of infinitely wide networks without normalization, in 1024 draws.

    The output is a Gaussian process with covariance K(x, y) = r s c_L, r^2 = 1 + x^2, s^2 = 1 + y^2, where c_L comes
    from c_0 = (1 + x y) / (r s) by the correlation map C of ReLU, block by block, and by the mean of c and C(c) with
    skip connections. Its gradient has the covariance d^2 K / dx dy, here by central differences.

    Args:
        blocks: L.
        lags: how many distances.
        skip: with skip connections.
    """
    x, step = np.linspace(-LIMIT, LIMIT, POINTS), 1e-4

    def covariance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        scale = np.sqrt((1 + x**2)[:, None] * (1 + y**2))
        c = (1 + x[:, None] * y) / scale
        for _ in range(blocks):
            c = (c + relu_map(c)) / 2 if skip else relu_map(c)
        return scale * c

    pairs = [(a, b) for a in (1, -1) for b in (1, -1)]
    mixed = sum((a * b * covariance(x + a * step, x + b * step) for a, b in pairs), np.zeros((POINTS, POINTS)))
    variances, directions = np.linalg.eigh(mixed / (4 * step**2))
    drawn = np.random.default_rng(0).normal(size=(1024, POINTS))
    return autocorrelation(drawn @ (directions * np.sqrt(np.maximum(variances, 0))).T, lags)


def relu_map(c: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Correlation that a layer of He-initialized ReLU makes of c, between means that are not taken off.

    Args:
        c: correlations.
    """
    c = np.clip(c, -1, 1)
    return (np.sqrt(1 - c**2) + c * (np.pi - np.arccos(c))) / np.pi


def gradient_correlation(
    key: PRNGKeyArray, kinds: Form, *, depths: tuple[int, ...], width: int, batch: int = 2
) -> Float[Array, "kinds depths"]:
    """Cosine between a random network's gradients with respect to the stream, at two inputs of cosine 1/2.

    Each is the gradient of its own example's output, with the batch's statistics among what it goes through.

    Args:
        key: randomness, of the parameters that all kinds share.
        kinds: of network, stacked.
        depths: blocks after which a linear function of the stream is the output.
        width: of the stream.
        batch: examples, the two and others that are unrelated.
    """
    params_key, input_key = jax.random.split(key)
    params = network.init(params_key, max(depths), width, width, 1)
    x = jax.random.normal(input_key, (batch, width))
    x = x.at[1].set(CORRELATION * x[0] + (1 - CORRELATION**2) ** 0.5 * x[1])

    def outputs(x: Array, kind: Form) -> Array:
        def block(x: Array, layer: dict[str, Array]) -> tuple[Array, Array]:
            x = _block(x, layer, kind)
            return x, x[:2]

        streams = jax.lax.scan(block, x, params["blocks"])[1]
        return streams[np.array(depths) - 1] @ params["head"]["kernel"][:, 0]

    def cosine(kind: Form) -> Array:
        gradients = jax.jacrev(outputs)(x, kind)
        a, b = gradients[:, 0, 0], gradients[:, 1, 1]
        return jnp.sum(a * b, -1) / (jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1))

    return jax.lax.map(cosine, kinds)


def predicted_correlation(blocks: int, *, skip: bool, normalized: bool = False) -> Float[np.ndarray, " blocks"]:
    """Correlation of gradients after 1 ... L blocks of He-initialized ReLU, for inputs of cosine c_0 = 1/2.

    The stream of unrelated examples has variance v and that of the two covariance k, both 0 less what the batch's mean
    takes off; c = k / v. A branch adds 1 - m and C(c) - m times what enters ReLU: v and m = 0, or, normalized, 1 and
    m = C(0) = 1 / pi. Of the gradient it passes on 1 / v of what the skip does, all of it without normalization, times
    1 - arccos(c) / pi between the two: the part of units that are active at both inputs, over that at one.
    With independent masks, c = 0, that is 1/2 and 3/4 a block; with skips and normalization L^(-1/2) if v grew by 1 a
    block, as Balduzzi et al. have it. It grows by 1 - m, and the power rises from about that to (1/2) / (1 - m) = .73.

    Args:
        blocks: L.
        skip: with skip connections.
        normalized: with batch normalization, of a large batch.
    """
    v, k, correlations, weights = 1.0, CORRELATION, [], []
    mean = 1 / np.pi if normalized else 0.0
    for _ in range(blocks):
        c = min(k / v, 1.0)
        correlations.append(c)
        weights.append(2 / v if normalized else 2.0)
        entering = 1.0 if normalized else v
        v, k = skip * v + entering * (1 - mean), skip * k + entering * (float(relu_map(np.array(c))) - mean)
    return gf.theory.gradient_correlation(
        "relu", correlations, weight_variance=weights, branch_scale=1.0 if skip else None
    )


def lines(width: int, count: int, seed: int) -> Lines:
    """Measure gradients along a line of inputs, Balduzzi et al.'s Figs 1 and 2.

    Args:
        width: of the stream.
        count: networks that autocorrelations are averaged over.
        seed: of the randomness.
    """
    depths = jnp.array([blocks for blocks, _ in NETWORKS.values()])
    kinds = _stacked(kind for _, kind in NETWORKS.values())
    one = functools.partial(grid_gradients, depths=depths, kinds=kinds, blocks=int(depths.max()), width=width)
    gradients = np.asarray(_over_networks(one, count, seed))
    bare = list(FURTHER)[1:]
    drawn = [predicted_autocorrelation(NETWORKS[name][0], LAGS, skip=bool(NETWORKS[name][1].skip)) for name in bare]
    return Lines(
        x=np.linspace(-LIMIT, LIMIT, POINTS),
        gradient=gradients[0],
        autocorrelation=np.stack([autocorrelation(rows, LAGS).mean(0) for rows in gradients.swapaxes(0, 1)]),
        theory=np.stack([draws.mean(0) for draws in drawn]),
        error=np.stack([draws.std(0) for draws in drawn]) / np.sqrt(count),
    )


def _stacked(forms: Iterable[Form]) -> Form:
    return Form(*(jnp.stack(values) for values in zip(*forms, strict=True)))


def _over_networks(one: Callable[[PRNGKeyArray], Array], count: int, seed: int) -> Float[Array, "networks ..."]:
    keys = jax.random.split(jax.random.key(seed), count)
    return jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=min(AT_ONCE, count)))(keys)


def over_depth(depths: tuple[int, ...], width: int, networks: int, seed: int) -> Correlation:
    """Measure the correlation of gradients over depth.

    Args:
        depths: numbers of blocks.
        width: of the stream.
        networks: drawn.
        seed: of their randomness.
    """
    kinds, found = list(KINDS.values()), []
    for chosen, batch in ((kinds[:2], 2), (kinds[2:], BATCH)):
        one = functools.partial(gradient_correlation, kinds=_stacked(chosen), depths=depths, width=width, batch=batch)
        found.append(np.asarray(_over_networks(one, networks, seed)))
    theory = [
        predicted_correlation(max(depths), skip=bool(kind.skip), normalized=bool(kind.normalized)) for kind in kinds
    ]
    return Correlation(
        depths=np.array(depths),
        measured=np.concatenate([cosines.mean(0) for cosines in found]),
        error=np.concatenate([cosines.std(0, ddof=1) for cosines in found]) / np.sqrt(networks),
        theory=np.stack(theory)[:, np.array(depths) - 1],
    )


def claims(along: Lines, over_depths: Correlation) -> list[Claim]:
    """Hold correlations of gradients over depth and distance against theory.

    Args:
        along: from `lines`.
        over_depths: from `over_depth`.
    """
    near, over = "autocorrelation of gradients at a distance of 1 point", "correlation of gradients over depth"
    away = np.abs(over_depths.measured - over_depths.theory).max(1)
    worst = list(KINDS)[int(away.argmax())]
    neighbour = dict(zip(NETWORKS, along.autocorrelation[:, 1], strict=True))
    plain, residual = list(PUBLISHED)[1:]
    bare = {name: index for index, name in enumerate(NETWORKS) if name in list(FURTHER)[1:]}
    errors = np.abs(along.autocorrelation[list(bare.values()), 1] - along.theory[:, 1]) / along.error[:, 1]
    found = [
        Claim("correlation-over-depth", f"{over}: largest error of theory ({worst})",
              at_most(bands.CORRELATION_ERROR, "theory of infinite width"), away.max()),
        Claim("neighbours-plain", f"{plain}: {near}",
              goal("Balduzzi et al. 2017, Fig. 2: noise; a threshold of ours", high=bands.SHATTERED), neighbour[plain]),
        Claim("neighbours-residual", f"{residual}: {near}",
              goal("Balduzzi et al. 2017, Fig. 2: near 1; a threshold of ours", low=bands.WHOLE), neighbour[residual]),
        Claim("neighbours-bare", f"not normalized: {near}, in standard errors from theory, the worse "
              f"({list(bare)[int(errors.argmax())]})", bands.process_error(), errors.max()),
    ]  # fmt: skip
    return found + power_claims(over_depths)


def power_claims(results: Correlation) -> list[Claim]:
    """Hold the fall of correlations over depth against a power, where depths reach from 5 blocks to 20 or more.

    Args:
        results: from `over_depth`.
    """
    depths = results.depths.tolist()
    if depths[-1] < 20 or 5 not in depths:
        return []
    ends, span = [depths.index(5), -1], np.log(depths[-1] / 5)
    power, expected = (np.log(np.divide(*values[-1, ends])) / span for values in (results.measured, results.theory))
    error = bands.relative_error(results.measured[-1, ends], results.error[-1, ends]) / span
    line = f"residual + batch norm: correlation of gradients falls as L^-p from 5 to {depths[-1]} blocks, p"
    return [Claim("correlation-power", line, bands.correlation_power(expected, error), power)]
