"""The parts of `activations` against plain loops and closed forms, and its claims against false results."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from experiments.activations import born_dead as activations_borndead
from experiments.activations import experiment as activations
from experiments.activations.results import Results
from experiments.framework.saturation import saturated_fraction
from tests.experiments.nested import made
from tests.experiments.spoiled import claims_that_stand


def by_counting(width, layers, networks=4000):
    """Share of networks whose output is 0 at x = 1 and x = -1, drawn and run one layer at a time in NumPy."""
    rng = np.random.default_rng(0)
    rays = np.broadcast_to(np.array([[1.0], [-1.0]]), (networks, 2, 1))
    for _ in range(layers - 1):
        kernels = rng.normal(size=(networks, rays.shape[-1], width))
        rays = np.maximum(np.einsum("nri,nio->nro", rays, kernels), 0)
    return float((rays == 0).all((1, 2)).mean())


@pytest.mark.parametrize(("width", "layers"), [(2, 3), (3, 5), (3, 10)])
def test_shares_of_the_born_dead_are_those_of_plain_networks(width, layers):
    found = activations_borndead.measure((2, 3), 10, activations_borndead.CHUNK, seed=1)
    share = found.share[found.widths.tolist().index(width), layers - 2]
    plain = by_counting(width, layers)
    error = np.sqrt(plain * (1 - plain) * (1 / 4000 + 1 / activations_borndead.CHUNK))
    assert abs(share - plain) < 4 * error
    assert activations_borndead.lower_bound(width, layers) - 4 * error < plain
    assert plain < activations_borndead.upper_bound(width, layers) + 4 * error


def test_bounds_are_those_of_the_paper():
    assert activations_borndead.lower_bound(3, 10) == pytest.approx(0.513, abs=5e-4)
    assert activations_borndead.upper_bound(3, 10) == pytest.approx(0.699, abs=5e-4)
    for width in (1, 2, 5):
        assert activations_borndead.lower_bound(width, 3) == pytest.approx(activations_borndead.three_layers(width))


def test_saturated_fraction_of_a_known_derivative():
    z = jnp.array([[0.0, 1.0, 3.0, -5.0]])
    # 1 - tanh^2 is 1, .42, .0099, .00018.
    found = saturated_fraction(jnp.tanh, z)
    assert float(found) == 0.5


def good() -> Results:
    """Results in which every claim holds."""
    layers, names = np.arange(2, 41), activations.NAMES
    low = np.array([[activations_borndead.lower_bound(width, int(depth)) for depth in layers] for width in (2, 3)])
    high = np.array([[activations_borndead.upper_bound(width, int(depth)) for depth in layers] for width in (2, 3)])
    accuracy = np.full((2, 9, 1, 3), 0.8)
    accuracy[:, 0] = 0.1
    kick = np.full((2, 4, 3), 0.8)
    kick[0] = 0.1
    dead = np.zeros((2, 4, 3, 8))
    dead[0, :, -1, 3] = 1
    slopes = np.full((2, 3, 7), 0.25)
    slopes[:, -1, 0] = 0.5
    return made(Results, {
        "dead.widths": np.array([2, 3]), "dead.layers": layers, "dead.networks": 10_000,
        "dead.share": low, "dead.ray": high, "dead.lower": low, "dead.upper": high,
        "profile.width": 256, "profile.rated": 20, "profile.rate": np.tile(np.linspace(-1, 1, len(names)), (2, 1)),
        "profile.gain": np.tile([gf.activations.get(name).gain for name in names], (2, 1)),
        "profile.measured": np.tile(np.linspace(-1, 1, len(names))[None, :, None], (2, 1, 4)),
        "profile.gradient": np.ones((2, 9, 4, 30)), "profile.signal": np.ones((2, 9, 4, 30)), "test_images": 10_000,
        "training.steps": np.array([0, 500, 1000]), "training.depths": np.array([5, 30]),
        "training.names": np.array(names), "training.accuracy": accuracy,
        "training.finite": np.full(accuracy.shape, True),
        "kick.accuracy": kick, "kick.dead": dead, "slopes.mean": slopes,
    })  # fmt: skip


def test_every_claim_holds_where_it_should_and_can_fail():
    claims = activations.claims(good())
    assert [claim.id for claim in claims if not claim.holds] == []
    assert len(claims) == 11
    theory = ("dead.lower", "dead.upper", "dead.widths", "dead.layers", "dead.networks", "profile.rate",
              "profile.gain", "profile.width", "profile.rated", "training.depths", "test_images")  # fmt: skip
    assert claims_that_stand(activations.claims, good(), theory) == []


@pytest.mark.slow
def test_a_small_run_agrees_with_theory_and_is_drawn():
    found = activations.run(activations.PRESETS["smoke"])
    claims = activations.claims(found)
    assert len(claims) == 4
    assert [claim for claim in claims if not claim.holds] == []
    assert set(activations.figures.draw(found)) == {"born_dead", "gradients", "training", "dying", "slopes"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depths": (30, 5)}, "growing"),
        ({"steps": 7}, "multiple of 20"),
        ({"rates": ()}, "rates and kick"),
        ({"trained": ("relu",)}, "trained must have"),
    ],
)
def test_settings_that_cannot_be_run_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(activations.PRESETS["smoke"], **options)
