"""Families of JAX primitives, by name, that every interpreter of a traced program tells apart.

The instrument follows weights through them, theory follows random fields. A name that the installed JAX does not have
is harmless: the families cover several releases.
"""

from __future__ import annotations

__all__ = [
    "CONTRACTIONS",
    "ELEMENTWISE",
    "IDENTITIES",
    "RESHAPINGS",
]

# The output holds the values of the input, entry by entry: copies, casts, and statements about layout or devices.
IDENTITIES = frozenset(
    {
        "convert_element_type", "copy", "copy_p", "device_put", "layout_constraint", "mesh_cast", "name",
        "optimization_barrier", "pcast", "pvary", "reduce_precision", "reshard", "sharding_constraint",
    }
)  # fmt: skip

# The same entries under another shape, none lost and none repeated.
RESHAPINGS = frozenset({"expand_dims", "reshape", "squeeze", "transpose"})

# Functions of one entry, or of entries at the same place; scalars broadcast.
ELEMENTWISE = frozenset(
    {
        "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh", "bessel_i0e",
        "bessel_i1e", "cbrt", "ceil", "clamp", "cos", "cosh", "digamma", "div", "eq", "erf", "erf_inv", "erfc", "exp",
        "exp2", "expm1", "floor", "ge", "gt", "igamma", "igammac", "integer_pow", "is_finite", "le", "lgamma", "log",
        "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "nextafter", "not", "or", "pow", "rem", "round",
        "rsqrt", "select_n", "sign", "sin", "sinh", "sqrt", "square", "sub", "tan", "tanh", "xor",
    }
)  # fmt: skip

# Sums of products, in which one operand may be a weight.
CONTRACTIONS = frozenset({"conv_general_dilated", "dot_general", "ragged_dot", "ragged_dot_general"})
