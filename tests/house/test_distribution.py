"""What is installed: a wheel in an environment with nothing else, each extra, and the distribution of the same name."""

from __future__ import annotations

import email
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
import warnings
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gradflow._distribution import other_distribution, warn_of_other_distribution

ROOT = Path(__file__).parents[2]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")

# What must work with the requirements of an extra and no others; "" for none.
WITHOUT_EXTRA = """
import importlib.util
import sys
import gradflow as gf
import jax
import jax.numpy as jnp

for absent in ("matplotlib", "tyro", "tensorflow_datasets", "pytest"):
    assert importlib.util.find_spec(absent) is None, absent
model = gf.models.MLP(depth=2, width=4, outputs=3)
data = gf.data.load()
images, labels = data.normalize(data.train.images[:4]), data.train.labels[:4]
params = model.init(jax.random.key(0), images)
_, _, flow = gf.value_grad_and_flow(lambda p: jnp.mean(model.apply(p, images) ** 2))(params)
assert flow.layers == ("Dense_0", "Dense_1", "Dense_2"), flow.layers
print(flow)
"""
EXTRAS = {
    "": WITHOUT_EXTRA,
    "data": "import gradflow.data.__main__, tensorflow_datasets, grain, array_record, PIL, rich, tyro",
    "experiments": """
import gradflow as gf
import jax.numpy as jnp
import matplotlib

matplotlib.use("agg")
_, _, flow = gf.value_grad_and_flow(lambda p: jnp.mean((jnp.ones((2, 3)) @ p["w"]) ** 2))({"w": jnp.ones((3, 4))})
gf.plots.flow(flow).savefig("flow.png")
""",
    "live": "import gradflow as gf, matplotlib, rich; gf.live.TensorBoard('runs').close()",
    "docs": "import furo, matplotlib, myst_parser, sphinx",
    "test": """
import importlib, pkgutil
import beartype, equinox, haiku, hypothesis, keras, orbax.checkpoint, pytest, scipy
import gradflow

for module in pkgutil.walk_packages(gradflow.__path__, "gradflow."):
    importlib.import_module(module.name)
""",
}


def asked_for(wheel: Path, extra: str) -> set[str]:
    """Names of what a wheel requires with an extra, and of what that requires, as the present environment has it."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        own = email.message_from_bytes(archive.read(name)).get_all("Requires-Dist") or []
    seen: set[tuple[str, str]] = set()
    waiting = [("gradflow-jax", extra)]
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        for line in own if name == "gradflow-jax" else importlib.metadata.requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": wanted}):
                inner = canonicalize_name(requirement.name)
                waiting += [(inner, further) for further in ("", *requirement.extras)]
    return {name for name, _ in seen} - {"gradflow-jax"}


def link(names: set[str], folder: Path) -> None:
    """Show in a folder the files of some installed distributions, and of no others."""
    folder.mkdir()
    for name in names:
        distribution = importlib.metadata.distribution(name)
        pieces = {file.parts[:1] for file in distribution.files or ()} - {("..",), ("__pycache__",)}
        for (piece,) in pieces:
            if not (folder / piece).exists():  # a folder that several distributions share is linked as a whole
                (folder / piece).symlink_to(str(distribution.locate_file(piece)))


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYTEST", "COV"))}
    return subprocess.run(
        [str(piece) for piece in command],
        cwd=cwd,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that is built from the tree; pip fetches what it is built with."""
    folder = tmp_path_factory.mktemp("wheel")
    done = run(*PIP, "wheel", "-q", "--no-deps", "-w", folder, ROOT, cwd=folder)
    said = done.stdout + done.stderr
    if done.returncode and ("NewConnectionError" in said or "No matching distribution found for hatchling" in said):
        pytest.skip("no package index can be reached, and the wheel is built with hatchling from there")
    assert done.returncode == 0, said
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """Python of an environment that holds the wheel and nothing else, not even its requirements."""
    folder = tmp_path_factory.mktemp("environment")
    made = run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    assert made.returncode == 0, made.stderr
    python = folder / "bin" / "python"
    done = run(*PIP, "--python", python, "install", "-q", "--no-deps", "--no-index", wheel, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return python


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = run("git", "ls-files", "gradflow", cwd=ROOT)
    assert {name.split("/")[0] for name in names} == {"gradflow", f"{wheel.name.split('-py3')[0]}.dist-info"}
    if tracked.returncode == 0:
        built = {"gradflow/instrument/native/libgradflow.so.1"} if "none-any" not in wheel.name else set()
        assert {name for name in names if name.startswith("gradflow/")} == set(tracked.stdout.split()) | built


@pytest.mark.slow
def test_the_wheel_is_of_the_platform_where_the_kernel_is_compiled_and_plain_elsewhere(wheel, tmp_path):
    """One for all Pythons; without a compiler a plain one and a line, or an error if the kernel is required."""
    compiler = any(shutil.which(name) for name in ("c++", "g++", "clang++"))
    assert wheel.name.endswith("-py3-none-any.whl") != compiler
    for wanted in ("1", "require"):
        command = (*PIP, "wheel", "-v", "--no-deps", "-w", tmp_path / wanted, ROOT)
        done = run(*command, cwd=tmp_path, CXX="absent", GRADFLOW_NATIVE=wanted)
        assert "absent not found in PATH" in done.stdout + done.stderr
        assert (done.returncode != 0) == (wanted == "require")
        assert len(list((tmp_path / wanted).glob("*-py3-none-any.whl"))) == (wanted == "1")


@pytest.mark.slow
@pytest.mark.parametrize("extra", EXTRAS, ids=lambda extra: extra or "no extra")
def test_an_extra_brings_what_it_is_for(wheel, environment, tmp_path, extra):
    """With the versions of the present environment, but only those that the wheel's own metadata ask for."""
    link(asked_for(wheel, extra), tmp_path / "packages")
    done = run(
        environment, "-W", "error::UserWarning:gradflow", "-c", EXTRAS[extra],
        cwd=tmp_path, PYTHONPATH=str(tmp_path / "packages"), KERAS_BACKEND="jax",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_extra_is_tried():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(project["optional-dependencies"]) | {""} == set(EXTRAS)


@pytest.mark.parametrize("name", ["gradflow-0.3.dist-info", "Gradflow-2.0.egg-info", "gradflow.egg-info"])
def test_a_distribution_called_gradflow_is_named(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    assert other_distribution([str(tmp_path / "absent"), str(tmp_path)]) == str(tmp_path / name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.warns(UserWarning, match=r"(?s)gradflow-jax alone, got .*Fix: pip uninstall gradflow gradflow-jax"):
        warn_of_other_distribution()


def test_our_own_metadata_and_others_are_not_taken_for_it(tmp_path, monkeypatch):
    for name in ("gradflow_jax-0.1.0.dist-info", "gradflow", "gradflower-1.0.dist-info", "gradflow-notes.txt"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_other_distribution()


def test_the_import_itself_says_so(tmp_path):
    (tmp_path / "gradflow-0.3.dist-info").mkdir()
    done = run(sys.executable, "-c", "import gradflow", cwd=ROOT, PYTHONPATH=str(tmp_path))
    assert "Fix: pip uninstall gradflow gradflow-jax" in done.stderr
    assert done.returncode == 0
