"""Find the compiled library, check that it is built from these sources, and make its handlers known to XLA."""

from __future__ import annotations

import ctypes
import os

import jax

from gradflow.instrument.native.build import LIBRARY, SOURCE, hash_sources

VARIABLE = "GRADFLOW_NATIVE"
# The number changes with what a handler takes or gives: programs in XLA's persistent cache call it by name.
TARGETS = {name: f"gradflow_{name}_1" for name in ("forward", "backward", "squares")}


class NativeLibraryError(ImportError):
    """The native library was required, and cannot be used."""


def load() -> bool:
    """Make the handlers known to XLA, if there is a library that can be used.

    Returns:
        Whether they are known now.

    Raises:
        NativeLibraryError: `GRADFLOW_NATIVE=require`, and there is none.
        ValueError: another value of the variable than 0, 1 and require.
    """
    wanted = os.environ.get(VARIABLE, "1")
    if wanted not in ("0", "1", "require"):
        raise ValueError(f"{VARIABLE}: expected 0, 1 or require, got {wanted!r}")
    if wanted == "0":
        return False
    try:
        _register(_open())
    except Exception as error:
        if wanted == "require":
            raise NativeLibraryError(
                f"{VARIABLE}=require, but the native statistics cannot be used: {error}. "
                "Fix: install again where a C++ compiler is in PATH, or unset the variable"
            ) from error
        return False
    return True


def _open() -> ctypes.CDLL:
    if not LIBRARY.is_file():
        raise FileNotFoundError(f"no {LIBRARY.name} in {LIBRARY.parent}")
    library = ctypes.CDLL(str(LIBRARY))
    library.gradflow_sources.restype = ctypes.c_char_p
    if SOURCE.is_dir() and library.gradflow_sources().decode() != hash_sources():
        raise ValueError(f"{LIBRARY.name} is built from other sources than those in {SOURCE}")
    return library


def _register(library: ctypes.CDLL) -> None:
    for name, target in TARGETS.items():
        handler = jax.ffi.pycapsule(getattr(library, f"gradflow_{name}"))
        jax.ffi.register_ffi_target(target, handler, platform="cpu")
