"""Families of the zoo: what each is said to have, it has."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.diagnosis import labels, tasks, zoo
from experiments.diagnosis.families import building, optimizers
from experiments.diagnosis.specimen import cross_entropy


def numbers(family, wanted, count=12):
    """Specimens of a family whose name has a word in it."""
    drawn = (zoo.draw(family, number, 0) for number in range(count))
    return next(specimen for specimen in drawn if wanted in specimen.name)


def gradient(specimen):
    return jax.jit(jax.grad(specimen.loss))(specimen.params, *specimen.batches[0])


# Deep chains of Linen, of which the zoo itself makes its older families, take seconds each.
@pytest.mark.parametrize("family", [name for name in zoo.FAMILIES if zoo.FAMILIES[name].__module__ != zoo.__name__])
def test_loss_at_the_start_is_a_number(family):
    specimen = zoo.draw(family, 0, 0)
    value = jax.jit(specimen.loss)(specimen.params, *specimen.batches[0])
    assert np.isfinite(value)
    assert value >= 0
    assert math.isfinite(specimen.chance)
    assert specimen.chance > 0


def test_chance_is_that_of_who_knows_the_shares_or_the_mean():
    specimen = zoo.draw("imbalanced classes", 0, 0)
    y = np.concatenate([y for _, y in specimen.batches])
    logits = jnp.log(jnp.asarray(np.bincount(y, minlength=tasks.CLASSES) / len(y), jnp.float32))
    np.testing.assert_allclose(specimen.chance, cross_entropy(jnp.tile(logits, (len(y), 1)), y), rtol=1e-5)
    for family in ("large targets", "fault: bounded output"):
        specimen = zoo.draw(family, 0, 0)
        y = np.concatenate([y for _, y in specimen.batches])
        np.testing.assert_allclose(specimen.chance, y.var(), rtol=1e-4)


@pytest.mark.parametrize("family", ["fault: scaled convolution", "fault: scaled gates", "fault: scaled transformer"])
def test_a_scaled_layer_is_where_it_is_said_to_be(family):
    specimen = zoo.draw(family, 0, 0)
    (place,) = specimen.places
    leaves = {
        "/".join(key.key for key in path[:-1]).removeprefix("params/"): float(jnp.std(leaf)) * leaf[..., 0].size ** 0.5
        for path, leaf in jax.tree_util.tree_leaves_with_path(specimen.params)
        if leaf.ndim > 1
    }
    farthest = max(leaves, key=lambda name: abs(math.log10(leaves[name])))
    assert farthest == place


def test_a_cut_takes_the_gradient_of_its_places_and_of_no_other():
    specimen = zoo.draw("fault: cut", 0, 0)
    silent = {name for name, layer in gradient(specimen).items() if not np.any(layer["kernel"])}
    assert silent == set(specimen.places)


def test_places_of_a_zero_gain_hold_zeros():
    for what, field in (("layer ", "kernel"), ("norm ", "scale"), ("all norms", "scale")):
        specimen = numbers("fault: zero gain", f" layers, {what}")
        silent = {name for name, layer in specimen.params.items() if not np.any(layer.get(field, 1))}
        assert silent
        assert silent <= set(specimen.places)


def test_adam_without_correction_starts_with_larger_steps_and_is_adam_otherwise():
    rate, memory, gradients = 0.01, 0.999, {"w": jnp.asarray([1.0, -3.0])}
    plain, corrected = optimizers.uncorrected_adam(rate, memory), optax.adam(rate, b2=memory)
    state, other = plain.init(gradients), corrected.init(gradients)
    for step in range(1, 4):
        found, state = plain.update(gradients, state)
        with jax.numpy_dtype_promotion("standard"):  # optimizers are written for it
            expected, other = corrected.update(gradients, other)
        factor = (1 - 0.9**step) / math.sqrt(1 - memory**step)
        np.testing.assert_allclose(found["w"], factor * expected["w"], rtol=1e-4)


def test_a_batch_uses_one_row_in_a_hundred():
    specimen = zoo.draw("embeddings", 0, 0)
    used = np.any(np.asarray(gradient(specimen)["embedding"]["table"]), axis=-1)
    assert 0 < used.mean() < 0.02


def test_idle_experts_have_no_gradient_and_others_do():
    specimen = numbers("experts", "4 idle")
    used = np.any(np.asarray(gradient(specimen)["experts_0"]["kernel"]), axis=(1, 2))
    assert not used[:4].any()
    assert used[4:].any()


def test_beside_frozen_weights_one_factor_starts_at_zero_and_alone_has_a_gradient():
    found = gradient(numbers("MLP, low rank", "behind a stop"))
    learning = {name for name, layer in found.items() if np.any(layer["kernel"])}
    assert learning == {name for name in found if name.endswith("_b")}


def test_labels_of_padding_change_nothing():
    specimen = zoo.draw("padding", 0, 0)
    x, y = specimen.batches[0]
    assert (x[:, 0] == 0).any()
    loss = jax.jit(specimen.loss)
    assert loss(specimen.params, x, y) == loss(specimen.params, x, np.where(x[:, 0] == 0, 0, y))
    assert loss(specimen.params, x, y) != loss(specimen.params, x, np.where(x[:, 0] == 0, y, 0))


def test_dropout_is_a_function_of_the_batch():
    specimen = numbers("MLP, dropout", "40%", 24)
    logits = jax.jit(specimen.logits)
    x = specimen.batches[0][0]
    np.testing.assert_array_equal(logits(specimen.params, x), logits(specimen.params, x))
    # A batch whose first number differs by a rounding has another mask.
    assert np.abs(logits(specimen.params, x) - logits(specimen.params, x * np.float32(1 + 1e-6))).max() > 0.1


def test_links_join_nodes_of_one_class():
    x, y = tasks.graphs(0)[0]
    links, y = x[..., tasks.SIGNALS :] > 0, y.reshape(x.shape[:2])
    same = y[:, :, None] == y[:, None, :]
    assert links[same].mean() > 5 * links[~same].mean()
    np.testing.assert_array_equal(links, links.transpose(0, 2, 1))
    np.testing.assert_allclose(x[..., tasks.SIGNALS :].sum(-1), 1.0, rtol=1e-6)


def test_a_standardized_array_has_mean_0_and_variance_1():
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (64, 10))
    for axis in (0, -1):
        y = building.standardized(x, axis)
        np.testing.assert_allclose(y.mean(axis), 0, atol=1e-5)
        np.testing.assert_allclose(y.var(axis), 1, rtol=1e-4)


@pytest.mark.parametrize(("family", "sick"), [("small data", False), ("fault: bounded output", True)])
def test_a_label_of_a_new_family(family, sick):
    specimen = dataclasses.replace(zoo.draw(family, 0, 0), optimizer=optax.adam(1e-2))
    gain = labels.trained(specimen, 60, 1)
    assert labels.is_sick(gain, max(gain, 0.0)) == sick
