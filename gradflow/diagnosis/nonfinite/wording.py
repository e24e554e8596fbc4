"""What an operation did with what it read, in words that a user knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Words", "backward_words", "forward_words"]


class Words(NamedTuple):
    """An operation that went wrong.

    Attributes:
        operation: in a few words.
        cause: in a sentence.
        remedy: key of `REMEDIES`.
    """

    operation: str
    cause: str
    remedy: str


_OVERFLOW = {
    "exp": "exp", "exp2": "exp", "expm1": "exp", "sinh": "exp", "cosh": "exp", "mul": "a product", "add": "a sum",
    "sub": "a difference", "add_any": "a sum", "reduce_sum": "a sum", "cumsum": "a sum", "cumprod": "a product",
    "reduce_prod": "a product", "dot_general": "a matrix product", "conv_general_dilated": "a convolution",
    "ragged_dot": "a matrix product", "ragged_dot_general": "a matrix product", "square": "a square",
    "integer_pow": "a power", "pow": "a power", "div": "a quotient", "reduce_window_sum": "a sum",
    "scatter-add": "a sum", "scatter_add": "a sum",
}  # fmt: skip
_DOMAINS = {
    "acos": ("arccos", 1.0), "asin": ("arcsin", 1.0), "atanh": ("arctanh", 1.0), "erf_inv": ("erf_inv", 1.0),
}  # fmt: skip
_CLOSED = ("shard_map", "pallas_call", "ffi_call", "custom_vmap_call")
_SOFTMAX = ("softmax", "_softmax", "log_softmax", "_log_softmax")


def forward_words(name: str, at: Sequence[Any], value: Any, dtype: str, names: Sequence[str], statistic: str) -> Words:
    """Describe an operation whose value is not finite.

    Args:
        name: of the primitive.
        at: entries of its operands that the bad entry was computed from; None where there are several.
        value: the bad entry.
        dtype: of the output.
        names: of the library functions around it, the innermost first.
        statistic: what a root or a divisor is: "norm", "variance" or "".
    """
    first = at[0] if at else None
    if name in _CLOSED:
        return _closed(name, value)
    if name in ("convert_element_type", "reduce_precision"):
        return Words(f"cast to {dtype} that overflows", f"{_number(first)} is beyond the range of {dtype}.", "cast")
    if name == "gather":
        return Words(
            "look-up out of range", "An index lies outside of the array, and such a look-up reads NaN.", "gather"
        )
    if name in ("sub", "add", "add_any", "reduce_sum", "cumsum", "dot_general") and np.isnan(value):
        return _differences(first, names, statistic)
    if name in ("div", "rem", "integer_pow") and (found := _quotient(name, at, statistic)) is not None:
        return found
    if name in ("log", "log1p", "log2") and first is not None:
        return _logarithm(first + (1 if name == "log1p" else 0), names)
    if name in ("sqrt", "rsqrt") and first is not None:
        return _root(first, statistic)
    if name == "pow":
        return _power(at, dtype)
    if name == "mul" and np.isnan(value):
        return Words("0 * inf", "A factor of 0 meets an infinite one.", "product")
    if name in _DOMAINS:
        word, edge = _DOMAINS[name]
        where = "at" if first is not None and abs(first) <= edge else "beyond"
        return Words(f"{word} {where} its limit", f"{word} of {_number(first)}, which has to lie within 1.", "domain")
    if name == "acosh":
        return Words("arccosh below 1", f"arccosh of {_number(first)}, which has to be at least 1.", "domain")
    if name in ("lgamma", "digamma"):
        return Words(f"{name} at a pole", f"{name} of {_number(first)}.", "domain")
    if name in ("cholesky", "lu", "triangular_solve", "eigh", "eig", "svd", "qr", "geqrf", "householder_product"):
        return Words(f"{name} of a matrix without one", "The matrix is singular or not positive definite.", "matrix")
    if name in _OVERFLOW and not np.isnan(value):
        word = _OVERFLOW[name]
        operation = "exp overflow" if word == "exp" else f"overflow of {word}"
        cause = f"The result is beyond the largest number of {dtype}" + (
            f" ({_number(first)} enters)." if first is not None and len(at) == 1 else "."
        )
        return Words(operation, cause, "exp" if word == "exp" else "overflow")
    return Words(f"{name} of {', '.join(map(_number, at))}", f"{name} gives {value} there.", "other")


def backward_words(
    name: str, at: Sequence[Any], value: Any, dtype: str, names: Sequence[str], statistic: str, arriving: Any
) -> Words:
    """Describe an operation whose value is finite and whose derivative is not.

    Args:
        name: of the primitive whose derivative it is.
        at: entries of its operands.
        value: the bad entry of the cotangent.
        dtype: of the cotangent.
        names: of the library functions around it.
        statistic: what a root or a divisor is.
        arriving: the cotangent's entry at the output of the operation, None where it is not known.
    """
    first = at[0] if at else None
    if name in _CLOSED:
        return _closed(name, value)
    if name in ("sqrt", "rsqrt") and first == 0:
        words = {"norm": "norm at 0", "variance": "standard deviation at a variance of 0"}
        operation = words.get(statistic, f"{name} at 0")
        return Words(operation, "The derivative of a root at 0 is infinite.", statistic or "sqrt")
    if name in ("log", "log1p", "log2") and first is not None and first + (name == "log1p") == 0:
        return Words("log of 0", "The derivative of log at 0 is infinite.", "log")
    if name in ("div", "rem", "integer_pow") and (found := _quotient(name, at, statistic)) is not None:
        return found._replace(cause=found.cause.rstrip(".") + ", and so is its derivative.")
    if name == "pow":
        return _power(at, dtype, backward=True)
    if name in _DOMAINS:
        word = _DOMAINS[name][0]
        return Words(f"{word} at its limit", f"The derivative of {word} at {_number(first)} is infinite.", "domain")
    if name == "acosh":
        return Words("arccosh at 1", "The derivative of arccosh at 1 is infinite.", "domain")
    if name == "cbrt" and first == 0:
        return Words("cube root at 0", "The derivative of a root at 0 is infinite.", "sqrt")
    if name == "atan2":
        return Words("atan2 at the origin", "atan2(0, 0) has no derivative.", "domain")
    if name in ("exp", "exp2", "expm1", "sinh", "cosh"):
        return Words("exp overflow", f"exp of {_number(first)} is beyond the largest number of its type.", "exp")
    if name == "convert_element_type" and not np.isnan(value):
        return Words(
            f"cast of a gradient to {dtype} that overflows",
            f"The gradient {_number(arriving)} is beyond the range of {dtype}.",
            "gradient_cast",
        )
    if name in ("cholesky", "lu", "triangular_solve", "eigh", "eig", "svd", "qr", "custom_linear_solve"):
        return Words(f"derivative of {name}", "It divides by differences of eigenvalues, or by pivots of 0.", "matrix")
    if not np.isnan(value):
        word = _OVERFLOW.get(name, name)
        cause = f"The gradient grows beyond the largest number of {dtype}."
        return Words(f"overflow of a gradient (derivative of {word})", cause, "explosion")
    if name in _OVERFLOW:
        operation = f"0 * inf or inf - inf in a gradient (derivative of {_OVERFLOW[name]})"
        return Words(operation, "Infinite gradients meet, or an infinite one meets a factor of 0.", "explosion")
    return Words(f"derivative of {name}", f"The derivative of {name} is {value} there.", "other")


def _closed(name: str, value: Any) -> Words:
    cause = f"What enters it is finite, and {value} comes out. Its inside is not looked into."
    return Words(f"an operation inside {name}", cause, "closed")


def _differences(first: Any, names: Sequence[str], statistic: str) -> Words:
    if (statistic == "maximum" or any(name in _SOFTMAX for name in names)) and first == -np.inf:
        return Words(
            "softmax of a row of -inf",
            "Every entry of a row is -inf (all masked), so that exp(-inf - -inf) is formed.",
            "softmax",
        )
    return Words("inf - inf", "An infinity is subtracted from an infinity.", "difference")


def _quotient(name: str, at: Sequence[Any], statistic: str) -> Words | None:
    top, below = (1.0, at[0]) if name == "integer_pow" and at else at if len(at) == 2 else (None, None)
    if below is None or below != 0:
        if below is not None and np.isinf(below) and top is not None and np.isinf(top):
            return Words("inf / inf", "An infinity is divided by an infinity.", "difference")
        return None
    if statistic == "variance":
        return Words("variance of 0", "A signal that does not vary is divided by its deviation, 0.", "variance")
    if statistic == "norm":
        return Words("norm of 0", "A vector is divided by its norm, 0.", "norm")
    if top == 0:
        return Words("0 / 0", "0 is divided by 0.", "division")
    return Words("division by 0", f"{_number(top)} is divided by 0.", "division")


def _logarithm(x: Any, names: Sequence[str]) -> Words:
    if x == 0:
        if "logsumexp" in names:
            return Words("logsumexp of a row of -inf", "Every entry is -inf: the log of a sum of nothing.", "softmax")
        return Words("log of 0", "log of 0 is -inf.", "log")
    return Words("log of a negative number", f"log of {_number(x)} is NaN.", "log")


def _root(x: Any, statistic: str) -> Words:
    if x == 0:
        if statistic == "variance":
            return Words("variance of 0", "A signal that does not vary is divided by its deviation, 0.", "variance")
        if statistic == "norm":
            return Words("norm of 0", "A vector is divided by its norm, 0.", "norm")
        return Words("1 / sqrt of 0", "The root is 0, and something is divided by it.", "sqrt")
    if statistic == "variance":
        return Words(
            "sqrt of a negative variance",
            f"Rounding has made the variance {_number(x)}: mean(x^2) - mean(x)^2 cancels.",
            "negative_variance",
        )
    return Words("sqrt of a negative number", f"sqrt of {_number(x)} is NaN.", "sqrt")


def _power(at: Sequence[Any], dtype: str, *, backward: bool = False) -> Words:
    base, exponent = at if len(at) == 2 else (None, None)
    if base is None or exponent is None:
        return Words("a power", "The power or its derivative is not finite there.", "power")
    said = f"{_number(base)} ** {_number(exponent)}"
    if base == 0:
        what = "derivative of" if backward else "value of"
        return Words("power of 0", f"The {what} {said} is not finite.", "power")
    if base < 0:
        return Words("power of a negative number", f"{said} has no real value, or no real derivative.", "power")
    return Words("overflow of a power", f"{said} is beyond the largest number of {dtype}.", "overflow")


def _number(x: Any) -> str:
    return "a number" if x is None else f"{x:.6g}"
