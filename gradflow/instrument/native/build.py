"""Compile the kernels with the C++ compiler of the machine: what `hatch_build.py` calls at installation.

It also runs by itself, `python gradflow/instrument/native/build.py`, and imports nothing of the package.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).parent / "source"
# A name that ends in .so is a module of Python's to whoever lists a package's modules, and cannot be imported.
LIBRARY = Path(__file__).parent / "libgradflow.so.1"
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi"),
    *("-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics"),
)
# Name, bytes of a register, flags; the library chooses when it is loaded. A prototype gained nothing from AVX-512.
INSTRUCTION_SETS = (("baseline", 16, ()), ("avx2", 32, ("-mavx2", "-mfma", "-mf16c")))


class BuildError(Exception):
    """The kernels cannot be compiled here; the message says why."""


def hash_sources() -> str:
    """Return what tells the sources of one library from those of another."""
    digest = hashlib.sha256()
    for file in sorted(SOURCE.rglob("*")):
        if file.suffix in (".cc", ".h"):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def find_compiler() -> str:
    """Return the C++ compiler: what `CXX` names, else the first of c++, g++ and clang++.

    Raises:
        BuildError: there is none, or the system is not one on which the kernels were tested.
    """
    machine = platform.machine().lower()
    if sys.platform != "linux" or machine not in ("x86_64", "amd64"):
        raise BuildError(f"the kernels were tested on x86-64 Linux alone, not on {machine} under {sys.platform}")
    wanted = os.environ.get("CXX")
    for name in (wanted,) if wanted else ("c++", "g++", "clang++"):
        if found := shutil.which(name):
            return found
    raise BuildError(f"no C++ compiler: {wanted or 'c++, g++, clang++'} not found in PATH")


def compile_library(target: Path = LIBRARY, flags: tuple[str, ...] = ()) -> Path:
    """Compile and link the library.

    Args:
        target: the file to write; another process never sees half of it.
        flags: more flags for compiler and linker.

    Returns:
        `target`.

    Raises:
        BuildError: there is no compiler, or it fails.
    """
    compiler = find_compiler()
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as folder:
        objects = [Path(folder) / f"{name}.o" for name in ("handlers", *(name for name, _, _ in INSTRUCTION_SETS))]
        hashed = f'-DGRADFLOW_SOURCES="{hash_sources()}"'
        _run(compiler, *FLAGS, *flags, hashed, "-c", SOURCE / "handlers.cc", "-o", objects[0])
        for (name, size, arch), made in zip(INSTRUCTION_SETS, objects[1:], strict=True):
            defined = (f"-DGRADFLOW_ISA={name}", f"-DBYTES={size}")
            _run(compiler, *FLAGS, *flags, *arch, *defined, "-c", SOURCE / "kernels.cc", "-o", made)
        linked = Path(folder) / target.name
        _run(compiler, "-shared", *flags, *objects, "-o", linked)
        linked.replace(target)
    return target


def _run(*command: str | Path) -> None:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{command[0]} failed:\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    print(compile_library())
