"""The results folder of a run: written whole or not at all, the same bytes for the same numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.framework.claims import Claim, headline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLAIMS_FILE, CONFIG_FILE = "claims.json", "config.json"
ROOT = Path(__file__).parents[2]
PACKAGES = ("gradflow-jax", "jax", "jaxlib", "flax", "optax", "numpy", "matplotlib")


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside `folder` that takes its place at the end, all at once.

    An earlier result stays untouched unless the block finishes; whatever ends the block early (an error,
    Ctrl-C) removes the temporary folder.

    Args:
        folder: the folder to be written.

    Yields:
        The temporary folder to write into.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    earlier = partial.with_name(partial.name.replace("partial", "earlier"))
    try:
        yield partial
        partial.chmod(0o755)
        if folder.exists():
            folder.rename(earlier)
        partial.rename(folder)
    except BaseException:
        if earlier.exists() and not folder.exists():
            earlier.rename(folder)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(earlier, ignore_errors=True)


def flat(results: Any, path: str = "") -> dict[str, np.ndarray]:
    """Return the arrays of results by their paths, such as "training.loss".

    Args:
        results: a dataclass or a mapping, of arrays, numbers, words, or again such; None stands for what was not run.
        path: of the results themselves.
    """
    if results is None:
        return {}
    if isinstance(results, Mapping):
        parts = {str(name): value for name, value in results.items()}
    elif dataclasses.is_dataclass(results):
        parts = {field.name: getattr(results, field.name) for field in dataclasses.fields(results)}
    else:
        return {path: np.asarray(results)}
    return {
        inner: array for name, part in parts.items() for inner, array in flat(part, f"{path}.{name}".strip(".")).items()
    }


def write_data(file: Path, results: Any) -> None:
    """Write results as a compressed npz whose bytes depend on nothing but the arrays.

    NumPy stamps every member with 1980-01-01; members are sorted by name, and Python objects are refused.

    Args:
        file: the file to write.
        results: as for `flat`, whose paths the arrays get.

    Raises:
        ValueError: if an array holds Python objects.
    """
    arrays = dict(sorted(flat(results).items()))
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise ValueError(f"expected an array of numbers or of strings as result {name!r}, got Python objects")
    with file.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)


def write_figures(folder: Path, figures: Mapping[str, Figure]) -> None:
    """Write each figure as figure_NAME.png and figure_NAME.pdf, with its title and no dates or versions in them.

    Args:
        folder: where to.
        figures: name to figure.
    """
    for name, figure in figures.items():
        title = " ".join(figure.get_suptitle().split()) or name
        figure.savefig(folder / f"figure_{name}.png", dpi=160, metadata={"Software": None, "Title": title})
        undated = {"Creator": None, "Producer": None, "CreationDate": None, "Title": title}
        figure.savefig(folder / f"figure_{name}.pdf", metadata=undated)


def write_claims(file: Path, claims: Sequence[Claim]) -> None:
    """Write the claims as a JSON list of records.

    Args:
        file: the file to write.
        claims: the claims.
    """
    _write_json(file, [claim.record() for claim in claims])


def read_claims(folder: Path) -> list[dict[str, Any]] | None:
    """Read the claims of a results folder.

    Args:
        folder: results/NAME/PRESET.

    Returns:
        Their records; None where there are none, or where an earlier version of the records stands there.

    Raises:
        ValueError: if the file is not JSON.
    """
    file = folder / CLAIMS_FILE
    if not file.exists():
        return None
    records: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return records if all({"id", "basis", "low", "high"} <= record.keys() for record in records) else None


def write_config(file: Path, settings: Mapping[str, Any]) -> None:
    """Write every setting of a run with the versions and the device that it ran on.

    Args:
        file: the file to write.
        settings: experiment, preset, configuration, seconds.
    """
    import jax

    devices = jax.devices()
    versions = {"python": platform.python_version()}
    versions |= {package: _version(package) for package in PACKAGES}
    device = {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }
    _write_json(file, {**settings, "source": source_digest(), "versions": versions, "device": device})


def _version(package: str) -> str:
    """Return an installed version; a checkout on the path, which nobody installed, has none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@functools.cache
def source_digest() -> str:
    """Return a digest of all code that a result depends on; it identifies a finished run.

    Returns:
        SHA-256 in hexadecimal over the paths and contents of gradflow's and the experiments' Python files.
    """
    digest = hashlib.sha256()
    for part in ("gradflow", "experiments"):
        for file in sorted((ROOT / part).rglob("*.py")):
            digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _write_json(file: Path, content: Any) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    file.write_text(text + "\n", encoding="utf-8")


def verdict(results: Path, preset: str = "*") -> str:
    """Say how the claims of an experiment stood in its latest run.

    Args:
        results: the experiment's folder, results/NAME.
        preset: of the run; by default the latest of any.

    Returns:
        For instance "12 hold: 2 paper, 10 theory (laptop)", or "not run".
    """
    folders = [file.parent for file in results.glob(f"{preset}/{CLAIMS_FILE}") if file.parent.name[0] != "."]
    latest = max(folders, key=lambda folder: (folder / CLAIMS_FILE).stat().st_mtime, default=None)
    records = None if latest is None else read_claims(latest)
    if latest is None or records is None:
        return "not run"
    return f"{headline(records)} ({latest.name})"
