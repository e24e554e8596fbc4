"""Shaped activations against their conditions, their authors' published numbers, and deep networks drawn at random."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from gradflow import activations, theory

SMOOTH = [("tanh", 10), ("softplus", 1000), ("gelu", 10), ("sigmoid", 100), ("elu", 50), ("softsign", 1000)]


def averages(shaped: activations.Activation) -> list[float]:
    """E[phi], E[phi^2], E[z phi phi'] = Q'(1), E[phi'^2], E[phi''^2] over N(0, 1), by the trapezoidal rule."""
    with jax.enable_x64(True):
        z = jnp.linspace(-10, 10, 200_001, dtype=jnp.float64)
        phi, slope = shaped(z), shaped.derivative(z)
        bend = jax.jvp(shaped.derivative, (z,), (jnp.ones_like(z),))[1]
        density = jnp.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * 1e-4
        return [float(jnp.sum(f * density)) for f in (phi, phi**2, z * phi * slope, slope**2, bend**2)]


@pytest.mark.parametrize(("name", "depth"), SMOOTH)
def test_kernel_shaping_meets_its_four_conditions(name: str, depth: int) -> None:
    shaped = theory.kernel_shaped(name, depth, network_slope=1.3)
    mean, square, pace, slope_square, _ = averages(shaped)
    assert (mean, square, pace) == pytest.approx((0.0, 1.0, 1.0), abs=1e-7)
    assert depth * math.log(slope_square) == pytest.approx(math.log(1.3), rel=1e-3)
    assert float(theory.correlation_map(shaped, 1.0, 0.0, 1.0, 0.0)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("name", "depth"), SMOOTH)
def test_tailoring_is_critical_with_the_curvature_asked_for(name: str, depth: int) -> None:
    shaped = theory.tailored(name, depth, network_curvature=0.2)
    _, square, pace, slope_square, curvature = averages(shaped)
    assert (square, pace, slope_square) == pytest.approx((1.0, 1.0, 1.0), abs=1e-7)
    assert depth * curvature == pytest.approx(0.2, rel=1e-4)
    c = 0.9  # C(c) = c + C''(1) (1 - c)^2 / 2 - ...
    reached = float(theory.correlation_map(shaped, 1.0, c, 1.0, 0.0))
    assert reached - c == pytest.approx(curvature * (1 - c) ** 2 / 2, rel=0.1, abs=1e-6)


# Input scale and shift, output shift and scale, found by the authors' program for the depths of one network
# (google-deepmind/dks, test of its parameters), printed there to 17 digits.
PUBLISHED = {
    ("kernel_shaped", "softplus"): (0.18761008168, 0.40688063442, -0.92134661514, 8.87867254367),
    ("kernel_shaped", "tanh"): (0.07461073058, 0.55669151999, -0.50343787687, 18.00263596444),
    ("tailored", "softplus"): (0.15011489795, 0.53745999011, -0.99648101447, 10.54880187881),
    ("tailored", "tanh"): (0.05802052186, 0.52186398041, -0.47964307044, 22.36066261763),
}


@pytest.mark.parametrize(("method", "name"), PUBLISHED)
def test_it_is_what_the_authors_found(method: str, name: str) -> None:
    c, d, e, a = PUBLISHED[method, name]
    phi = activations.get(name)
    theirs = activations.Activation("theirs", lambda x: a * (phi(c * x + d) + e))
    _, _, _, slope_square, curvature = averages(theirs)
    if method == "kernel_shaped":
        ours = theory.kernel_shaped(name, 1, network_slope=slope_square)
    else:
        ours = theory.tailored(name, 1, network_curvature=curvature)
    x = jnp.linspace(-4, 4, 33)
    apart = min(float(jnp.abs(ours(s * x) * t - theirs(x)).max()) for s in (1.0, -1.0) for t in (1.0, -1.0))
    assert apart < 2e-3  # of values up to 4: scales near 20 amplify float32 and the digits given


@pytest.mark.parametrize("shape", [theory.kernel_shaped, theory.tailored])
def test_deep_networks_keep_signal_gradient_and_inputs_apart(shape: Any) -> None:
    """tanh, 60 layers of 300: what plain tanh loses, its shaped form keeps."""
    depth, width, c = 60, 300, 0.9
    keys = jax.random.split(jax.random.key(0), 3)
    weights = jax.random.normal(keys[0], (depth, width, width)) / math.sqrt(width)
    drawn = jax.random.normal(keys[1], (2, width))
    x = jnp.stack([drawn[0], c * drawn[0] + math.sqrt(1 - c**2) * drawn[1]])

    def measured(phi: activations.Activation) -> tuple[float, float, float]:
        def layer(z: jax.Array, both: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            return phi(z + both[1]) @ both[0], None

        def run(shifts: jax.Array) -> jax.Array:
            return jax.lax.scan(layer, x, (weights, shifts))[0]

        z, back = jax.vjp(run, jnp.zeros((depth, 2, width)))
        gradient = jnp.sqrt((back(jax.random.normal(keys[2], z.shape))[0] ** 2).mean((1, 2)))
        size = jnp.linalg.norm(z, axis=1)
        return float((z**2).mean()), float(gradient[0] / gradient[-1]), float(z[0] @ z[1] / size[0] / size[1])

    activation = shape("tanh", depth)
    plain, shaped = measured(activations.get("tanh")), measured(activation)
    said = c
    for _ in range(depth):
        said = float(theory.correlation_map(activation, 1.0, said, 1.0, 0.0))
    chance = 4 * math.sqrt(2 * depth / width)  # four deviations of ln of a mean square
    assert abs(math.log(shaped[0])) < chance
    assert abs(math.log(shaped[1])) < chance
    assert abs(shaped[2] - said) < 4 * (1 - c**2) * math.sqrt(depth / width)
    assert plain[0] < 0.1 * shaped[0]


def test_bad_input_is_named() -> None:
    for shape in (theory.kernel_shaped, theory.tailored):
        with pytest.raises(ValueError, match="smooth activation, got relu"):
            shape("relu", 10)
        with pytest.raises(ValueError, match="linear"):
            shape("identity", 10)
        with pytest.raises(ValueError, match="depth"):
            shape("tanh", 0)
    with pytest.raises(ValueError, match="network slope"):
        theory.kernel_shaped("tanh", 10, network_slope=1.0)
    with pytest.raises(ValueError, match="network curvature"):
        theory.tailored("tanh", 10, network_curvature=0.0)
