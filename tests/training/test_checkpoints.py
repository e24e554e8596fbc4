"""Checkpoints: going on, falling back, refusing, full disks, what is kept."""

from __future__ import annotations

import contextlib
import resource

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradflow import training
from gradflow.training import CheckpointError, Checkpoints
from gradflow.training.checkpoints import pack, unpack
from tests.training import problems
from tests.training.test_fit import fit

# Reads of a corrupt checkpoint that Orbax gives up on come back to an event loop that it has closed by then.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

HELD_OUT = problems.batch(jax.random.key(3), 0)


def train(folder, steps=24, *, resume=True, keep=3, **options):
    options = {"watch": problems.watch(8), "validation": HELD_OUT, "validate_every": 8, **options}
    checkpoints = None if folder is None else Checkpoints(folder, every_steps=8, keep=keep, resume=resume)
    return fit(steps, checkpoints=checkpoints, **options)


def steps_in(folder):
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


@pytest.fixture(scope="module")
def whole():
    return problems.leaves(train(None, 32))


@pytest.fixture
def begun(tmp_path):
    """A folder with checkpoints of steps 8, 16 and 24."""
    train(tmp_path / "run")
    return tmp_path / "run"


def test_going_on_changes_nothing(begun, whole):
    assert steps_in(begun) == [8, 16, 24]
    problems.same(problems.leaves(train(begun, 32)), whole)
    assert steps_in(begun) == [16, 24, 32]
    again = train(begun, 32)  # nothing is left to do
    problems.same(problems.leaves(again), whole)
    with pytest.raises(ValueError, match="at most steps=24, got one of step 32"):
        train(begun, 24)


def test_only_the_newest_are_kept(tmp_path):
    train(tmp_path, 40, keep=2)
    assert steps_in(tmp_path) == [32, 40]


def test_time_alone_can_make_a_checkpoint_due(tmp_path):
    fit(12, checkpoints=Checkpoints(tmp_path, every_steps=None, every_minutes=1e-6))
    assert steps_in(tmp_path) == [4, 8, 12]
    fit(12, checkpoints=Checkpoints(tmp_path / "last", every_steps=None))
    assert steps_in(tmp_path / "last") == [12]


def largest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def cut(folder):
    path = largest_file(folder / "arrays")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def turn_a_bit(folder):
    """In the middle of the file that holds the arrays."""
    path = largest_file(folder / "arrays" / "d")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def turn_a_curve(folder):
    """In the text of the curves: still JSON, of other numbers."""
    path = folder / "notes" / "metadata"
    text = path.read_text()
    place = len(text) // 2
    path.write_text(text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :])


def empty(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, turn_a_bit, turn_a_curve, empty])
def test_a_corrupt_newest_one_falls_back_to_the_one_before(begun, whole, damage):
    damage(begun / "24")
    with pytest.warns(UserWarning, match=r"checkpoint of step 24 in .* is corrupt"):
        fitted = train(begun, 32)
    problems.same(problems.leaves(fitted), whole)
    assert (begun / "corrupt-24").is_dir()
    assert steps_in(begun) == [16, 24, 32]


def test_a_file_that_cannot_be_read_is_not_called_corrupt(begun):
    """A link to itself, which no user can open, root neither."""
    path = largest_file(begun / "24" / "arrays" / "d")
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(CheckpointError, match=r"cannot read .*24.*: .*nothing was changed"):
        train(begun, 32)
    assert steps_in(begun) == [8, 16, 24]


def test_nothing_is_touched_if_all_are_corrupt(begun):
    for step in (8, 16, 24):
        cut(begun / str(step))
    with (
        pytest.warns(UserWarning, match="is corrupt"),
        pytest.raises(CheckpointError, match="are corrupt: steps 8, 16"),
    ):
        train(begun, 32)
    assert steps_in(begun) == [8, 16, 24]


def test_what_does_not_fit_is_refused(begun, tmp_path):
    with pytest.raises(CheckpointError, match="already has checkpoints, of steps 8, 16, 24, and resume=False"):
        train(begun, resume=False)
    with pytest.raises(CheckpointError, match=r"other settings: every: it has 4, asked for 8"):
        train(begun, 32, every=8)
    with pytest.raises(CheckpointError, match=r"other settings: watch: it has \[8, 'output_rms'.*asked for None"):
        train(begun, 32, watch=None)
    with pytest.raises(CheckpointError, match=r"of another model or optimizer; differences: .*Dense_3"):
        train(begun, 32, state=problems.start(depth=3))
    other = optax.sgd(0.1)
    with pytest.raises(CheckpointError, match="of another model or optimizer"):
        training.fit(
            problems.loss_fn,
            other,
            problems.start(other),
            problems.batch,
            32,
            every=4,
            checkpoints=Checkpoints(begun, resume=True),
        )
    for options in ({"every_steps": 0}, {"every_minutes": -1.0}, {"keep": 0}):
        with pytest.raises(ValueError, match="expected more than 0"):
            Checkpoints(begun, **options)
    assert steps_in(begun) == [8, 16, 24]


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match=r"cannot write checkpoints to .*file: .*nothing was changed"):
        train(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(CheckpointError, match="cannot write checkpoints to /proc"):
        train("/proc/run")


@contextlib.contextmanager
def no_room(size=4096):
    """No file can grow beyond a size, as on a full disk: the system refuses to write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def wide(steps, folder):
    """A run with parameters of 1 MB."""
    optimizer = optax.sgd(0.1)

    def loss(w, model_state, batch, key):
        return jnp.mean((w - batch) ** 2), ({}, model_state)

    w = jnp.asarray(np.random.default_rng(0).normal(size=250_000).astype(np.float32))
    state = training.start(w, optimizer, jax.random.key(0))
    checkpoints = Checkpoints(folder, every_steps=4, resume=True)
    source = lambda key, step: jax.random.normal(key)  # noqa: E731
    return training.fit(loss, optimizer, state, source, steps, every=4, checkpoints=checkpoints, progress=False)


def test_a_full_disk_is_told_and_harms_nothing(tmp_path):
    wide(8, tmp_path)
    with (
        no_room(),
        pytest.raises(CheckpointError, match=r"could not be written.*steps 4, 8; they are intact.*full disk"),
    ):
        wide(24, tmp_path)
    assert steps_in(tmp_path) == [4, 8]
    fitted = wide(12, tmp_path)
    assert int(fitted.state.step) == 12
    assert steps_in(tmp_path) == [4, 8, 12]


def test_packed_arrays_are_exact():
    arrays = {"a": np.array([np.nan, 1e-45, -0.0], np.float32), "b/c": np.arange(3), "none": np.zeros((0, 2))}
    got = unpack(pack(arrays))
    assert got.keys() == arrays.keys()
    for name, want in arrays.items():
        np.testing.assert_array_equal(got[name], want, strict=True)
