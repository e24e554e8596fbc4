"""Public names of a package that are imported on first use, so that importing the package stays quick."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def attach(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and the `__dir__` of a package, as module functions (PEP 562).

    Args:
        package: its dotted name.
        homes: for each public name the module that defines it, in full; "" for a submodule of the package.

    Examples:
        >>> get, names = attach("gradflow", {"activations": "", "Activation": "gradflow.activations"})
        >>> get("Activation").__name__, names()
        ('Activation', ['Activation', 'activations'])
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {', '.join(homes)}")
        if not homes[name]:
            return importlib.import_module(f"{package}.{name}")
        return getattr(importlib.import_module(homes[name]), name)

    return get, lambda: sorted(homes)
