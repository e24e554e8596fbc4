"""Checkpoints by Orbax: what a run needs to continue, written atomically in the background, and checked on reading."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import warnings
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.training.errors import CheckpointError
from gradflow.training.step import TrainState

__all__ = ["Checkpoints", "Store", "open_store", "pack", "unpack"]

# What readers of JSON, archives and arrays raise for content that is not theirs.
_DECODING_ERRORS = (ValueError, KeyError, TypeError, EOFError, zlib.error)
ARRAYS, NOTES = "arrays", "notes"  # the two items of a checkpoint: arrays by path, and JSON


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Where checkpoints go, and how often.

    A checkpoint holds parameters, other variables, the optimizer's state, step and random key, the position in the data
    and all metrics so far. It is copied to the host at once and written in the background; only when it is complete
    does it get its name, so that a process that dies leaves the ones before. The last step is always saved.

    Attributes:
        folder: theirs alone.
        every_steps: steps from one to the next; None: not by steps.
        every_minutes: minutes from one to the next; None: not by time. The next dispatch that ends saves it.
        keep: how many of the newest are kept; with 2 or more, a corrupt newest one costs only time.
        resume: continue from the newest good one, if there is one; False refuses a folder that has some.
    """

    folder: str | Path
    every_steps: int | None = 1000
    every_minutes: float | None = None
    keep: int = 3
    resume: bool = False

    def __post_init__(self) -> None:
        for name in ("every_steps", "every_minutes", "keep"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"Checkpoints({name}=...): expected more than 0, got {value}")


class Store:
    """The checkpoints in a folder; `open_store` makes it."""

    def __init__(self, folder: Path, manager: Any) -> None:
        self._folder, self._manager = folder, manager

    @property
    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        self._manager.reload()
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, notes: dict[str, Any]) -> None:
        """Copy a state to the host and begin to write it, once the one before is written.

        Args:
            state: of any placement; with several processes, the same on all.
            notes: JSON-ready, what else is to be known.

        Raises:
            CheckpointError: if this or the one before cannot be written.
        """
        import orbax.checkpoint as ocp

        step = int(state.step)
        arrays = _to_host(state)
        table = {name: [list(a.shape), a.dtype.name, zlib.crc32(a.tobytes())] for name, a in arrays.items()}
        items = {
            # Arrays without entries cannot be written; `_from_host` knows them from the state at the start.
            ARRAYS: ocp.args.PyTreeSave({name: a for name, a in arrays.items() if a.size}),
            NOTES: ocp.args.JsonSave(_sealed({"arrays": table, **notes})),
        }
        try:
            if step not in self._manager.all_steps():
                self._manager.save(step, args=ocp.args.Composite(**items))
        except Exception as error:
            raise self._unwritable(step, error) from error

    def wait(self) -> None:
        """Wait until everything is written.

        Raises:
            CheckpointError: if it cannot be.
        """
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._unwritable(None, error) from error

    def close(self) -> None:
        """Close the folder, and do not report what could not be written."""
        import contextlib

        with contextlib.suppress(Exception):
            self._manager.close()

    def restore(self, state: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """Read the newest good checkpoint; None if there is none at all.

        A newer one that is corrupt is moved aside, to `corrupt-STEP`, with a warning.

        Args:
            state: at the start of the run: structure, shapes, types and placement.

        Raises:
            CheckpointError: if all are corrupt, if one cannot be read from disk (permission, a failing device), or if
                the newest good one is of another model or optimizer.
        """
        steps = self.steps
        damaged: list[int] = []
        for step in reversed(steps):
            try:
                arrays, notes = self._read(step)
            except (*_DECODING_ERRORS, OSError) as error:
                _check_readable(self._folder / str(step))
                reason = str(error).strip().splitlines() or [type(error).__name__]
                warnings.warn(f"checkpoint of step {step} in {self._folder} is corrupt ({reason[0]})", stacklevel=3)
                damaged.append(step)
                continue
            restored = _from_host(arrays, state, f"the checkpoint of step {step} in {self._folder}")
            self._move_aside(damaged)
            return restored, notes
        if steps:
            raise CheckpointError(
                f"all checkpoints in {self._folder} are corrupt: steps {', '.join(map(str, steps))}. They are left as "
                "they are. Fix: begin anew in another folder"
            )
        return None

    def _read(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        import orbax.checkpoint as ocp

        notes = _opened(self._manager.restore(step, args=ocp.args.Composite(**{NOTES: ocp.args.JsonRestore()}))[NOTES])
        table = notes.pop("arrays")
        empty = {name: np.zeros(shape, jnp.dtype(dtype)) for name, (shape, dtype, _) in table.items()}
        written = {name: a for name, a in empty.items() if a.size}
        how = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in written}
        args = ocp.args.Composite(**{ARRAYS: ocp.args.PyTreeRestore(item=written, restore_args=how)})
        arrays = {**empty, **self._manager.restore(step, args=args)[ARRAYS]}
        for name, (_, _, checksum) in table.items():
            if zlib.crc32(np.ascontiguousarray(arrays[name]).tobytes()) != checksum:
                raise ValueError(f"checksum of {name} differs")
        return arrays, notes

    def _move_aside(self, steps: list[int]) -> None:
        if not steps:
            return
        if jax.process_index() == 0:
            for step in steps:
                (self._folder / str(step)).rename(_free_name(self._folder / f"corrupt-{step}"))
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices("gradflow: corrupt checkpoints moved aside")
        self._manager.reload()

    def _unwritable(self, step: int | None, error: Exception) -> CheckpointError:
        try:
            good = ", ".join(map(str, self.steps)) or "none"
        except OSError:
            good = "unknown"
        which = "a checkpoint" if step is None else f"the checkpoint of step {step}, or the one before,"
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return CheckpointError(
            f"{which} could not be written to {self._folder}: {reason[0]}. Complete checkpoints there: steps {good}; "
            "they are intact. Likely cause: a full disk or a quota. Fix: make room and continue with resume=True"
        )


def open_store(checkpoints: Checkpoints) -> Store:
    """Make or open the folder, after trying to write into it.

    Args:
        checkpoints: what was asked for.

    Raises:
        CheckpointError: if it cannot be written to, or has checkpoints that were not asked for.
    """
    import orbax.checkpoint as ocp

    folder = Path(checkpoints.folder).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{jax.process_index()}"
        probe.write_bytes(b"gradflow")
        probe.unlink()
    except OSError as error:
        raise CheckpointError(
            f"cannot write checkpoints to {folder}: {error.strerror or error}. Likely cause: no permission, a full "
            "disk, or a file where a folder is expected. Fix: another folder, or room on this one; nothing was changed"
        ) from error
    options = ocp.CheckpointManagerOptions(max_to_keep=checkpoints.keep, cleanup_tmp_directories=True)
    store = Store(folder, ocp.CheckpointManager(folder, options=options))
    if store.steps and not checkpoints.resume:
        found = ", ".join(map(str, store.steps))
        store.close()
        raise CheckpointError(
            f"{folder} already has checkpoints, of steps {found}, and resume=False. Fix: resume=True to continue that "
            "run, or another folder for a new one; nothing was changed"
        )
    return store


def pack(arrays: dict[str, np.ndarray]) -> str:
    """Turn arrays into text that JSON can hold, exactly.

    Args:
        arrays: by name.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return base64.b64encode(buffer.getvalue()).decode()


def unpack(text: str) -> dict[str, np.ndarray]:
    """Turn text from `pack` back into arrays.

    Args:
        text: from `pack`.
    """
    with np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False) as arrays:
        return dict(arrays)


def _check_readable(folder: Path) -> None:
    """Raise CheckpointError if the disk does not yield a checkpoint's files, which says nothing of their content."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place) / name
            try:
                with path.open("rb") as file:
                    while file.read(1 << 20):
                        pass
            except OSError as error:
                raise CheckpointError(
                    f"cannot read {path}: {error.strerror or error}. Likely cause: no permission, or a disk or network "
                    "that fails; the checkpoint itself may be good. Fix: make the file readable, and continue with "
                    "resume=True; nothing was changed"
                ) from error


def _sealed(notes: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(notes)
    return {"text": text, "checksum": zlib.crc32(text.encode())}


def _opened(sealed: dict[str, Any]) -> dict[str, Any]:
    if zlib.crc32(sealed["text"].encode()) != sealed["checksum"]:
        raise ValueError("checksum of the notes differs")
    return json.loads(sealed["text"])


def _free_name(path: Path) -> Path:
    numbered = (path.with_name(f"{path.name}#{n}") for n in range(2, 1000))
    return path if not path.exists() else next(p for p in numbered if not p.exists())


def _named(state: TrainState) -> tuple[list[str], list[Any], Any]:
    flat, tree = jax.tree_util.tree_flatten_with_path(state)
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in flat], [x for _, x in flat], tree


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_host(state: TrainState) -> dict[str, np.ndarray]:
    names, leaves, _ = _named(state)
    plain = [jax.random.key_data(x) if _is_key(x) else x for x in leaves]
    # Copies: buffers of the state are donated to the next dispatch while these are still being written.
    return dict(zip(names, (np.array(x) for x in jax.device_get(plain)), strict=True))


def _from_host(arrays: dict[str, np.ndarray], like: TrainState, where: str) -> TrainState:
    names, leaves, tree = _named(like)
    expected = {n: jax.random.key_data(x) if _is_key(x) else x for n, x in zip(names, leaves, strict=True)}
    wrong = sorted(expected.keys() ^ arrays.keys())
    for name in expected.keys() & arrays.keys():
        want, got = expected[name], arrays[name]
        if (want.shape, want.dtype) != (got.shape, got.dtype):
            wrong.append(f"{name}: expected {want.dtype}{list(want.shape)}, got {got.dtype}{list(got.shape)}")
    if wrong:
        raise CheckpointError(
            f"{where} is of another model or optimizer; differences: {'; '.join(wrong[:5])}. "
            "Fix: continue with the settings that the run began with, or choose another folder"
        )
    return jax.tree_util.tree_unflatten(tree, [_placed(arrays[n], x) for n, x in zip(names, leaves, strict=True)])


def _placed(array: np.ndarray, like: Any) -> Any:
    # The data of a key is what is placed: keys themselves cannot go to devices of other processes.
    placed = jax.device_put(array, like.sharding)
    return jax.random.wrap_key_data(placed, impl=jax.random.key_impl(like)) if _is_key(like) else placed
