"""TensorBoard read back by its own reader, Weights & Biases by a run that keeps what it gets, the terminal."""

from __future__ import annotations

import importlib
import itertools
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.live import Progress, Snapshot, TensorBoard, Wandb
from gradflow.live.alarms import alarms
from gradflow.live.sparkline import sparkline
from gradflow.live.summary import layer_update_ratio, scalars, worst_layers
from tests.live.problems import FullDisk, batch, loss_fn, parameters
from tests.live.test_spikes import noise, run


@pytest.fixture(scope="module")
def flow():
    return jax.jit(gf.value_grad_and_flow(loss_fn))(parameters(), batch(0))[2]


@pytest.fixture(scope="module")
def event():
    gradients, losses = noise()
    gradients[70] *= 40
    return run(gradients, losses)[0]


def snapshot(flow, step):
    return Snapshot(
        step, flow, 1.5 + step, {"first/kernel": 1e-4, "head/kernel": 1e-2, "first/bias": float("nan")}, 0.5
    )


def test_scalars_are_what_they_are_called(flow):
    found = scalars(snapshot(flow, 3))
    assert len(found) <= 20
    gradient = np.log10([float(flow[name].output_grad_rms) for name in flow.layers])
    np.testing.assert_allclose(found["flow/log10 gradient first over last layer"], gradient[0] - gradient[-1])
    np.testing.assert_allclose(
        found["flow/log10 gradient largest change between layers"], np.abs(np.diff(gradient)).max()
    )
    norms = [float(leaf.gradient_norm) for leaf in flow.parameters.values()]
    np.testing.assert_allclose(found["flow/gradient norm"], np.linalg.norm(norms), rtol=1e-6)
    assert found["flow/update to weight smallest"] == 1e-4
    assert found["flow/update to weight largest"] == 1e-2
    assert found["flow/nonfinite forward"] == 0
    assert found["loss"] == 4.5
    worst = worst_layers(snapshot(flow, 3))
    assert worst["smallest gradient"].startswith(flow.layers[int(np.argmin(gradient))])
    assert worst["largest update to weight"] == "head/kernel (0.01)"


def test_numbers_that_are_not_there_have_no_tag():
    """A layer behind stop_gradient: no ratio of first to last gradient; and one that is NaN: shown as what it is."""

    def loss(params, x):
        return jnp.mean((jax.lax.stop_gradient(x @ params["a"]) @ params["b"]) ** 2)

    params = {"a": jnp.ones((3, 3)), "b": jnp.ones((3, 2))}
    flow = jax.jit(gf.value_grad_and_flow(loss))(params, jnp.ones((4, 3)))[2]
    found = scalars(Snapshot(0, flow))
    assert "loss" not in found
    assert "flow/update norm" not in found
    assert "flow/log10 gradient first over last layer" not in found
    with jax.debug_nans(False):
        bad = jax.jit(gf.value_grad_and_flow(loss))(params, jnp.full((4, 3), jnp.nan))[2]
    found = scalars(Snapshot(0, bad))
    assert np.isnan(found["flow/gradient norm"])
    assert found["flow/nonfinite forward"] > 0
    assert "not finite first" in worst_layers(Snapshot(0, bad))
    ratios = {"a": 0.5, "b": float("nan")}  # NaN is that of a parameter of 0, or of one that is broken
    assert [layer_update_ratio(Snapshot(0, flow, None, ratios), name) for name in "ab"] == [0.5, None]
    assert np.isnan(layer_update_ratio(Snapshot(0, bad, None, ratios), "b"))
    assert alarms(Snapshot(0, bad))[0].startswith("NaN or Inf forward, in the data")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_it_back(flow, event, tmp_path):
    reading = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    writer = TensorBoard(tmp_path, figure_every=2)
    for step in (0, 10):
        writer.write_snapshot(snapshot(flow, step))
    writer.write_postmortem(event)
    writer.close()
    writer = TensorBoard(tmp_path, figure_every=0)  # going on from step 10
    for step in (10, 20):
        writer.write_snapshot(snapshot(flow, step))
    writer.close()
    events = reading.EventAccumulator(str(tmp_path), {"scalars": 0, "histograms": 0, "images": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    assert len(tags["scalars"]) <= 30
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(0, 1.5), (10, 11.5), (20, 21.5)]
    assert "flow/dead_units_worst_layer" in tags["scalars"]
    (name,) = tags["histograms"]
    histogram = events.Histograms(name)[0].histogram_value
    assert histogram.bucket_limit == [1.0, 2.0, 3.0]
    gradient = np.log10([float(flow[name].output_grad_rms) for name in flow.layers])
    np.testing.assert_allclose(histogram.bucket, gradient - np.floor(gradient.min()) + 3, rtol=1e-5)
    assert set(tags["images"]) == {"flow/figure", "flow/post-mortem_figure"}
    texts = [tag for tag in tags["tensors"] if "worst_layers" in tag or "post-mortem" in tag]
    assert len(texts) == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_that_goes_on_within_the_same_second_overwrites_nothing(flow, tmp_path, monkeypatch):
    reading = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    ticks = itertools.count(1_800_000_000 * 10**9)
    clock = types.SimpleNamespace(time=lambda: 1.8e9, time_ns=lambda: next(ticks))
    monkeypatch.setattr(importlib.import_module("gradflow.live.event_file"), "time", clock)
    for step in range(12):
        writer = TensorBoard(tmp_path, figure_every=0)
        writer.write_snapshot(snapshot(flow, step))
        writer.close()
    events = reading.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == list(range(12))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_on_a_full_disk_says_so_and_goes_on(flow, tmp_path, caplog):
    """What tensorboardX's own thread would have waited for without end; NaN is written without a word of it."""
    reading = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")

    writer = TensorBoard(tmp_path, figure_every=0)
    writer.write_snapshot(snapshot(flow, 0))
    whole, writer._file._file = writer._file._file, FullDisk(writer._file._file)
    for step in range(10, 20):
        with pytest.raises(OSError, match="No space"):
            writer.write_snapshot(snapshot(flow, step))
    writer._file._file = whole
    writer.write_snapshot(Snapshot(20, flow, float("nan")))
    writer.close()
    events = reading.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == [0, 20]
    assert not caplog.records


def test_wandb_gets_curves_a_histogram_and_alerts(flow, event, monkeypatch):
    logged, defined, alerts = [], [], []
    stand_in = types.ModuleType("wandb")
    stand_in.Histogram = lambda np_histogram: np_histogram
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    fake = types.SimpleNamespace(
        log=logged.append,
        define_metric=lambda *args, **how: defined.append((args, how)),
        alert=lambda **how: alerts.append(how),
    )
    writer = Wandb(fake)
    writer.write_snapshot(snapshot(flow, 0))
    writer.write(flow, 10)
    writer.write_postmortem(event)
    assert defined == [(("flow/step",), {}), (("flow/*",), {"step_metric": "flow/step"})]
    assert [row["flow/step"] for row in logged] == [0, 10, event.step]
    assert logged[0]["flow/loss"] == 1.5
    heights, edges = logged[0]["flow/gradient by layer"]
    assert len(heights) == 3
    np.testing.assert_array_equal(edges, [0, 1, 2, 3])
    assert alerts[0]["text"] == event.sentence
    with pytest.raises(TypeError, match="expected a run, got str"):
        Wandb("project")


@pytest.mark.slow
def test_wandb_itself_takes_them_offline(flow, event, monkeypatch, tmp_path):
    wandb = pytest.importorskip("wandb")  # no extra brings it; it is large
    monkeypatch.setenv("WANDB_SILENT", "true")
    offline = wandb.init(project="gradflow", mode="offline", dir=tmp_path)
    writer = Wandb(offline)
    writer.write_snapshot(snapshot(flow, 0))
    writer.write_postmortem(event)
    shown = dict(offline.summary)
    offline.finish()
    assert shown["flow/loss"] == 1.5
    assert len(shown["flow/gradient by layer"]["values"]) == 3
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_lines_on_a_pipe(flow, event, capsys):
    writer = Progress()
    writer.write_snapshot(snapshot(flow, 0))
    writer.write_snapshot(snapshot(flow, 50))  # within ten seconds: no line
    writer.write_postmortem(event)
    writer.close()
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("step 0  loss 1.5  gradient ")
    assert second == event.sentence


def test_a_panel_on_a_terminal(flow, event, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    writer = Progress()
    writer.write_snapshot(snapshot(flow, 0))
    writer.write_postmortem(event)
    writer.write_snapshot(snapshot(flow, 50))
    writer.close()
    said = capsys.readouterr().err
    assert "gradflow" in said
    assert "step 50  loss 51.5" in said
    assert "steps/s" in said
    assert event.sentence[:40] in said


def test_the_panel_says_what_goes_wrong():
    def loss(params, x):
        for name in sorted(params):
            x = jax.nn.sigmoid(x @ params[name])
        return jnp.mean(x**2)

    params = {f"layer_{k:02}": jnp.eye(4) / 4 for k in range(8)}
    flow = jax.jit(gf.value_grad_and_flow(loss))(params, jnp.ones((3, 4)))[2]
    assert alarms(Snapshot(0, flow))[0].startswith("the gradient shrinks by a factor of ")


def test_sparkline_is_logarithmic_and_copes_with_anything():
    assert sparkline(np.array([1e-7, 1e-5, 1e-3, 1e-1])) == "▁▃▆█ 1e-07…1e-01"
    assert sparkline(np.array([0.0, np.nan, 1.0, np.inf, 100.0])) == "▁×▁×█ 1e+00…1e+02"
    assert sparkline(np.array([-1.0, np.nan, 1.0]), log=False) == "▁×█ -1…1"
    assert sparkline(np.array([])) == ""
    assert sparkline(np.zeros(3)) == "▁▁▁"
    assert len(sparkline(np.logspace(0, 3, 100)).split()[0]) == 24


def test_writers_need_only_their_own_package():
    """In a process where none of the packages can be imported."""
    code = """
import sys
for blocked in ("tensorboardX", "wandb", "rich", "keras", "matplotlib", "orbax"):
    sys.modules[blocked] = None
import gradflow as gf
assert all(map(callable, (gf.live.TensorBoard, gf.live.Wandb, gf.live.Jsonl, gf.live.Progress)))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_missing_is_said(flow, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"pip install 'gradflow-jax\[live\]'"):
        TensorBoard(tmp_path).write(flow, 0)
