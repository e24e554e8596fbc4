"""The other distribution on the package index that installs a package of the same name."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable

_METADATA = (".dist-info", ".egg-info")


def other_distribution(directories: Iterable[str]) -> str | None:
    """Return where the metadata of a distribution called `gradflow` lies; ours is called `gradflow-jax`.

    Lists directories, and leaves `importlib.metadata` alone: importing that takes longer than `import gradflow`.

    Args:
        directories: where Python looks for packages, as in `sys.path`.
    """
    for directory in directories:
        try:
            names = os.listdir(directory or ".")
        except OSError:  # a zip file, or a directory that is not there
            continue
        for name in names:
            lowered = name.lower()
            if lowered.startswith(("gradflow-", "gradflow.")) and lowered.endswith(_METADATA):
                return os.path.join(directory, name)
    return None


def warn_of_other_distribution() -> None:
    """Warn if a distribution called `gradflow` is installed beside this one: each overwrites files of the other."""
    found = other_distribution(sys.path)
    if found is not None:
        warnings.warn(
            f"expected `import gradflow` to be the distribution gradflow-jax alone, got a distribution gradflow as "
            f"well ({found}). Both install a package called gradflow, so that files of one replace files of the other. "
            "Likely cause: pip install gradflow, where gradflow-jax was meant. "
            "Fix: pip uninstall gradflow gradflow-jax, then pip install gradflow-jax",
            UserWarning,
            stacklevel=3,
        )
