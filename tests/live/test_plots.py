"""Plots: what is drawn is what was given, in grey too; nothing is computed, nothing global changes."""

from __future__ import annotations

from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure

import gradflow as gf

plots = gf.plots
RATES = {"sigmoid": 0.1 ** np.arange(20.0), "ReLU": np.ones(20)}


class TinyFlow(dict):
    """The part of a Flow that a plot reads."""

    layers: tuple[str, ...] = ()
    taps: tuple[str, ...] = ()
    carries: tuple[str, ...] = ()


def tiny_flow(**shapes: tuple[int, ...]) -> TinyFlow:
    flow = TinyFlow()
    flow.layers = tuple(shapes)
    for index, (name, shape) in enumerate(shapes.items()):
        forward = np.full(shape, 1.0 + index, np.float32)
        backward = np.geomspace(1e-6, 1, max(1, int(np.prod(shape))), dtype=np.float32).reshape(shape)
        calls = np.ones(shape, np.float32)
        reverse = (False,) * len(shape)
        flow[name] = SimpleNamespace(
            output_rms=forward, output_grad_rms=backward, calls=calls, backward_calls=calls, reverse=reverse
        )
    return flow


def drawn(figure: Figure, label: str) -> tuple[np.ndarray, np.ndarray]:
    for axes in figure.axes:
        for line in axes.get_lines():
            if line.get_label() == label:
                return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    raise AssertionError(f"no line {label!r}")


MAKERS = {
    "profile": lambda axes: plots.profile(RATES, ylabel="rms", theory={"sigmoid": RATES["sigmoid"]}, axes=axes),
    "heatmap": lambda axes: plots.heatmap(
        np.stack(list(RATES.values())), np.arange(0, 200, 10), label="rms", axes=axes
    ),
    "training_curves": lambda axes: plots.training_curves(np.arange(20), RATES, reference={"chance": 0.1}, axes=axes),
    "movement": lambda axes: plots.movement(RATES, zero_at=1e-22, axes=axes),
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_plot_draws_into_its_own_figure_or_into_axes_given(name, tmp_path):
    before = dict(mpl.rcParams)
    own = MAKERS[name](None)
    assert isinstance(own, Figure)
    own.savefig(tmp_path / "own.png")
    shared = Figure()
    axes = shared.subplots(1, 2)
    assert MAKERS[name](axes[1]) is shared
    assert axes[1].has_data()
    assert not axes[0].has_data()
    assert dict(mpl.rcParams) == before
    assert axes[1].get_xlabel()
    assert axes[1].get_ylabel()


def test_profile_draws_the_values_on_a_log_axis_with_a_legend():
    figure = MAKERS["profile"](None)
    depth, values = drawn(figure, "sigmoid")
    np.testing.assert_array_equal(depth, np.arange(1, 21))
    np.testing.assert_array_equal(values, RATES["sigmoid"])
    axes = figure.axes[0]
    assert axes.get_yscale() == "log"
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"theory", "sigmoid", "ReLU"}


def test_profile_refuses_theory_for_a_line_that_is_not_there():
    with pytest.raises(ValueError, match="theory is given for 'tanh'"):
        plots.profile(RATES, ylabel="rms", theory={"tanh": np.ones(len(next(iter(RATES.values()))))})


def test_zeros_are_left_out_on_a_log_axis_and_kept_on_a_linear_one():
    lines = {"a": np.array([1.0, 0.0, 2.0])}
    np.testing.assert_array_equal(drawn(plots.profile(lines, ylabel="y"), "a")[1], [1, np.nan, 2])
    np.testing.assert_array_equal(drawn(plots.profile(lines, ylabel="y", log=False), "a")[1], [1, 0, 2])


def test_heatmap_shows_the_values_with_the_first_layer_at_the_bottom():
    values = np.array([[1e-3, 0.0], [1.0, 10.0]])
    figure = plots.heatmap(values, np.array([0, 50]), label="rms")
    image = figure.axes[0].get_images()[0]
    np.testing.assert_array_equal(image.get_array().filled(np.nan), [[1e-3, np.nan], [1.0, 10.0]])
    assert image.origin == "lower"
    assert isinstance(image.norm, LogNorm)
    assert (image.norm.vmin, image.norm.vmax) == (1e-3, 10.0)
    assert image.get_extent() == [-25, 75, 0.5, 2.5]
    assert figure.axes[1].get_ylabel() == "rms"


@pytest.mark.parametrize("values", [np.zeros((2, 3)), np.full((2, 3), 2.0), np.full((2, 3), np.nan)])
def test_heatmap_of_one_value_or_none_can_be_drawn(values, tmp_path):
    plots.heatmap(values, np.arange(3), label="rms").savefig(tmp_path / "heat.png")


def test_layers_that_did_not_move_are_drawn_as_open_markers():
    figure = plots.movement({"sigmoid": np.array([0.0, 0.0, 1e-9, 1e-2])}, zero_at=1e-11)
    np.testing.assert_array_equal(drawn(figure, "sigmoid")[1], [np.nan, np.nan, 1e-9, 1e-2])
    open_markers = [line for line in figure.axes[0].get_lines() if line.get_markerfacecolor() == "white"]
    assert [line.get_xdata().tolist() for line in open_markers] == [[1, 2]]
    assert [line.get_ydata().tolist() for line in open_markers] == [[1e-11, 1e-11]]


def test_line_styles_stay_distinct_without_colour():
    styles = plots.line_styles()
    assert len({(style["marker"], str(style["linestyle"])) for style in styles}) == len(styles) == 35
    assert len({style["color"] for style in styles[:7]}) == 7


def test_the_heat_maps_lightness_rises_steadily():
    colors = mpl.colormaps[plots.HEAT](np.linspace(0, 1, 64))[:, :3]
    lightness = colors @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) > 0).all()
    assert all(to_rgb(color) for color in plots.COLORS)


def test_flow_over_depth():
    figure = plots.flow(tiny_flow(Dense_0=(), Dense_1=(), Dense_2=()))
    assert drawn(figure, "forward: rms of output")[1].tolist() == [1, 2, 3]
    assert len(figure.axes) == 2
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "log"]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["Dense_0", "Dense_1", "Dense_2"]


def test_flow_over_time_has_one_row_of_colours_a_scanned_layer(tmp_path):
    flow = tiny_flow(cell=(30,), short=(10,), head=())
    flow.carries = ("carry/h",)
    flow["carry/h"] = flow["cell"]
    figure = plots.flow(flow, title="LSTM")
    image = next(image for axes in figure.axes for image in axes.get_images())
    shown = image.get_array()
    assert shown.shape == (3, 30)
    np.testing.assert_allclose(shown[0], flow["cell"].output_grad_rms)
    assert shown.mask[1].tolist() == [False] * 10 + [True] * 20
    figure.savefig(tmp_path / "flow.png")


def marks(figure: Figure) -> dict[str, list[float]]:
    """Label of each kind of mark, and where it stands."""
    lines = [line for axes in figure.axes for line in axes.get_lines() if line.get_linestyle() == "None"]
    return {str(line.get_label()): np.asarray(line.get_xdata()).tolist() for line in lines}


def test_what_has_no_place_on_a_log_axis_is_a_gap_and_a_mark(tmp_path):
    flow = tiny_flow(**dict.fromkeys(("good", "nan", "inf", "zero", "frozen", "branch"), ()))
    flow["nan"].output_grad_rms = np.float32(np.nan)
    flow["inf"].output_rms = np.float32(np.inf)
    flow["zero"].output_grad_rms = np.float32(0)
    for name in ("frozen", "branch"):
        flow[name].output_grad_rms, flow[name].backward_calls = np.float32(np.nan), np.float32(0)
    flow["branch"].output_rms, flow["branch"].calls = np.float32(np.nan), np.float32(0)
    figure = plots.flow(flow)
    assert marks(figure) == {
        "forward: NaN or Inf": [2],
        "forward: not run": [5],
        "backward: NaN or Inf": [1],
        "backward: exactly 0": [3],
        "backward: not reached": [4],
    }
    backward = drawn(figure, r"backward: rms of $\partial L/\partial$output")[1]
    assert np.isfinite(backward).tolist() == [True, False, True, False, False, False]
    assert np.isfinite(drawn(figure, "forward: rms of output")[1]).tolist() == [True, True, False, True, True, False]
    figure.savefig(tmp_path / "flow.png")


def test_a_flow_without_a_finite_number_can_be_drawn(tmp_path):
    flow = tiny_flow(a=(), cell=(3,))
    for name in flow:
        flow[name].output_rms = flow[name].output_grad_rms = np.full(np.shape(flow[name].calls), np.nan)
    figure = plots.flow(flow)
    assert marks(figure)["NaN or Inf"] == [0, 1, 2]
    figure.savefig(tmp_path / "flow.png")


def test_scans_show_the_step_where_the_signal_has_come_furthest_in_their_direction():
    flow = tiny_flow(onward=(4,), reverse=(4,), early=(4,))
    for name in flow:
        flow[name].output_rms = np.array([1.0, 2.0, 3.0, 4.0])
        flow[name].output_grad_rms = np.array([10.0, 20.0, 30.0, 40.0])
    flow["reverse"].reverse = (True,)
    flow["early"].calls = flow["early"].backward_calls = np.array([1, 1, 0, 0])
    figure = plots.flow(flow)
    assert drawn(figure, "forward: rms of output")[1].tolist() == [4, 1, 2]
    assert drawn(figure, r"backward: rms of $\partial L/\partial$output")[1].tolist() == [10, 40, 10]
    panel = next(axes for axes in figure.axes if axes.get_images())
    shown = panel.get_images()[0].get_array()
    np.testing.assert_array_equal(shown[1], [10, 20, 30, 40])  # in the order of the index
    assert shown.mask[2].tolist() == [False, False, True, True]
    assert [text.get_text() for text in panel.get_yticklabels()] == ["onward", "reverse ←", "early"]
    assert "runs from its last step to 0" in panel.get_xlabel()
    assert "grey" in panel.get_title("left")


def test_inputs_are_no_layers():
    flow = tiny_flow(a=())
    flow.inputs = ("input",)
    flow["input"] = flow["a"]
    assert [text.get_text() for text in plots.flow(flow).axes[0].get_xticklabels()] == ["a"]


def test_flow_with_leading_axes_is_refused():
    with pytest.raises(ValueError, match=r"shape \(4, 30\); expected \(\) or \(time,\)"):
        plots.flow(tiny_flow(cell=(4, 30)))


def test_deep_flow_names_some_layers_only():
    figure = plots.flow(tiny_flow(**{f"Dense_{index}": () for index in range(100)}))
    assert len(figure.axes[0].get_xticklabels()) <= 26


@pytest.mark.parametrize(
    "layers, ticks",
    [
        (1, [1]),
        (3, [1, 2, 3]),
        (20, [1, 5, 10, 15, 20]),
        (59, [1, 10, 20, 30, 40, 50]),
        (10_000, [1, 2000, 4000, 6000, 8000, 10_000]),
    ],
)
def test_depth_axis_starts_at_layer_1_and_goes_on_in_round_numbers(layers, ticks):
    figure = plots.profile({"a": np.ones(layers)}, ylabel="y")
    assert figure.axes[0].get_xticks().tolist() == ticks
