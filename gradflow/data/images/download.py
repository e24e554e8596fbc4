"""Prepare a data set from the internet through TFDS, or say what to do without internet."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from gradflow.data.images.catalogue import CATALOGUE, DataSetFacts
from gradflow.data.images.prepared import Progress, builder, import_raw, is_prepared, no_progress, tfds

__all__ = ["TIMEOUT", "NotPreparedError", "check_reachable", "how_to_obtain", "prepare", "prepared_builder"]

TIMEOUT = 5.0  # seconds to wait for a server; TFDS itself tries again for minutes


class NotPreparedError(FileNotFoundError):
    """A data set is not on this machine and cannot be downloaded; the message says how to get it."""


def prepared_builder(name: str, folder: Path | None = None, progress: Progress = no_progress) -> Any:
    """Return the builder of a data set that is there, after having prepared it where needed.

    Args:
        name: in TFDS.
        folder: where data sets are kept; None: TFDS's own.
        progress: wraps what is worked through.

    Raises:
        ValueError: for a name that TFDS does not know.
        NotPreparedError: if it is not there and cannot be downloaded, with what to do instead.
    """
    built = builder(name, folder)
    if is_prepared(built):
        return built
    prepare(built, folder, progress)
    return builder(name, folder)


def prepare(built: Any, folder: Path | None = None, progress: Progress = no_progress) -> None:
    """Download a data set and prepare it as array_record.

    For the sets of the catalogue the raw files come through TFDS's download manager, which checks their SHA-256, and
    are imported by gradflow, so TensorFlow is not needed. For any other set TFDS's own builder does it all; most of
    these builders need TensorFlow for that.

    Args:
        built: from `prepared.builder`.
        folder: where data sets are kept; None: TFDS's own.
        progress: wraps what is worked through.

    Raises:
        NotPreparedError: if that fails, with what to do instead.
    """
    facts = CATALOGUE.get(built.name)
    urls = facts.urls if facts else tuple(built.url_infos)
    try:
        if urls:
            check_reachable(urls[0])
        if facts:
            _download_raw(facts, built, folder, progress)
        else:
            built.download_and_prepare(file_format="array_record")
    except (OSError, ImportError) as error:
        raise NotPreparedError(how_to_obtain(built, facts, error)) from error


def check_reachable(url: str) -> None:
    """Find out quickly whether a server can be reached; with a proxy set, leave that to the download.

    Args:
        url: any address on the server.

    Raises:
        OSError: if it cannot be reached.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or parts.scheme in urllib.request.getproxies():
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=TIMEOUT).close()
    except OSError as error:
        raise OSError(f"{parts.hostname} cannot be reached: {error}") from error


def _download_raw(facts: DataSetFacts, built: Any, folder: Path | None, progress: Progress) -> None:
    """Fetch the published files and import them, as if by hand."""
    with tempfile.TemporaryDirectory() as room:
        manager = tfds().download.DownloadManager(
            download_dir=Path(room) / "downloads", url_infos=built.url_infos, dataset_name=facts.name
        )
        raw = Path(room) / "raw"
        raw.mkdir()
        for url, path in zip(facts.urls, manager.download(list(facts.urls)), strict=True):
            shutil.move(os.fspath(path), raw / url.rsplit("/", 1)[-1])
        import_raw(facts, raw, folder, progress)


def how_to_obtain(built: Any, facts: DataSetFacts | None, error: Exception) -> str:
    """Say where a data set was looked for, why it could not be fetched, and what to do.

    Args:
        built: from `prepared.builder`.
        facts: what is known of the data set, if anything.
        error: what went wrong.
    """
    name = built.info.full_name.removesuffix(f"/{built.version}")
    call = f"python -c 'import gradflow as gf; gf.data.load(\"{name}\")'"
    second = "where TensorFlow is what is missing, `pip install tensorflow` for the preparation (reading does without)"
    if facts:
        command = f"python -m gradflow.data import {facts.name} --from DIR"
        second = f"fetch the raw files from {facts.home} in any way and run `{command}`"
    return (
        f"{name} is not at {built.data_path} and could not be downloaded ({error}). Fix, one of two: (1) on a machine "
        f"with internet run `{call}` and copy the folder {built.info.full_name} that it makes in ~/tensorflow_datasets "
        f"to {built.data_path}; (2) {second}"
    )
