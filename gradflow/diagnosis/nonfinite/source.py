"""The user's line and the names under which an operation was traced."""

from __future__ import annotations

import functools
import re
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradflow.instrument import jaxprs

__all__ = ["calls", "is_derivative", "line_of", "rule_name", "scope_of"]

# Packages whose lines say nothing to a user as long as a line of the user's own is there.
_FRAMEWORKS = (
    "gradflow", "jax", "jaxlib", "flax", "equinox", "haiku", "keras", "optax", "chex", "jaxtyping", "beartype", "numpy",
    "einops", "distrax", "penzai", "jmp", "optimistix", "lineax", "diffrax", "orbax", "_pytest", "pluggy",
)  # fmt: skip
_TRACING = "trace_to_jaxpr"  # the function of JAX in which the tracing of an inner program begins
_WRAPPED = re.compile(r"(?:vmap|jvp|transpose|jit|pjit|remat|checkpoint)\(|\)")
_NO_LAYERS = frozenset(
    {"", "while", "body", "cond", "scan", "checkpoint", "remat", "rematted_computation", "closed_call", "jit", "pjit"}
)


@functools.lru_cache(maxsize=1)
def _standard_library() -> str:
    return str(Path(sysconfig.get_paths()["stdlib"]))


def _is_users(file: str) -> bool:
    """Tell a file of the user's from one of JAX, a framework or Python."""
    if file.startswith("<") and not file.startswith(("<block", "<ipython", "<stdin", "<doctest")):
        return False
    if file.startswith(_standard_library()) and "site-packages" not in file and "dist-packages" not in file:
        return False
    folders = (getattr(sys.modules.get(name), "__file__", None) for name in _FRAMEWORKS)
    return not any(folder and file.startswith(str(Path(folder).parent) + "/") for folder in folders)


def _is_jaxs(file: str) -> bool:
    folders = (getattr(sys.modules.get(name), "__file__", None) for name in ("jax", "jaxlib", "gradflow"))
    return any(folder and file.startswith(str(Path(folder).parent) + "/") for folder in folders) or file.startswith("<")


def _own_frames(eqn: Any) -> list[tuple[str, int, str]]:
    """Return the calls inside the program that an equation stands in; those around it may be of another call."""
    frames = jaxprs.source_frames(eqn)
    end = next((k for k, frame in enumerate(frames) if frame[2].rpartition(".")[2].startswith(_TRACING)), len(frames))
    return frames[:end]


def line_of(path: Sequence[Any]) -> str:
    """Return the innermost line of the user's under which an operation was traced, as "file:line".

    Where all lines are a framework's, the innermost of these; never one of JAX.

    Args:
        path: equations from the outermost down to the operation.
    """
    for accepted in (_is_users, lambda file: not _is_jaxs(file)):
        for eqn in reversed(path):
            for file, line, _ in _own_frames(eqn):
                if accepted(file):
                    return f"{file}:{line}"
    return ""


def calls(path: Sequence[Any]) -> list[str]:
    """Return the names of library functions between the user's line and an operation, the innermost first.

    Args:
        path: equations from the outermost down to the operation.
    """
    names: list[str] = []
    for eqn in reversed(path):
        if name := str(eqn.params.get("name", "")):
            names.append(name)
        for file, _, function in _own_frames(eqn):
            if _is_users(file):
                return names
            names.append(function.rpartition(".")[2])
    return names


def scope_of(path: Sequence[Any]) -> str:
    """Return the named scopes around an operation, joined by "/".

    Args:
        path: equations from the outermost down to the operation.
    """
    pieces = [piece for eqn in path for piece in _WRAPPED.sub("", jaxprs.source_scope(eqn)).split("/")]
    return "/".join(piece for piece in pieces if piece not in _NO_LAYERS and not piece.startswith("branch_"))


def is_derivative(eqn: Any) -> bool:
    """Tell whether an operation belongs to a derivative that the program takes.

    Args:
        eqn: the operation.
    """
    return "jvp(" in jaxprs.source_scope(eqn)


def rule_name(eqn: Any) -> str:
    """Return what a custom rule is called, with the function that it belongs to.

    Args:
        eqn: of a function with a custom derivative.
    """
    primal, _ = jaxprs.opened(jaxprs.inner_jaxpr(eqn))
    rule = next((eqn.params[key] for key in ("bwd", "jvp_jaxpr_fun") if key in eqn.params), None)
    own, _ = _defined(primal)
    name, place = _defined(rule)
    kind = eqn.primitive.name.partition("_call")[0]
    return f"{kind} rule {name} of {own}" + (f" ({place})" if place else "")


def _defined(function: Any) -> tuple[str, str]:
    """Return name and "file:line" of a traced function, as its debugging information prints them."""
    found = re.search(r"='(\S+) at ([^']*)'", str(getattr(function, "debug_info", "")))
    return (found.group(1), found.group(2)) if found else ("a function", "")
