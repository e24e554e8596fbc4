"""Equations on known numbers, by NumPy where it has the operation: JAX would compile one program for each shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core
from scipy import special

from gradflow.instrument import jaxprs

__all__ = ["evaluate", "numpy_outputs"]

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": np.abs, "add": np.add, "add_any": np.add, "cos": np.cos, "div": np.true_divide, "eq": np.equal,
    "erf": special.erf, "exp": np.exp, "ge": np.greater_equal, "gt": np.greater, "le": np.less_equal, "log": np.log,
    "logistic": special.expit, "lt": np.less, "max": np.maximum, "min": np.minimum, "mul": np.multiply,
    "ne": np.not_equal, "neg": np.negative, "pow": np.power, "rsqrt": lambda x: (1 / np.sqrt(x)).astype(x.dtype),
    "sin": np.sin, "sqrt": np.sqrt, "square": np.square, "sub": np.subtract, "tanh": np.tanh,
}  # fmt: skip


def numpy_outputs(eqn: core.JaxprEqn, operands: Sequence[Any]) -> list[Any] | None:
    """Return an equation's outputs by NumPy; None where it has no such operation, or not for these types.

    Args:
        eqn: the equation.
        operands: its operands.
    """
    if any(isinstance(x, jax.Array) and (_is_key(x) or not x.is_fully_addressable) for x in operands):
        return None
    name, params = eqn.primitive.name, eqn.params
    arrays = [np.asarray(x) for x in operands]
    if (function := _FUNCTIONS.get(name)) is not None:
        floating = all(a.dtype in (np.float32, np.float64) for a in arrays)
        return [np.asarray(function(*arrays))] if floating else None
    if name == "integer_pow" and arrays[0].dtype in (np.float32, np.float64):
        return [np.power(arrays[0], arrays[0].dtype.type(params["y"]))]
    if name == "broadcast_in_dim":
        shape = params["shape"]
        sizes = [1] * len(shape)
        for k, axis in enumerate(params["broadcast_dimensions"]):
            sizes[axis] = arrays[0].shape[k]
        return [np.broadcast_to(arrays[0].reshape(sizes), shape)]
    if name in ("reshape", "squeeze", "expand_dims"):
        return [arrays[0].reshape(jaxprs.shape_of(eqn.outvars[0]))]
    if name == "transpose":
        return [np.transpose(arrays[0], params["permutation"])]
    if name == "copy":
        return [arrays[0]]
    if name == "slice":
        cuts = zip(
            params["start_indices"],
            params["limit_indices"],
            params["strides"] or [1] * arrays[0].ndim,
            strict=True,
        )
        return [arrays[0][tuple(slice(*cut) for cut in cuts)]]
    if name == "iota":
        shape, axis = params["shape"], params["dimension"]
        sizes = [-1 if k == axis else 1 for k in range(len(shape))]
        return [np.broadcast_to(np.arange(shape[axis], dtype=params["dtype"]).reshape(sizes), shape)]
    return None


def evaluate(jaxpr: core.Jaxpr, eqn: core.JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """Return an equation's outputs on known operands.

    Args:
        jaxpr: that it stands in.
        eqn: the equation.
        operands: their numbers.
    """
    with np.errstate(all="ignore"):
        outs = numpy_outputs(eqn, operands)
    if outs is not None:
        return outs
    env = {a: v for a, v in zip(eqn.invars, operands, strict=True) if jaxprs.is_var(a)}
    with jax.debug_nans(False), jax.debug_infs(False):
        jaxprs.evaluate(jaxpr, [eqn], list(eqn.outvars), env)
    return [env[v] for v in eqn.outvars]


def _is_key(x: Any) -> bool:
    return bool(jax.numpy.issubdtype(x.dtype, jax.dtypes.extended))
