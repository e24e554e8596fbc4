"""What to tell the user of an equation that theory has no description for: operation, reason, place."""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from pathlib import Path

from jax.extend import core

from gradflow.instrument import jaxprs
from gradflow.primitives import CONTRACTIONS
from gradflow.theory.tracing.abstract_values import Data, Parts, Piece, Series, Signal, Value

__all__ = ["place_of", "reason_outside"]

_LIBRARIES = tuple(sysconfig.get_paths()[key] for key in ("purelib", "platlib", "stdlib", "platstdlib"))
_PACKAGE = str(Path(__file__).parents[2])


def reason_outside(eqn: core.JaxprEqn, values: Sequence[Value]) -> str:
    """Say what of an equation theory has no description for, and where it stands.

    Args:
        eqn: the equation.
        values: its operands.
    """
    return _reason(eqn.primitive.name, values) + place_of(eqn)


def _reason(primitive: str, values: Sequence[Value]) -> str:
    signals = sum(isinstance(v, (Parts, Signal, Series)) for v in values)
    if any(isinstance(v, Piece) for v in values):
        primitive = "slice"
    if primitive in (*CONTRACTIONS, "mul", "div") and signals > 1:
        return "a product of two signals that share a layer, as in attention"
    if primitive.startswith(("reduce_", "arg")):
        return f"{primitive} over units, examples or positions, as in softmax or pooling"
    if primitive in ("slice", "split", "dynamic_slice", "gather", "concatenate"):
        return f"{primitive}: parts of a signal used apart, or put together"
    if primitive in CONTRACTIONS or primitive.startswith("scatter"):
        return f"{primitive} of a signal without a weight, such as a sum over neighbours in a graph"
    if any(isinstance(v, Data) for v in values) and signals:
        return f"{primitive} of signal and data, which meet otherwise than in a layer"
    return f"{primitive} of a signal, for which no rule is known (gf.register_rule adds one)"


def place_of(eqn: core.JaxprEqn) -> str:
    """Return where an equation was written: line of the user's code, else its named scope, "" where neither is known.

    Args:
        eqn: the equation.
    """
    for file, line in jaxprs.source_lines(eqn):
        library = file.startswith((*_LIBRARIES, _PACKAGE, "<")) or "site-packages" in file
        if not library:
            return f", at {Path(file).name}:{line}"
    scope = jaxprs.source_scope(eqn)
    return f", in {scope}" if scope else ""
