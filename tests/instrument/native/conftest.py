"""The native statistics for these tests: in a process of four devices they would stay in JAX."""

from __future__ import annotations

import jax
import pytest

from gradflow.instrument.native import build, calls, library
from gradflow.instrument.replacement import REPLACEMENTS, references_alone


@pytest.fixture(scope="session")
def handlers(tmp_path_factory):
    """Handlers that XLA knows: of the installed library, else of one that is compiled here."""
    if REPLACEMENTS:
        return
    require_compiler()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(library.VARIABLE, "require")
        path = build.compile_library(tmp_path_factory.mktemp("native") / build.LIBRARY.name)
        patch.setattr(library, "LIBRARY", path)
        assert library.load()


def require_compiler():
    """Skip a test where there is none; that sources do not compile is an error."""
    try:
        return build.find_compiler()
    except build.BuildError as error:
        pytest.skip(f"the native kernel cannot be compiled here: {error}")


@pytest.fixture
def native(handlers, monkeypatch):
    """Let the handlers reduce, as in a process with one CPU."""
    monkeypatch.setattr(calls, "_is_one_cpu", lambda: True)
    for name in ("forward", "backward", "reduce_input_cotangent", "sums_of_squares", "hold_until_reduced"):
        monkeypatch.setitem(REPLACEMENTS, name, getattr(calls, name))


@pytest.fixture
def both(native):
    """A function that runs another one with the reference, and natively: (want, got)."""

    def run(function, *args):
        with jax.debug_nans(False):
            with references_alone():
                want = jax.jit(lambda *args: function(*args))(*args)
            return want, jax.jit(lambda *args: function(*args))(*args)

    return run
