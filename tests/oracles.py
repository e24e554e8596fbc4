"""Slow, obvious versions that the fast code is held against: zero perturbations, plain loops, NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FIELDS = (
    "input_rms",
    "output_rms",
    "output_mean",
    "output_grad_rms",
    "input_grad_rms",
    "zero_grad_fraction",
    "dead_fraction",
    "underflow_fraction",
    "similarity",
)


class Probe:
    """Stands where a layer is: adds zero perturbations to its input and output and notes both values.

    The model is written once with `probe(name, contraction, x)` in place of `contraction(x)`; the gradient with respect
    to the perturbations is what the instrument should see.
    """

    def __init__(self, perturbations: dict[str, tuple[Any, Any]] | None = None) -> None:
        self.given = perturbations
        self.seen: dict[str, tuple[Any, Any]] = {}

    def __call__(self, name: str, contraction: Callable[[Any], Any], x: Any) -> Any:
        entering, leaving = self.given[name] if self.given is not None else (0.0, 0.0)
        x = x + jnp.asarray(entering, x.dtype)
        y = contraction(x)
        y = y + jnp.asarray(leaving, y.dtype)
        self.seen[name] = (x, y)
        return y


def probed(loss: Callable[..., Any], params: Any, *args: Any) -> dict[str, dict[str, np.ndarray]]:
    """Return, for each probed name, input, output and their cotangents as float64 arrays.

    `loss(probe, params, *args)` returns a scalar.
    """
    probe = Probe()
    loss(probe, params, *args)
    shapes = {name: tuple(jnp.zeros(v.shape, v.dtype) for v in pair) for name, pair in probe.seen.items()}

    def perturbed(perturbations: Any) -> tuple[Any, Any]:
        inner = Probe(perturbations)
        return loss(inner, params, *args), inner.seen

    grads, seen = jax.jit(jax.grad(perturbed, has_aux=True))(shapes)
    return {
        name: {
            "input": np.asarray(seen[name][0], np.float64),
            "output": np.asarray(seen[name][1], np.float64),
            "input_grad": np.asarray(grads[name][0], np.float64),
            "output_grad": np.asarray(grads[name][1], np.float64),
        }
        for name in seen
    }


def rms(x: np.ndarray) -> float:
    """Root mean square in float64."""
    return float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64)))))


def similarity(y: np.ndarray) -> float:
    """Mean cosine between different examples along axis 0, by a double loop."""
    rows = [r.ravel() for r in np.asarray(y, np.float64)]
    rows = [r / np.linalg.norm(r) for r in rows if np.linalg.norm(r) > 0]
    pairs = [float(a @ b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
    return float(np.mean(pairs)) if pairs else float("nan")


def statistics(record: dict[str, np.ndarray], unit_axes: tuple[int, ...] = (-1,)) -> dict[str, float]:
    """Every per-layer statistic from arrays, by plain NumPy; the units are the last axis, axis 0 the examples."""
    g, y = record["output_grad"], record["output"]
    examples = tuple(k for k in range(g.ndim) if k not in {a % g.ndim for a in unit_axes})
    flushed = (g != 0) & (g.astype(np.float16) == 0)
    return {
        "input_rms": rms(record["input"]),
        "output_rms": rms(y),
        "output_mean": float(np.mean(y)),
        "output_grad_rms": rms(g),
        "input_grad_rms": rms(record["input_grad"]),
        "zero_grad_fraction": float(np.mean(g == 0)),
        "dead_fraction": float(np.mean(np.all(g == 0, axis=examples))),
        "underflow_fraction": float(np.mean(flushed)),
        "similarity": similarity(y),
    }


def assert_layer(layer: Any, expected: dict[str, float], rtol: float = 2e-5) -> None:
    """Hold one layer's statistics against the oracle's."""
    for field, value in expected.items():
        atol = 2e-6 if field in ("similarity", "output_mean") else 0.0
        np.testing.assert_allclose(getattr(layer, field), value, rtol=rtol, atol=atol, err_msg=f"{layer.name}.{field}")


def assert_weight(layer: Any, weight: Any, grad: Any, rtol: float = 2e-5) -> None:
    """Hold one layer's weight statistics against NumPy."""
    np.testing.assert_allclose(layer.weight_rms, rms(weight), rtol=rtol)
    np.testing.assert_allclose(layer.weight_grad_rms, rms(grad), rtol=rtol)
    np.testing.assert_allclose(layer.weight_grad_norm, np.linalg.norm(np.asarray(grad, np.float64)), rtol=rtol)


def assert_same_gradients(loss: Callable[..., Any], value: Any, grads: Any, *args: Any, rtol: float = 1e-6) -> None:
    """Hold value and gradients against `jax.value_and_grad` under jit."""
    expected, expected_grads = jax.jit(jax.value_and_grad(loss))(*args)
    np.testing.assert_allclose(value, expected, rtol=rtol)
    flat, tree = jax.tree.flatten(grads)
    flat_expected, tree_expected = jax.tree.flatten(expected_grads)
    assert tree == tree_expected
    for got, want in zip(flat, flat_expected, strict=True):
        scale = float(np.max(np.abs(np.asarray(want, np.float64)), initial=0.0))
        assert got.dtype == want.dtype
        np.testing.assert_allclose(
            np.asarray(got, np.float64), np.asarray(want, np.float64), rtol=1e-5, atol=1e-6 * scale
        )
