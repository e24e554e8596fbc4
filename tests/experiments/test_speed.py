"""The cases that `speed` times make the same step on every side, and its claims can fail."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.framework import ratio_figures
from experiments.speed import cases as speed_cases
from experiments.speed import experiment as speed
from experiments.speed import grid as speed_grid
from experiments.speed.results import OVER_DEVICES, Results, ratios
from tests.experiments.spoiled import claims_that_stand

SIDES = ("gradflow", "flax", "torch")
OURS = ("gradflow", OVER_DEVICES)


def good() -> Results:
    """Results in which every claim holds."""
    networks = {
        name: {side: np.full(3, 0.09 * target if side in OURS else 0.1) for side in (*SIDES, OVER_DEVICES)}
        for name, target in speed.bands.TARGETS.items()
    }
    return Results(
        shrink=1,
        networks=networks,
        convolutions={f"{side}, {form}": np.full(3, 0.1) for side in SIDES[:2] for form in ("unrolled", "scanned")},
        grid={form: np.full(3, 0.1) for form in ("one program", "program a run", "step by step")},
        cold={"one program": 1.0, "run by run": 20.0},
        compilation={depth: np.full(3, 1.0) for depth in speed_grid.DEPTHS},
    )


def test_every_claim_holds_where_it_should_and_can_fail():
    claims = speed.claims(good())
    assert [claim.id for claim in claims if not claim.holds] == []
    assert len(claims) == len(speed.bands.TARGETS) + 4
    assert claims_that_stand(speed.claims, good()) == []
    assert speed.claims(dataclasses.replace(good(), shrink=8)) == []


def test_without_pytorch_nothing_is_claimed_against_it():
    networks = {
        name: {side: seconds for side, seconds in sides.items() if side != "torch"}
        for name, sides in good().networks.items()
    }
    alone = dataclasses.replace(good(), networks=networks)
    assert [claim.claim for claim in speed.claims(alone) if "PyTorch" in claim.claim] == []
    assert "stock Flax" in speed.files(alone)["table.md"]
    assert set(speed.figures.draw(alone)) == {"ratios"}


def test_ratios_are_taken_round_by_round():
    found = ratios({"a": np.array([1.0, 8.0]), "b": np.array([2.0, 4.0])}, "b")
    np.testing.assert_array_equal(found["a"], [0.5, 2.0])


def parameters(model, size):
    drawn = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((2, *size.shape), jnp.float32))["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(drawn))


@pytest.mark.parametrize("name", list(speed.bands.TARGETS))
def test_both_sides_have_the_same_number_of_parameters(name):
    size = speed_cases.sizes(name, 8)
    ours, stock = (parameters(build(name, size), size) for build in (speed_cases.ours, speed_cases.stock))
    assert ours == stock


@pytest.mark.parametrize("field", ["rounds", "seconds", "shrink"])
def test_settings_that_cannot_be_run_are_named(field):
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(speed.PRESETS["smoke"], **{field: 0})


def state_after(step):
    step()
    step()
    return step.__closure__[step.__code__.co_freevars.index("held")].cell_contents


@pytest.mark.parametrize("name", ["lstm", "mlp", "resnet-20"])
def test_a_batch_cut_over_devices_makes_the_step_of_the_whole_batch(name):
    size = speed_cases.sizes(name, 8)
    whole = state_after(speed_cases.step(speed_cases.ours(name, size), size))
    cut = state_after(speed_cases.step_over_devices(name, size))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), whole, cut)


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_marks_of_a_network_stay_in_its_row(count):
    rows = {"one": np.ones(3), "two": np.full(3, 2.0)}
    figure = ratio_figures.draw(
        {f"tool {k}": rows for k in range(count)}, list(rows), [1.0, 1.0], title="Ratios", label="ratio"
    )
    heights = np.sort([line.get_ydata()[0] for line in figure.axes[0].lines if len(line.get_xdata()) == 2
                       and line.get_marker() not in ("None", "", "|")])  # fmt: skip
    assert len(heights) == count
    assert np.ptp(heights) < 1 - 0.1
