"""The library: compiled, found, refused; sanitizers; the instrument's tests in a process in which it reduces."""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gradflow.instrument.native import build, library
from tests.instrument.native.conftest import require_compiler

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent


@pytest.fixture
def without(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "absent.so")


def test_without_a_library_the_reference_stays(without, monkeypatch):
    monkeypatch.delenv(library.VARIABLE, raising=False)
    assert not library.load()


def test_a_required_library_that_is_missing_is_an_error(without, monkeypatch):
    monkeypatch.setenv(library.VARIABLE, "require")
    with pytest.raises(
        library.NativeLibraryError, match=r"(?s)no absent.so in .*Fix: install again where a C\+\+ comp"
    ):
        library.load()


def test_what_the_variable_may_be(monkeypatch):
    monkeypatch.setenv(library.VARIABLE, "0")
    assert not library.load()
    monkeypatch.setenv(library.VARIABLE, "yes")
    with pytest.raises(ValueError, match="expected 0, 1 or require, got 'yes'"):
        library.load()


def test_a_file_that_is_no_library_is_not_used(monkeypatch, tmp_path):
    (tmp_path / "broken.so").write_bytes(b"no library")
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "broken.so")
    monkeypatch.delenv(library.VARIABLE, raising=False)
    assert not library.load()


def test_a_library_of_other_sources_is_refused(handlers, monkeypatch):
    monkeypatch.setattr(library, "hash_sources", lambda: "of other files")
    monkeypatch.setenv(library.VARIABLE, "require")
    with pytest.raises(library.NativeLibraryError, match=r"built from other sources|no libgradflow.so.1"):
        library.load()


def test_the_library_is_no_module_of_python():
    assert inspect.getmodulename(str(build.LIBRARY)) is None


@pytest.mark.parametrize("name", ["c++", "absent"])
def test_no_compiler(monkeypatch, tmp_path, name):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    if name == "absent":
        monkeypatch.setenv("CXX", name)
    with pytest.raises(build.BuildError, match=r"no C\+\+ compiler: .*not found in PATH"):
        build.compile_library(tmp_path / "made.so")


@pytest.mark.parametrize("flag", ["", "-fsanitize=address,undefined"])
@pytest.mark.slow
def test_every_kernel_against_long_double_and_under_sanitizers(tmp_path, flag):
    """Every instruction set of this machine, on arrays of exactly their size; the second time under ASan and UBSan."""
    compiler = require_compiler()
    flags = [*(f for f in build.FLAGS if "visibility" not in f), f"-I{build.SOURCE}"]
    flags += [flag, "-g", "-O1", "-fno-sanitize-recover=undefined"] if flag else []
    pieces = [("driver", HERE / "driver.cc", ())]
    for name, size, arch in build.INSTRUCTION_SETS:
        pieces.append((name, build.SOURCE / "kernels.cc", (*arch, f"-DGRADFLOW_ISA={name}", f"-DBYTES={size}")))
    for name, source, more in pieces:
        subprocess.run([compiler, *flags, *more, "-c", source, "-o", tmp_path / f"{name}.o"], check=True)
    program = tmp_path / "driver"
    linked = subprocess.run(
        [compiler, *flags, *(tmp_path / f"{name}.o" for name, _, _ in pieces), "-o", program],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if flag and "cannot find" in linked.stderr:
        pytest.skip("the compiler has no sanitizer libraries")
    assert linked.returncode == 0, linked.stderr
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "baseline: run" in done.stdout


def run_natively(folder, *command, **environment):
    """Run a program of the tree that has the library and one device."""
    env = os.environ | {"GRADFLOW_NATIVE": "require", "PYTHONPATH": str(folder), **environment}
    env["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"
    return subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def tree(tmp_path):
    """A copy of package and tests, with the library in its place."""
    for name in ("gradflow", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.so*"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    require_compiler()
    build.compile_library(tmp_path / build.LIBRARY.relative_to(ROOT))
    return tmp_path


OF_THE_INSTRUMENT = (
    "flow", "range", "structures", "transform", "frameworks", "oracles", "weights", "reached", "nonfinite",
)  # fmt: skip
NATIVE_FILES = (
    *(f"tests/instrument/test_{name}.py" for name in OF_THE_INSTRUMENT),
    "tests/diagnosis/test_ledger.py",
    "tests/diagnosis/test_places.py",
)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_tests_of_the_instrument_pass_natively(tree):
    done = run_natively(tree, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not shard", *NATIVE_FILES)
    assert done.returncode == 0, done.stdout[-5000:]


CACHED = """
import sys
import jax, jax.numpy as jnp
import gradflow as gf
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
step = jax.jit(gf.value_grad_and_flow(lambda w, x: jnp.mean((x @ w) ** 2)))
assert "gradflow_forward_1" in step.lower(jnp.ones((3, 2)), jnp.ones((4, 3))).as_text()
_, _, flow = step(jnp.ones((3, 2)), jnp.ones((4, 3)))
print(float(flow[flow.layers[0]].output_rms))
"""


@pytest.mark.slow
def test_a_program_from_the_persistent_cache_finds_the_handlers(tree, tmp_path):
    cache = tmp_path / "cache"
    for _ in range(2):
        done = run_natively(tree, "-c", CACHED, str(cache))
        assert done.stdout.split() == ["3.0"], done.stderr
    assert any(cache.iterdir())
