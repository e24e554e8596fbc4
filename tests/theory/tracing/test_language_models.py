"""Transformers of every framework are inside the theory but for attention, forward and backward."""

from __future__ import annotations

import jax
import pytest

from gradflow import theory
from tests.theory.tracing.language_models import LENGTH, MODELS, VOCABULARY, outside_attention

BLOCKS, FEED_THE_LOSS = 3, {"head", "linear_6", "positions"}  # a table for all examples gets their sum


@pytest.mark.parametrize("framework", MODELS)
def test_all_but_attention_is_predicted(framework: str) -> None:
    model, params, attention = MODELS[framework](BLOCKS, 0)
    tokens = jax.random.randint(jax.random.key(1), (8, LENGTH), 0, VOCABULARY)
    prediction = theory.predict(model, params, tokens)
    layers = outside_attention(prediction, attention).layers
    assert len(layers) >= 2 * BLOCKS + 2, str(prediction)
    assert not [row.name for row in layers if row.starts_anew], str(prediction)
    measured = {row.name.removesuffix("/kernel").rsplit("/", 1)[-1] for row in layers if row.anchored}
    assert measured <= FEED_THE_LOSS, str(prediction)
    assert not prediction.outliers, str(prediction)
