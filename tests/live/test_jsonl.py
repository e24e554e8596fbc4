"""JSON lines: what stands in them, and that neither a kill nor going on leaves a line too many."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.live import Jsonl, Snapshot, read_jsonl
from tests.live.problems import batch, loss_fn, parameters


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

    class Full:
        def __init__(self, file):
            self.fileno, self.file, self.close = file.fileno, file, file.close

        def write(self, data):
            self.file.write(data[:100])
            raise OSError("No space left on device")

    whole, writer._file = writer._file, Full(writer._file)
    with pytest.raises(OSError, match="No space"):
        writer.write(flow, 10)
    writer._file = whole
    writer.write(flow, 20)
    writer.close()
    assert read_jsonl(path).steps.tolist() == [0, 20]
    assert path.read_text().count("\n") == 10


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"loss": 1}\nhello\n')
    with pytest.raises(ValueError, match=r"expected lines of gf\.live\.Jsonl, got none"):
        read_jsonl(tmp_path / "a.jsonl")
