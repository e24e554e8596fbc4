"""The parts of `residual` against plain loops and closed forms; its claims against results made false."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from experiments.framework.bands import worst_of
from experiments.framework.images import Images
from experiments.residual import bands, network
from experiments.residual import experiment as residual
from experiments.residual import normfree as residual_normfree
from experiments.residual import paths as residual_paths
from experiments.residual import profile as residual_profile
from experiments.residual import shattering as residual_shattering
from experiments.residual.results import Results
from tests.experiments.nested import made, replaced
from tests.experiments.spoiled import claims_that_stand

TINY = dataclasses.replace(
    residual.PRESETS["smoke"], depths=(2, 4), width=8, steps=20, paths=3, shatter_depths=(1, 3), shatter_width=16,
    shatter_networks=4, shatter_lines=4, normfree_depth=4, normfree_steps=20,
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
    np.testing.assert_allclose(residual_shattering.autocorrelation(noise, 3).mean(0), [1, 0, 0], atol=0.02)
    line = np.linspace(-1, 1, points)[None]
    assert residual_shattering.autocorrelation(line, 2)[0, 1] > 0.98


def test_predicted_correlations_tend_to_those_of_independent_masks(monkeypatch):
    """For unrelated inputs, c = 0 in the first block: 1/2 and 3/4."""
    monkeypatch.setattr(residual_shattering, "CORRELATION", 0.0)
    assert residual_shattering.predicted_correlation(1, skip=False)[0] == pytest.approx(0.5)
    assert residual_shattering.predicted_correlation(1, skip=True)[0] == pytest.approx(0.75)


def test_relu_map_is_the_correlation_map_of_the_library():
    c = np.linspace(-1, 1, 9)
    expected = gf.theory.correlation_map("relu", 1.0, c, weight_variance=2.0, bias_variance=0.0)
    np.testing.assert_allclose(residual_shattering.relu_map(c), expected, atol=1e-9)


def test_normalization_and_skips_make_correlations_fall_as_a_power_of_depth():
    """A power that rises from 1/2 to (1/2) / (1 - 1/pi), while without normalization it falls ever faster."""
    theory = {
        on: residual_shattering.predicted_correlation(320, skip=True, normalized=on)[[19, 39, 79, 159, 319]]
        for on in (False, True)
    }
    powers = np.log2(theory[True][:-1] / theory[True][1:])
    assert (np.diff([0.5, *powers, 0.5 / (1 - 1 / np.pi)]) > 0).all()
    assert theory[False][2] / theory[True][2] < 0.1


def test_autocorrelation_of_one_block_of_a_wide_network_is_that_of_the_process():
    """One block is v relu(w x + b): its slope is a sum of steps with Cauchy-distributed places, drawn in NumPy."""
    rng, x = np.random.default_rng(0), np.linspace(-2, 2, residual_shattering.POINTS)
    w, b, v = rng.normal(size=(3, 400, 1, 300))
    gradients = (v * w * (w * x[:, None] + b > 0)).sum(-1)
    theory = residual_shattering.predicted_autocorrelation(1, 10, skip=False)
    found = residual_shattering.autocorrelation(gradients, 10)
    np.testing.assert_allclose(found.mean(0), theory.mean(0), atol=0.02)
    np.testing.assert_allclose(found.std(0)[1:], theory.std(0)[1:], rtol=0.25)


@pytest.mark.parametrize("name", residual_shattering.KINDS)
def test_correlation_over_depth_is_that_of_gradients_of_two_examples_one_after_the_other(name):
    kind, depths, key = residual_shattering.KINDS[name], (1, 3), jax.random.key(5)
    options = {"depths": depths, "width": 16, "batch": 5}
    found = residual_shattering.gradient_correlation(key, jax.tree.map(lambda x: x[None], kind), **options)[0]
    params_key, input_key = jax.random.split(key)
    params = network.init(params_key, 3, 16, 16, 1)
    x = jax.random.normal(input_key, (5, 16))
    x = x.at[1].set(0.5 * x[0] + np.sqrt(0.75).astype(np.float32) * x[1])

    def output(x, row, depth):
        for index in range(depth):
            layer = {part: leaf[index] for part, leaf in params["blocks"].items()}
            x = kind.skip * x + network.branch(x, layer, kind)
        return (x @ params["head"]["kernel"])[row, 0]

    for depth, cosine in zip(depths, found, strict=True):
        a, b = (np.asarray(jax.grad(output)(x, row, depth))[row] for row in (0, 1))
        assert cosine == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)), abs=1e-3)


@pytest.mark.parametrize("name", ["plain", "residual"])
def test_gradients_over_blocks_are_those_of_networks_that_begin_there(toy, name):
    batch, _ = toy
    kind, key = FORMS[name], jax.random.key(6)
    found = residual_profile.gradients(key, kind, batch, blocks=4, width=6)
    params = network.init(key, 4, 6, 7)
    stream, rms = batch.x @ params["stem"]["kernel"], []
    for index in range(4):
        rest = params | {
            "stem": {"kernel": jnp.eye(6)}, "blocks": jax.tree.map(lambda leaf, i=index: leaf[i:], params["blocks"]),
        }  # fmt: skip
        gradient = jax.grad(lambda x, rest=rest: network.loss(rest, Images(x, batch.y), kind))(stream)
        rms.append(float(jnp.sqrt(jnp.mean(gradient**2))))
        layer = {part: leaf[index] for part, leaf in params["blocks"].items()}
        stream = kind.skip * stream + network.branch(stream, layer, kind)
    np.testing.assert_allclose(found, np.array(rms) / rms[-1], rtol=1e-3)


def test_predicted_gradients_explode_at_the_rate_of_batch_normalization():
    plain = residual_profile.predicted(20, 1.0, skip=False)
    np.testing.assert_allclose(residual_profile.upper_rates(plain[None]), gf.theory.batchnorm_rate("relu", 64))
    assert residual_profile.predicted(2, 1.0, skip=True).tolist() == pytest.approx([np.sqrt(2), 1])


def test_masked_depth_is_the_shallower_network():
    key, kind = jax.random.key(3), network.form(skip=True, normalized=False)
    params = network.init(key, 4, 6, 6, 1)
    x = jax.random.normal(key, (1, 6))
    shallow = params | {"blocks": jax.tree.map(lambda leaf: leaf[:2], params["blocks"])}
    np.testing.assert_allclose(
        residual_shattering._readout(params, x, kind, 2), residual_shattering._readout(shallow, x, kind, 2), rtol=1e-6
    )


KINDS = {name: (layers, form) for layers, kinds in residual_normfree.forms(4).items() for name, form in kinds.items()}


def drawn(name, **changes):
    """A network without normalization, with every parameter away from 0."""
    layers, form = KINDS[name]
    params = residual_normfree.init(jax.random.key(0), form, layers=layers, depth=4, inputs=7)
    keys = iter(jax.random.split(jax.random.key(1), 99))
    noisy = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(next(keys), leaf.shape), params)
    return form, noisy | changes


@pytest.mark.parametrize("name, residual", [("vanilla", None), ("ReZero", "rezero")])
def test_branches_of_one_layer_are_those_of_the_model(name, residual):
    form, params = drawn(name)
    blocks = params["blocks"] | {"shift": jnp.zeros((4, 2, 1))}
    hidden = {"Dense": {"kernel": blocks["kernel"][:, 0], "bias": blocks["bias"][:, 0]}}
    if residual:
        hidden["residual_scale"] = blocks["factor"]
    else:
        blocks["factor"] = jnp.ones(4)
    model = gf.models.MLP(depth=5, width=residual_normfree.WIDTH, outputs=10, residual=residual, scan=True)
    x = jax.random.normal(jax.random.key(2), (3, 7))
    expected = model.apply({"params": {"Dense_0": params["stem"], "Hidden": hidden, "Dense_5": params["output"]}}, x)
    np.testing.assert_allclose(residual_normfree.forward(params | {"blocks": blocks}, x, form), expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["residual", "SkipInit", "Fixup"])
def test_branches_of_two_layers_are_a_plain_loop(name):
    form, params = drawn(name)
    x = np.random.default_rng(0).normal(size=(3, 7))
    plain = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    stream, blocks = x @ plain["stem"]["kernel"] + plain["stem"]["bias"], plain["blocks"]
    for index in range(2):
        y, shift = stream, blocks["shift"][index]
        for layer in range(2):
            y = np.maximum(y + shift[0, layer], 0) + shift[1, layer]
            y = y @ blocks["kernel"][index, layer] + blocks["bias"][index, layer]
        stream = stream + blocks["factor"][index] * y
    expected = np.maximum(stream, 0) @ plain["output"]["kernel"] + plain["output"]["bias"]
    result = residual_normfree.forward(params, jnp.asarray(x, jnp.float32), form)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def test_stacks_start_as_published():
    """Fixup: L^(-1/2) of He's weights, then 0; of all, only those without a factor of 0 are no identity."""
    layers, form = KINDS["Fixup"]
    params = residual_normfree.init(jax.random.key(0), form, layers=layers, depth=4, inputs=7)
    first, last = np.moveaxis(np.asarray(params["blocks"]["kernel"]), 1, 0)
    np.testing.assert_allclose(first.std(), np.sqrt(2 / residual_normfree.WIDTH / 2), rtol=0.02)
    assert not last.any()
    assert not params["output"]["kernel"].any()
    assert params["blocks"]["factor"].tolist() == [1, 1]
    assert KINDS["SkipInit"][1].factor == KINDS["ReZero"][1].factor == 0


def test_forms_learn_what_they_have_and_nothing_else():
    _, params = drawn("Fixup")
    ones = jax.tree.map(jnp.ones_like, params)
    learned = {
        name: {part for part, leaf in residual_normfree.learned_only(ones, form)["blocks"].items() if leaf.all()}
        for name, (_, form) in KINDS.items()
    }
    assert learned["vanilla"] == learned["residual"] == {"kernel", "bias"}
    assert learned["ReZero"] == learned["SkipInit"] == {"kernel", "bias", "factor"}
    assert learned["Fixup"] == {"kernel", "factor", "shift"}


def test_growth_of_a_stack_of_two_layer_branches_spreads_as_the_band_says():
    """Over 24 networks: the mean shifted down by half the variance, the spread that of the band."""
    x = jax.random.normal(jax.random.key(1), (residual_normfree.PROBED, 20))
    _, form = KINDS["residual"]
    options = {"layers": 2, "depth": 16}

    @jax.jit
    def gradient(seed):
        return residual_normfree.beginning(form, Images(x, jnp.zeros(64, int)), **options, seed=seed)["gradient"][0]

    rates = np.array([2 * np.log2(gradient(seed)) / 8 for seed in range(24)])
    band = bands.doubling(8, residual_normfree.WIDTH)
    assert rates.mean() in band
    assert rates.std() < (band.high - 1) / worst_of(2)


@pytest.mark.parametrize("name", ["ReZero", "SkipInit", "Fixup"])
def test_stacks_whose_branches_start_at_nothing_are_the_identity(name):
    layers, form = KINDS[name]
    params = residual_normfree.init(jax.random.key(0), form, layers=layers, depth=4, inputs=7)
    x = jax.random.normal(jax.random.key(1), (residual_normfree.WIDTH,))
    jacobian = jax.jacrev(lambda x: residual_normfree.stack(params, x[None], form)[0])(x)
    np.testing.assert_array_equal(jacobian, np.eye(residual_normfree.WIDTH))


def test_results_and_figures_are_whole(results):
    assert results.training.loss.shape == (2, 2, network.RECORDS)
    assert results.training.deleted[4].shape == (2, 4)
    assert results.paths.exact.shape == (5,)
    assert results.profile.measured.shape == (2, residual_profile.NETWORKS, 4)
    assert results.over_depth.measured.shape == results.over_depth.theory.shape == (4, 2)
    assert results.along.autocorrelation.shape == (6, residual_shattering.LAGS)
    assert {network.loss.shape for network in results.normfree.values()} == {(20,)}
    assert results.normfree["Fixup"].signal.shape == (2,)
    figures = residual.figures.draw(results)
    assert set(figures) == {"depth", "paths", "shattering", "normfree"}
    assert all(axes.get_lines() for name in ("depth", "shattering") for axes in figures[name].axes)


def good() -> Results:
    """Results in which every claim holds, as a full run gives them."""
    depths, over = np.array([5, 20, 54]), np.array([1, 5, 20])
    grown = np.full((3, 2), 0.1)
    grown[2] += [0.6, 0.0]
    lost = np.array([[0.6], [0.005]])
    weights = np.array([residual_profile.predicted(54, 1.0, skip=skip) for skip in (False, True)])
    correlation = np.tile(0.5 * (over / 5.0) ** -0.5, (4, 1))
    neighbours = [0.9, 0.0, 0.85, 0.5, 0.88, 0.87]
    lengths = np.linspace(0, 30, 11).astype(int)
    trained = 0.5
    names = ("ReZero", "SkipInit", "Fixup")
    return made(Results, {
        "depths": depths,
        "training.training_error": grown,
        "training.test_accuracy": np.full((3, 2), 0.8),
        "training.responses": {5: np.array([[1.0], [0.2]]), 20: np.array([[1.0], [0.1]]), 54: np.array([[1.0], [0.1]])},
        "training.deleted": {20: 0.8 - lost * np.ones((2, 20)), 54: 0.8 - lost * np.ones((2, 54))},
        "paths.lengths": lengths,
        "paths.sampled": (-1.3 * lengths[:, None] * np.ones((1, 3))),
        "profile.theory": weights,
        "profile.measured": np.tile(weights[:, None], (1, 32, 1)),
        "along.autocorrelation": np.stack([np.ones(6), np.array(neighbours)], 1),
        "along.theory": np.array([[1.0, 0.89], [1.0, 0.88]]),
        "along.error": np.full((2, 2), 0.01),
        "over_depth.depths": over,
        "over_depth.theory": correlation,
        "over_depth.measured": correlation + 0.01,
        "over_depth.error": np.full((4, 3), 0.01),
        "normfree_depth": 64,
        "normfree.residual.signal": 2 ** (np.arange(32) / 2),
        "normfree.residual.gradient": 2 ** (np.arange(32, 0, -1) / 2),
        "normfree.residual.loss": np.full(180, 1.0),
        "normfree.vanilla.loss": np.full(180, 2.25),
        **{f"normfree.{name}.loss": np.full(180, trained) for name in names},
        "cifar": None,
    })  # fmt: skip


def test_every_claim_holds_on_good_results_and_fails_on_some_spoiled_ones():
    claims = residual.claims(good())
    assert [claim.id for claim in claims if not claim.holds] == []
    assert len(claims) == 19
    given = ("*.theory", "depths", "over_depth.depths", "paths.lengths", "normfree_depth")
    assert claims_that_stand(residual.claims, good(), theory=given) == ["path-decay"]  # no spoil bends a line
    bent = replaced(good(), {"paths.sampled": np.where(good().paths.sampled < -20, 0.0, good().paths.sampled)})
    assert [claim.id for claim in residual.claims(bent) if not claim.holds and claim.id == "path-decay"]


def test_little_is_claimed_of_shallow_networks(results):
    names = {claim.id for claim in residual.claims(results)}
    assert names == {
        "responses", "gradient-plain", "gradient-residual", "correlation-over-depth", "neighbours-plain",
        "neighbours-residual", "neighbours-bare", "stream-doubles",
    }  # fmt: skip


def test_settings_that_cannot_be_run_are_refused():
    for changes, words in (
        ({"depths": (4, 2)}, "growing"),
        ({"steps": 7}, "multiple"),
        ({"normfree_depth": 5}, "even"),
    ):
        with pytest.raises(ValueError, match=words):
            dataclasses.replace(TINY, **changes)
