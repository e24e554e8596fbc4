"""The parts of `residual` against plain loops and closed forms; its claims against results made false."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import residual, residual_normfree, residual_paths, residual_shattering
from experiments import residual_network as network
from experiments.residual_network import Images

TINY = dataclasses.replace(
    residual.PRESETS["smoke"], depths=(2, 4), width=8, steps=20, paths=3, shatter_depths=(1, 3), shatter_width=16,
    shatter_networks=4, normfree_depth=4, normfree_steps=20,
)  # fmt: skip
FORMS = {
    "plain": network.form(skip=False, normalized=True),
    "residual": network.form(skip=True, normalized=True),
    "scaled": network.form(skip=True, normalized=False, branch_scale=0.3),
}


@pytest.fixture(scope="module")
def results():
    return residual.run(TINY)


@pytest.fixture(scope="module")
def toy():
    x = jax.random.normal(jax.random.key(1), (12, 7))
    return Images(x, jnp.arange(12) % 10), network.init(jax.random.key(2), 4, 6, 7)


def loop(params, x, kind, keep=(1, 1, 1, 1)):
    """The network as a loop in NumPy, double precision."""

    def relu_norm(x, layer):
        if kind.normalized:
            x = layer["scale"] * (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
        return np.maximum(x + layer["offset"], 0)

    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x, added = np.asarray(x, np.float64) @ params["stem"]["kernel"], []
    for index in range(4):
        layer = {name: leaf[index] for name, leaf in params["blocks"].items()}
        branch = float(kind.branch_scale) * relu_norm(x, layer) @ layer["kernel"]
        added.append(branch.std())
        x = float(kind.skip) * x + branch if keep[index] else x
    return relu_norm(x, params["head"]) @ params["head"]["kernel"], np.array(added)


@pytest.mark.parametrize("name", FORMS)
def test_forward_is_a_plain_loop_over_blocks(toy, name):
    batch, params = toy
    for keep in ((1, 1, 1, 1), (1, 0, 1, 1)):
        logits, responses = network.forward(params, batch.x, FORMS[name], jnp.asarray(keep, jnp.float32))
        expected, added = loop(params, batch.x, FORMS[name], keep)
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(responses, added, rtol=1e-3)


def test_paths_of_each_length_are_sums_over_all_sets_of_branches(toy):
    """Four blocks: every one of the 16 paths by itself, added up by length, and all of them against the gradient."""
    batch, params = toy
    kind = FORMS["residual"]
    parts = residual_paths.by_length(params, batch, kind)
    cotangent, entering = residual_paths.inputs_of_blocks(params, batch, kind)
    expected = np.zeros(parts.shape)
    log_norms = []
    sets = list(itertools.product((False, True), repeat=4))
    for taken in sets:
        v = cotangent
        for index in reversed(range(4)):
            if taken[index]:
                layer = {name: leaf[index] for name, leaf in params["blocks"].items()}
                v = jax.vjp(lambda x, layer=layer: network.branch(x, layer, kind), entering[index])[1](v)[0]
        expected[sum(taken)] += np.asarray(v)
        log_norms.append(np.log(np.linalg.norm(v) / np.linalg.norm(cotangent)))
    np.testing.assert_allclose(parts, expected, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(residual_paths.sampled(params, batch, kind, jnp.asarray(sets)), log_norms, atol=1e-4)

    def after_stem(x):
        return network.loss(params | {"stem": {"kernel": jnp.eye(6)}}, Images(x, batch.y), kind)

    gradient = jax.grad(after_stem)(batch.x @ params["stem"]["kernel"])
    np.testing.assert_allclose(parts.sum(0), gradient, rtol=1e-3, atol=1e-6)


def test_drawn_paths_have_their_lengths_and_differ():
    taken = residual_paths.draw_paths(jax.random.key(0), 9, np.array([0, 3, 9]), 20)
    assert taken.shape == (60, 9)
    np.testing.assert_array_equal(taken.sum(1), np.repeat([0, 3, 9], 20))
    assert len({tuple(row) for row in np.asarray(taken[20:40]).tolist()}) > 10


def test_binomial_and_its_middle():
    np.testing.assert_allclose(residual_paths.binomial(54).sum(), 1)
    assert round(100 * residual_paths.binomial(54)[5:18].sum(), 4) == 0.4537  # Veit et al. 2016: 0.45 %
    assert residual_paths.effective(np.array([0, 0, 1.0, 0])) == (2, 2)
    assert residual_paths.effective(np.ones(100), 0.9) == (4, 94)


def test_autocorrelation_of_noise_and_of_a_line():
    points = residual_shattering.POINTS
    noise = np.random.default_rng(0).normal(size=(200, points))
    np.testing.assert_allclose(residual_shattering.autocorrelation(noise, 3), [1, 0, 0], atol=0.02)
    line = np.linspace(-1, 1, points)[None]
    assert residual_shattering.autocorrelation(line, 2)[1] > 0.98


def test_predicted_correlations_tend_to_those_of_independent_masks(monkeypatch):
    """For unrelated inputs, c = 0 in the first block: 1/2 and 3/4."""
    monkeypatch.setattr(residual_shattering, "CORRELATION", 0.0)
    assert residual_shattering.predicted_correlation(1, skip=False)[0] == pytest.approx(0.5)
    assert residual_shattering.predicted_correlation(1, skip=True)[0] == pytest.approx(0.75)


def test_masked_depth_is_the_shallower_network():
    key, kind = jax.random.key(3), network.form(skip=True, normalized=False)
    params = network.init(key, 4, 6, 6, 1)
    x = jax.random.normal(key, (1, 6))
    shallow = params | {"blocks": jax.tree.map(lambda leaf: leaf[:2], params["blocks"])}
    np.testing.assert_allclose(
        residual_shattering._readout(params, x, kind, 2), residual_shattering._readout(shallow, x, kind, 2), rtol=1e-6
    )


def test_the_jacobian_of_a_plain_stack_is_no_identity():
    assert np.abs(residual_normfree.stack_jacobian("rezero", 3, 5, 0) - np.eye(5)).max() == 0
    assert np.abs(residual_normfree.stack_jacobian("plain", 3, 5, 0) - np.eye(5)).max() > 0.1


def test_results_and_figures_are_whole(results):
    assert results["loss"].shape == (2, 2, network.RECORDS)
    assert results["deleted_4"].shape == (2, 4)
    assert results["path_exact"].shape == (5,)
    assert results["normfree_loss"].shape == (3, 20)
    assert set(residual.figures(results)) == {"depth", "paths", "shattering"}


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("training_error", lambda x: x[:, ::-1] * 0 + np.array([[0.0, 0.0], [0.0, 0.5]]), "residual: training error"),
        ("path_error", lambda x: x + 1, "against backpropagation"),
        ("shatter_correlation", lambda x: x + 0.2, "largest error of theory"),
        ("rezero_jacobian", lambda x: x + 1e-6, "Jacobian"),
        ("normfree_loss", lambda x: np.ones_like(x), "vanilla over ReZero"),
    ],
)
def test_claims_fail_on_results_that_are_false(results, name, change, words):
    claims = residual.claims(results | {name: change(results[name])})
    assert not all(claim.holds for claim in claims if words in claim.claim)


def test_settings_that_cannot_be_run_are_refused():
    for changes, words in (({"depths": (4, 2)}, "growing"), ({"steps": 7}, "multiple")):
        with pytest.raises(ValueError, match=words):
            dataclasses.replace(TINY, **changes)
