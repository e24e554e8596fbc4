"""JSON lines: what stands in them, and that neither a kill nor going on leaves a line too many."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.live import Jsonl, PostMortem, Snapshot, read_jsonl
from tests.live.problems import FullDisk, batch, loss_fn, parameters


@pytest.fixture(scope="module")
def flow():
    return jax.jit(gf.value_grad_and_flow(loss_fn))(parameters(), batch(0))[2]


def write(path, flow, steps):
    writer = Jsonl(path)
    for step in steps:
        writer.write_snapshot(Snapshot(step, flow, 1.5 + step, {"first/kernel": 0.25, "first/bias": 9.0}, 0.5))
    writer.close()


def test_a_line_a_layer_and_one_a_record(flow, tmp_path):
    path = tmp_path / "runs" / "a.jsonl"
    write(path, flow, [0, 10])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["line"] for line in lines] == ["layer"] * 4 + ["record"] + ["layer"] * 4 + ["record"]
    assert all("step" in line for line in lines)
    first = next(line for line in lines if line.get("name") == "first")
    assert first["output_grad_rms"] == flow["first"].to_record()["output_grad_rms"]
    assert first["update_ratio"] == 0.25
    record = lines[4]
    assert record["layers"] == 4
    assert record["scalars"]["loss"] == 1.5
    assert record["scalars"]["flow/update norm"] == 0.5
    assert record["worst"]["largest update to weight"].startswith("first/bias")


def test_reading_gives_arrays(flow, tmp_path):
    path = tmp_path / "a.jsonl"
    write(path, flow, [0, 10, 20])
    log = read_jsonl(path)
    np.testing.assert_array_equal(log.steps, [0, 10, 20])
    np.testing.assert_array_equal(log.scalar("loss"), [1.5, 11.5, 21.5])
    assert np.isnan(log.scalar("nothing")).all()
    assert log.flow.layers == ("first", "second", "head")
    want = [[float(flow[name].output_grad_rms)] * 3 for name in log.flow.layers]
    np.testing.assert_allclose(log.flow.values["output_grad_rms"], want, rtol=1e-6)
    np.testing.assert_array_equal(log.flow.values["update_ratio"][0], [0.25] * 3)
    assert np.isnan(log.flow.values["update_ratio"][1]).all()
    assert not np.isnan(log.flow.values["nonfinite_forward"]).any()


class Healthy:
    """As little of a diagnosis as is written."""

    def to_json(self):
        return '{"healthy": true, "findings": [], "ledger": {"entries": []}}'


def test_a_diagnosis_is_written_with_the_first_record_or_at_the_end(flow, tmp_path):
    path = tmp_path / "a.jsonl"
    write(path, flow, [0, 10, 20])
    writer = Jsonl(path)
    writer.write_diagnosis(Healthy(), 20)
    assert [r["step"] for r in read_jsonl(path).records] == [0, 10, 20]
    writer.write_snapshot(Snapshot(10, flow, 1.0))  # the run goes on from step 10, which its first record says
    writer.write_diagnosis(Healthy(), 30)
    writer.close()
    log = read_jsonl(path)
    assert [r["step"] for r in log.records] == [0, 10]
    assert [(d["step"], d["healthy"]) for d in log.diagnoses] == [(20, True), (30, True)]
    writer = Jsonl(tmp_path / "b.jsonl")
    writer.write_diagnosis(Healthy(), 0)
    writer.close()
    assert [d["step"] for d in read_jsonl(tmp_path / "b.jsonl").diagnoses] == [0]


def test_layers_inside_a_scan_have_a_row_a_step(tmp_path):
    def loss(params, x):
        return jnp.mean(jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params["w"])[0] ** 2)

    weights = jnp.stack([jnp.eye(3), 2 * jnp.eye(3)])
    flow = jax.jit(gf.value_grad_and_flow(loss))({"w": weights}, jnp.ones((4, 3)))[2]
    write(tmp_path / "a.jsonl", flow, [0])
    found = read_jsonl(tmp_path / "a.jsonl").flow
    assert found.layers == ("w[0]", "w[1]")
    np.testing.assert_allclose(found.values["output_rms"][:, 0], flow["w"].output_rms, rtol=1e-6)


@pytest.mark.parametrize("cut", [1, 40, 200, 2000])
def test_a_file_cut_anywhere_can_be_read_and_continued(flow, tmp_path, cut):
    path = tmp_path / "a.jsonl"
    write(path, flow, [0, 10, 20])
    data = path.read_bytes()
    path.write_bytes(data[:-cut])
    kept = read_jsonl(path).steps.tolist()
    assert kept == ([0, 10, 20] if cut == 1 else [0, 10])  # the end of the last line is no part of it
    write(path, flow, [20, 30])
    assert read_jsonl(path).steps.tolist() == [0, 10, 20, 30]
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert steps == sorted(steps)
    assert len(steps) == 4 * 5


def test_going_on_from_a_checkpoint_writes_no_step_twice(flow, tmp_path):
    path = tmp_path / "a.jsonl"
    write(path, flow, [0, 10, 20, 30])
    write(path, flow, [20, 30, 40])
    assert read_jsonl(path).steps.tolist() == [0, 10, 20, 30, 40]
    assert not list(tmp_path.glob("*.1.jsonl"))


def test_another_run_is_kept(flow, tmp_path):
    path = tmp_path / "a.jsonl"
    write(path, flow, [0, 10])
    with pytest.warns(RuntimeWarning, match=r"holds another run, which is kept as a\.1\.jsonl"):
        write(path, flow, [0])
    assert read_jsonl(path).steps.tolist() == [0]
    assert read_jsonl(tmp_path / "a.1.jsonl").steps.tolist() == [0, 10]


def test_a_full_disk_leaves_no_piece_of_a_line(flow, tmp_path):
    path = tmp_path / "a.jsonl"
    writer = Jsonl(path)
    writer.write(flow, 0)

    lines = writer._file
    whole, lines._file = lines._file, FullDisk(lines._file)
    with pytest.raises(OSError, match="No space"):
        writer.write(flow, 10)
    lines._file = whole
    writer.write(flow, 20)
    writer.close()
    assert read_jsonl(path).steps.tolist() == [0, 20]
    assert path.read_text().count("\n") == 10


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no device that is always full")
def test_a_device_that_is_full_says_its_own_error(flow):
    writer = Jsonl("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        writer.write(flow, 0)
    writer.close()


def test_a_loop_that_goes_back_writes_no_step_twice_and_keeps_what_happened(flow, tmp_path):
    path = tmp_path / "a.jsonl"
    writer = Jsonl(path)
    event = PostMortem("spike", 30, 9.0, (), None, 0, None, True, np.arange(3), np.ones(3), np.ones((3, 1)), ("first",))
    for step in (0, 10, 20, 30):
        writer.write_diagnosis(Healthy(), step)
        writer.write_snapshot(Snapshot(step, flow, 1.0))
    writer.write_postmortem(event)
    for step in (20, 20, 40):  # the second is the same step once more
        writer.write_snapshot(Snapshot(step, flow, 2.0))
    writer.close()
    log = read_jsonl(path)
    assert log.steps.tolist() == [0, 10, 20, 40]
    assert log.scalar("loss").tolist() == [1, 1, 2, 2]
    assert [len(layers) for layers in log.layers] == [4] * 4
    assert [event["step"] for event in log.events] == [30]
    assert [line["step"] for line in log.diagnoses] == [0, 10, 20]
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_loop_that_counts_from_0_again_keeps_both(flow, tmp_path):
    writer = Jsonl(tmp_path / "a.jsonl")
    for step in (0, 10):
        writer.write(flow, step)
    with pytest.warns(RuntimeWarning, match=r"kept as a\.1\.jsonl"):
        writer.write(flow, 0)
    writer.close()
    assert [read_jsonl(tmp_path / name).steps.tolist() for name in ("a.jsonl", "a.1.jsonl")] == [[0], [0, 10]]


@pytest.mark.parametrize("first", [0, 15])
def test_two_runs_at_once_have_a_file_each(flow, tmp_path, first):
    pytest.importorskip("fcntl")
    path = tmp_path / "a.jsonl"
    one, two = Jsonl(path), Jsonl(path)
    one.write(flow, 0)
    one.write(flow, 10)
    with pytest.warns(RuntimeWarning, match=r"another run is writing .*a\.jsonl; this one goes to a\.1\.jsonl"):
        two.write(flow, first)
    for step in (20, 30):
        one.write(flow, step)
        two.write(flow, step)
    one.close()
    two.close()
    assert read_jsonl(path).steps.tolist() == [0, 10, 20, 30]
    assert read_jsonl(tmp_path / "a.1.jsonl").steps.tolist() == [first, 20, 30]
    write(path, flow, [40])  # nobody writes it any more
    assert read_jsonl(path).steps.tolist() == [0, 10, 20, 30, 40]


@pytest.mark.parametrize("text", ["my notes\n", "my notes", '{"step": 0, "loss": 3.0}\n{"step": 10, "loss": 2.0}\n'])
def test_a_file_of_somebody_else_is_kept(flow, tmp_path, text):
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.warns(RuntimeWarning, match=r"holds something else, which is kept as a\.1\.jsonl"):
        write(path, flow, [0])
    assert (tmp_path / "a.1.jsonl").read_text() == text
    assert read_jsonl(path).steps.tolist() == [0]


@pytest.mark.parametrize("cut", [5, 60, 1500])
def test_a_run_that_was_killed_in_its_first_record_leaves_nothing(flow, tmp_path, cut):
    path = tmp_path / "a.jsonl"
    write(path, flow, [0])
    path.write_bytes(path.read_bytes()[:cut])
    write(path, flow, [0, 10])
    assert read_jsonl(path).steps.tolist() == [0, 10]
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_other_files_are_refused(tmp_path):
    for text in ('{"loss": 1}\nhello\n', '{"step": 1}\n', '{"step": "x", "line": "event"}\n', "[" * 10**5):
        (tmp_path / "a.jsonl").write_text(text)
        with pytest.raises(ValueError, match=r"expected lines of gf\.live\.Jsonl, got none"):
            read_jsonl(tmp_path / "a.jsonl")
