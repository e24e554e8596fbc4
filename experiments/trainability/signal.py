"""Signal and gradient at initialization for `trainability`: mean-field theory, and finite networks held against it."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

import gradflow as gf
from experiments.framework.images import Images
from experiments.framework.progress import track
from experiments.trainability.training import Network, build, scale_kernels

BIAS_VARIANCE = 0.05
CURVE_BIASES = (0.0, 0.05, 0.3)  # sigma_b^2 of the theory curves over sigma_w
CURVE_DEVIATIONS = np.linspace(0.5, 3.0, 51)  # their sigma_w
MEASURED = (0.8, 1.0, 1.2, 1.5, 1.75, 2.0, 2.5, 3.0)  # sigma_w at which networks are measured, sigma_b^2 = 0.05
SHOWN = (1.0, 1.761, 2.5, 4.0)  # sigma_w^2 of the convergence figure: ordered, critical, chaotic twice
VARIANCES_AT_FIRST = (0.1, 0.5, 4.0)  # q_1 of three inputs
CORRELATIONS_AT_FIRST = (0.0, 0.5, 0.9)  # c_1 of three pairs of inputs of q_1 = q*
SETTLED = 5  # layers at either end of a profile that a fit leaves out: there it still bends
DEPTH_SCALES = 6  # 6 xi


class Profile(NamedTuple):
    """A network whose gradient over depth is predicted and measured.

    Attributes:
        activation: name.
        normalization: None or "batch".
        bias_variance: sigma_b^2.
        weight_variance: sigma_w^2.
    """

    activation: str
    normalization: str | None
    bias_variance: float
    weight_variance: float

    @property
    def name(self) -> str:
        """What it is called in figures and claims."""
        return self.activation + (" + batch norm" if self.normalization else "")


PROFILES = (
    *(Profile("tanh", None, BIAS_VARIANCE, variance) for variance in (1.0, 1.3, 1.761, 2.5, 4.0)),
    *(Profile("relu", None, 0.0, variance) for variance in (1.6, 2.0, 2.4)),
    *(Profile("gelu", None, 0.0, variance) for variance in (1.6, 1.8, 2.4)),
    *(Profile("tanh", "batch", BIAS_VARIANCE, variance) for variance in (1.0, 4.0)),
    *(Profile("relu", "batch", 0.0, variance) for variance in (1.0, 4.0)),
)


@dataclasses.dataclass(frozen=True)
class Curves:
    """Fixed points of tanh over sigma_w, for each of `CURVE_BIASES`, and the critical sigma_w."""

    deviation: Float[np.ndarray, " points"]
    q: Float[np.ndarray, "biases points"]
    c: Float[np.ndarray, "biases points"]
    chi: Float[np.ndarray, "biases points"]
    critical: Float[np.ndarray, " biases"]


@dataclasses.dataclass(frozen=True)
class Compared:
    """What networks have beside theory, and one network's standard deviation around it."""

    measured: Float[np.ndarray, "*cases networks depth"] | Float[np.ndarray, "cases networks"]
    theory: Float[np.ndarray, "*cases depth"]
    spread: Float[np.ndarray, "*cases depth"]


@dataclasses.dataclass(frozen=True)
class Gradients:
    """Gradient over depth at initialization, of those of `PROFILES` that `index` says, and by theory."""

    index: Int[np.ndarray, " profiles"]
    measured: Float[np.ndarray, "profiles networks depth"]
    theory: Float[np.ndarray, "profiles depth"]


def fixed_points(weight_variances: Sequence[float]) -> tuple[Curves, Float[np.ndarray, " variances"]]:
    """Fixed points of tanh: curves over sigma_w for the figure, and at the weight variances of the grid.

    Args:
        weight_variances: sigma_w^2 of the grid, for xi_c.

    Returns:
        The curves; xi_c of the grid.
    """
    rows = [
        [_tanh(deviation**2, bias) for deviation in CURVE_DEVIATIONS]
        for bias in track(CURVE_BIASES, "fixed points", "sigma_b^2 = {}".format)
    ]
    fields = {"q": "q_star", "c": "c_star", "chi": "chi_1"}
    critical = [gf.theory.critical_weight_variance("tanh", bias_variance=bias) for bias in CURVE_BIASES]
    curves = {
        name: np.array([[getattr(point, field) for point in row] for row in rows]) for name, field in fields.items()
    }
    return (
        Curves(deviation=CURVE_DEVIATIONS, critical=np.sqrt(critical), **curves),
        np.array([_tanh(variance).xi_c for variance in weight_variances]),
    )


def _tanh(weight_variance: float, bias_variance: float = BIAS_VARIANCE) -> gf.theory.FixedPoint:
    return gf.theory.fixed_point("tanh", weight_variance=weight_variance, bias_variance=bias_variance)


def measure_convergence(
    depth: int, width: int, networks: int, seed: int
) -> tuple[dict[str, Compared], dict[str, Compared]]:
    """Follow variance and correlation through finite tanh networks, and through the maps of theory.

    Args:
        depth: layers.
        width: units a layer.
        networks: drawn for each weight variance.
        seed: of their randomness.

    Returns:
        q and c in every layer, for `SHOWN` and the starts; q and c of the last layer, for `MEASURED`.
    """
    keys = jax.random.split(jax.random.key(seed), networks)
    found: dict[str, list[Any]] = {}

    def keep(**values: Any) -> None:
        for name, value in values.items():
            found.setdefault(name, []).append(value)

    for variance in track(SHOWN, "convergence", "sigma_w^2 = {}".format):
        q_star = _tanh(variance).q_star
        starts = np.array([*((q, 0.0) for q in VARIANCES_AT_FIRST), *((q_star, c) for c in CORRELATIONS_AT_FIRST)])
        q, c = follow(keys, starts, variance, depth, width)
        split = len(VARIANCES_AT_FIRST)
        lines = [theory_correlations(variance, first, depth) for first in CORRELATIONS_AT_FIRST]
        keep(
            signal_q=q[:split],
            signal_c=c[split:],
            signal_q_theory=[theory_variances(variance, first, depth) for first in VARIANCES_AT_FIRST],
            signal_c_theory=lines,
            signal_q_spread=[variance_spreads(variance, first, depth, width) for first in VARIANCES_AT_FIRST],
            signal_c_spread=[correlation_spreads(variance, line, width) for line in lines],
        )
    for deviation in track(MEASURED, "fixed points measured", "sigma_w = {}".format):
        variance, q_star = deviation**2, _tanh(deviation**2).q_star
        q, c = follow(keys, np.array([[q_star, 0.5]]), variance, depth, width)
        correlations = theory_correlations(variance, 0.5, depth)
        keep(
            point_q=q[0, :, -1],
            point_c=c[0, :, -1],
            point_q_theory=q_star,
            point_c_theory=correlations[-1],
            point_q_spread=variance_spreads(variance, q_star, depth, width)[-1],
            point_c_spread=correlation_spreads(variance, correlations, width)[-1],
        )
    arrays = {name: np.array(values) for name, values in found.items()}
    layers, end = (
        {name: Compared(*(arrays[f"{kind}_{name}{part}"] for part in ("", "_theory", "_spread"))) for name in "qc"}
        for kind in ("signal", "point")
    )
    return layers, end


def follow(
    keys: PRNGKeyArray, starts: Float[np.ndarray, "starts 2"], weight_variance: float, depth: int, width: int
) -> tuple[Float[np.ndarray, "starts networks depth"], Float[np.ndarray, "starts networks depth"]]:
    """Measure q_l and c_l in random tanh networks.

    Args:
        keys: of the networks.
        starts: q_1 and c_1 of pairs of inputs.
        weight_variance: sigma_w^2.
        depth: layers.
        width: units a layer.

    Returns:
        q_l and c_l.
    """
    q, c = _follow(keys, jnp.asarray(starts, jnp.float32), jnp.float32(weight_variance), depth=depth, width=width)
    return np.asarray(q).transpose(2, 0, 1), np.asarray(c).transpose(2, 0, 1)


@functools.partial(jax.jit, static_argnames=("depth", "width"))
def _follow(
    keys: PRNGKeyArray, starts: Float[Array, "starts 2"], weight_variance: Float[Array, ""], *, depth: int, width: int
) -> tuple[Float[Array, "networks depth starts"], Float[Array, "networks depth starts"]]:
    def gram(z: Float[Array, "2 starts width"]) -> tuple[Array, Array]:
        squares = jnp.mean(z**2, -1)
        return squares[0], jnp.mean(z[0] * z[1], -1) / jnp.sqrt(squares[0] * squares[1])

    def layer(z: Array, key: PRNGKeyArray) -> tuple[Array, tuple[Array, Array]]:
        kernel_key, bias_key = jax.random.split(key)
        kernel = jax.random.normal(kernel_key, (width, width)) * jnp.sqrt(weight_variance / width)
        following = jnp.tanh(z) @ kernel + jax.random.normal(bias_key, (width,)) * math.sqrt(BIAS_VARIANCE)
        return following, gram(z)

    def network(key: PRNGKeyArray) -> tuple[Array, Array]:
        first, rest = jax.random.split(key)
        orthogonal = jnp.linalg.qr(jax.random.normal(first, (width, 2)))[0].T * math.sqrt(width)
        q, c = starts.T[:, :, None]
        pair = jnp.stack([orthogonal[0] * jnp.ones_like(c), c * orthogonal[0] + jnp.sqrt(1 - c**2) * orthogonal[1]])
        return jax.lax.scan(layer, jnp.sqrt(q) * pair, jax.random.split(rest, depth))[1]

    return jax.lax.map(network, keys)


def theory_variances(weight_variance: float, first: float, depth: int) -> Float[np.ndarray, " depth"]:
    """q_1 = `first` and q_l = V(q_(l-1)) of tanh.

    Args:
        weight_variance: sigma_w^2.
        first: q_1.
        depth: layers.
    """
    values = [first]
    while len(values) < depth:
        values.append(float(gf.theory.variance_map("tanh", values[-1], weight_variance, BIAS_VARIANCE)))
    return np.array(values)


def theory_correlations(weight_variance: float, first: float, depth: int) -> Float[np.ndarray, " depth"]:
    """c_1 = `first` and c_l = C(c_(l-1)) of tanh at q*.

    Args:
        weight_variance: sigma_w^2.
        first: c_1.
        depth: layers.
    """
    q_star, values = _tanh(weight_variance).q_star, [first]
    while len(values) < depth:
        following = float(gf.theory.correlation_map("tanh", q_star, values[-1], weight_variance, BIAS_VARIANCE))
        values.append(min(following, 1.0))  # rounding can pass 1
    return np.array(values)


def variance_spreads(weight_variance: float, first: float, depth: int, width: int) -> Float[np.ndarray, " depth"]:
    """Standard deviation of q_l in one tanh network around theory, by the law of finite widths.

    Args:
        weight_variance: sigma_w^2.
        first: q_1.
        depth: layers.
        width: units a layer.
    """
    law = gf.theory.width_profile(
        "tanh",
        [width] * depth,
        (first - BIAS_VARIANCE) / weight_variance,
        weight_variance=weight_variance,
        bias_variance=BIAS_VARIANCE,
    )
    return law.variances * np.sqrt(law.signal_variance)


def correlation_spreads(
    weight_variance: float, correlations: Float[np.ndarray, " depth"], width: int
) -> Float[np.ndarray, " depth"]:
    """Standard deviation of c_l in one tanh network around theory.

    A layer adds the variance of a sample correlation, (1 - c_l^2)^2 / n, and hands on C'(c_l)^2 of the one before.

    Args:
        weight_variance: sigma_w^2.
        correlations: c_l of theory, c_1 exact.
        width: n, units a layer.
    """
    q_star, step = _tanh(weight_variance).q_star, 1e-4
    low, high = np.clip(correlations - step, -1, 1), np.clip(correlations + step, -1, 1)
    ends = (gf.theory.correlation_map("tanh", q_star, at, weight_variance, BIAS_VARIANCE) for at in (high, low))
    slopes = (next(ends) - next(ends)) / (high - low)
    variances = [0.0]
    for slope, following in zip(slopes[:-1], correlations[1:], strict=True):
        variances.append(slope**2 * variances[-1] + (1 - following**2) ** 2 / width)
    return np.sqrt(variances)


def measure_profiles(
    names: Sequence[str], images: Images, depth: int, width: int, networks: int, seed: int
) -> Gradients:
    """Measure the gradient over depth at initialization, and predict it.

    Args:
        names: of the profiles to measure.
        images: inputs; each is scaled to mean square 1.
        depth: hidden layers.
        width: units a layer.
        networks: drawn for each profile.
        seed: of their randomness.
    """
    scaled = images.x / jnp.sqrt(jnp.mean(images.x**2, axis=1, keepdims=True))
    keys = jax.random.split(jax.random.key(seed), networks)
    chosen = [index for index, profile in enumerate(PROFILES) if profile.name in names]
    measured = []
    for profile in track(
        [PROFILES[index] for index in chosen],
        "gradient profiles",
        lambda p: f"{p.name}, sigma_w^2 = {p.weight_variance}",
    ):
        network = Network(profile.activation, profile.bias_variance, profile.normalization, width)
        variance = jnp.float32(profile.weight_variance)
        measured.append(np.asarray(gradient_profiles(keys, variance, Images(scaled, images.y), network, depth)))
    return Gradients(
        index=np.array(chosen),
        measured=np.stack(measured),
        theory=np.stack([theory_profile(PROFILES[index], depth) for index in chosen]),
    )


@functools.partial(jax.jit, static_argnames=("network", "depth"))
def gradient_profiles(
    keys: PRNGKeyArray, weight_variance: Float[Array, ""], images: Images, network: Network, depth: int
) -> Float[Array, "networks depth"]:
    """Measure the rms of dL/dz by hidden layer.

    Args:
        keys: of the networks.
        weight_variance: sigma_w^2.
        images: batch.
        network: its layers.
        depth: hidden layers.
    """
    model = build(network, depth)

    def one(key: PRNGKeyArray) -> Float[Array, " depth"]:
        variables = scale_kernels(dict(model.init(key, images.x[:2])), weight_variance)
        statistics = {name: tree for name, tree in variables.items() if name != "params"}

        def loss(params: Any) -> Float[Array, ""]:
            logits: Any = model.apply({"params": params, **statistics}, images.x, train=True, mutable=["batch_stats"])[
                0
            ]
            return optax.softmax_cross_entropy_with_integer_labels(logits, images.y).mean()

        instrumented = gf.value_grad_and_flow(loss, statistics=("output_grad_rms",), data_gradients=False)
        _, _, flow = instrumented(variables["params"])
        return jnp.concatenate([jnp.atleast_1d(flow[name].output_grad_rms) for name in flow.layers[:-1]])

    return jax.lax.map(one, keys)


def theory_profile(profile: Profile, depth: int) -> Float[np.ndarray, " depth"]:
    """Predict the rms of dL/dz by hidden layer, relative to the last, for inputs of mean square 1.

    The squared gradient changes by chi_l = sigma_w^2 E[phi'(z_l)^2] from layer l + 1 to l, with the q_l that the
    network really has there (Schoenholz et al. 2017); with batch norm by E[phi'^2] / Var[phi] (Yang et al. 2019).

    Args:
        profile: the network.
        depth: hidden layers.
    """
    return np.exp(_log_squares(profile, depth) / 2)


def gradient_depth(profile: Profile, limit: int = 1000) -> float:
    """Depth over which the squared gradient changes by e^6: 6 depth scales, where these are constant.

    Args:
        profile: the network.
        limit: where to stop looking.

    Returns:
        The depth, at most `limit`.
    """
    squares = _log_squares(profile, limit)
    beyond = np.flatnonzero(np.abs(squares - squares[0]) >= DEPTH_SCALES)
    return float(beyond[0] + 1) if beyond.size else float(limit)


def _log_squares(profile: Profile, depth: int) -> Float[np.ndarray, " depth"]:
    """Ln of the squared gradient by layer, 0 at the last; where the signal dies or explodes, at the rate so far."""
    if profile.normalization:
        rates = np.full(depth, gf.theory.batchnorm_rate(profile.activation))
    else:
        options = {"weight_variance": profile.weight_variance, "bias_variance": profile.bias_variance}
        q = np.array([options["weight_variance"] + options["bias_variance"]])
        while len(q) < depth and 1e-12 < q[-1] < 1e12:
            following = gf.theory.variance_map(profile.activation, q[-1], *options.values())
            q = np.append(q, following)
        rates = gf.theory.backward_rates(profile.activation, q, weight_variance=profile.weight_variance)
        rates = np.append(rates, np.full(depth - len(q), rates[-1]))
    logs = np.log(rates[:-1])
    return np.append(np.cumsum(logs[::-1])[::-1], 0.0)
