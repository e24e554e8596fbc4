"""The table of rules: one entry a primitive, a column for each interpreter, open to users; a list of what has none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import pytest

import gradflow as gf
from gradflow import primitives
from gradflow.instrument import FlowError
from gradflow.instrument.jaxprs import CUSTOM_RULES, INLINED, REMAT
from gradflow.theory.tracing.rules import rule_of
from tests.theory.networks import chain, square_weights
from tests.user_errors import without_type_checker

CALLS = CUSTOM_RULES | INLINED | REMAT | {"scan"}


@pytest.fixture
def table() -> Iterator[dict[str, primitives.Rules]]:
    """The table, as it was before afterwards."""
    before = dict(primitives.RULES)
    yield primitives.RULES
    primitives.RULES.clear()
    primitives.RULES.update(before)


def test_a_rule_of_theory(table: Any) -> None:
    """Without one the layer behind a sorted signal is outside; sorting changes no mean square, and the rule says so."""
    x = jax.random.normal(jax.random.key(1), (16, 100))
    assert "sort" in gf.theory.predict(chain(jnp.sort), square_weights(), x).outside["1"]
    gf.register_rule("sort", random_field=lambda algebra, eqn, values: values[0])
    prediction = gf.theory.predict(chain(jnp.sort), square_weights(), x)
    assert not prediction.outside
    assert prediction.layers[1].output_rms == pytest.approx(prediction.layers[1].measured_output_rms, rel=0.3)


def test_a_rule_of_the_instrument(table: Any) -> None:
    """A weight that is rolled by an index from the batch is data without a rule, and a weight with one."""

    def loss(w: jax.Array, x: jax.Array, order: jax.Array) -> jax.Array:
        _, sorted_w = jax.lax.sort((jnp.broadcast_to(order, w.shape), w), num_keys=1)
        return jnp.mean((x @ sorted_w) ** 2)

    args = (jnp.ones((3, 4)), jnp.ones((5, 3)), jnp.arange(4.0))
    assert not gf.value_grad_and_flow(loss)(*args)[2].layers
    gf.register_rule("sort", origin=lambda eqn, origins: list(origins))
    assert len(gf.value_grad_and_flow(loss)(*args)[2].layers) == 1
    assert rule_of("sort") is None, "the column left out stays as it is"
    gf.register_rule("sort", origin=lambda eqn, origins: origins[0])
    with pytest.raises(FlowError, match="rule of sort"):
        gf.value_grad_and_flow(loss)(*args)


def test_what_a_user_registers_stays_when_the_library_fills_its_own(table: Any) -> None:
    gf.register_rule("tanh", origin=mine)
    primitives.fill_rules(["tanh"], "origin", theirs)
    primitives.fill_rules(["tanh"], "random_field", theirs)
    assert table["tanh"].origin is mine
    assert table["tanh"].random_field is theirs
    code = (
        "import gradflow as gf; gf.register_rule('tanh', random_field=print, origin=print); "
        "from gradflow.theory.tracing.rules import rule_of; from gradflow.primitives import RULES; "
        "assert rule_of('tanh') is print and RULES['tanh'].origin is print and rule_of('sin') is not None"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def mine(eqn: Any, origins: Any) -> Any:
    return [origins[0]]


def theirs(*values: Any) -> Any:
    return values[-1]


@pytest.mark.parametrize("given", [([3], {"origin": mine}), ("sort", {}), ("sort", {"random_field": "mean"})])
@without_type_checker()
def test_misuse_is_said(given: Any, table: Any) -> None:
    name, rules = given
    with pytest.raises(TypeError, match="Fix: register_rule"):
        gf.register_rule(name, **rules)


# Of JAX 0.10: what no rule describes. A newer JAX shows here what came with it. Without a rule of the instrument a
# primitive mixes what it reads; without one of theory the next layer starts anew.
WITHOUT_EITHER = """
after_all all_to_all approx_top_k argmax argmin bitcast_convert_type call cholesky clz complex cond conj
create_token cumlogsumexp cummax cummin cumprod cumsum custom_lin custom_linear_solve dynamic_update_slice eig eigh
empty2 eq_to fft  get hessenberg householder_product igamma_grad_a imag iota le_to lt_to lu  polygamma
population_count ppermute qr ragged_all_to_all random_bits random_fold_in random_gamma random_seed random_split real
reduce reduce_and  reduce_min reduce_or reduce_prod reduce_window  reduce_window_min  reduce_xor
regularized_incomplete_beta rng_bit_generator rng_uniform scatter scatter-max scatter-min scatter-mul
schur select_and_gather_add select_and_scatter select_and_scatter_add shift_left shift_right_arithmetic
shift_right_logical sort svd swap threefry2x32 top_k triangular_solve tridiagonal tridiagonal_solve while zeta
"""
WITHOUT = {
    "origin": "concatenate gather pad reduce_max reduce_sum reduce_window_max reduce_window_sum scatter-add",
    "random_field": "all_gather axis_index dynamic_slice pmax pmin psum stop_gradient",
}


def installed() -> set[str]:
    return {p.name for p in vars(jax.extend.core.primitives).values() if isinstance(p, jax.extend.core.Primitive)}


@pytest.mark.parametrize("column", ["origin", "random_field"])
def test_primitives_without_a_rule_are_known(column: str) -> None:
    found = installed()
    filled = {name for name, rules in primitives.RULES.items() if getattr(rules, column) is not None}
    known = set(WITHOUT_EITHER.split()) | set(WITHOUT[column].split())
    assert len(found) > 100
    assert not known & filled
    if new := sorted(found - filled - primitives.CONTRACTIONS - CALLS - known):
        pytest.xfail(f"JAX {jax.__version__} has primitives without a rule that were not there before: {new}")
