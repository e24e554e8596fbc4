"""The table says what is there, says in words what is not, and fits the terminal."""

from __future__ import annotations

import dataclasses
import functools
import re
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import gradflow as gf
from gradflow.instrument.errors import FlowError
from gradflow.instrument.flow import Flow, Unseen
from gradflow.instrument.labels import shorten
from tests.instrument.copies import many

STEPS = 5


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


PARAMS = {
    "model": {
        "encoder": {"w": normal(0, 6, 8), "b": jnp.zeros(8)},
        "cell": {"w": normal(1, 8, 8) / 3},
        "early": {"w": normal(2, 8, 8) / 3},
        "teacher": {"w": normal(3, 6, 3)},
        "branch": {"w": normal(4, 8, 8)},
        "mute": {"w": normal(5, 8, 8)},
        "head": {"w": normal(6, 8, 3)},
    }
}
DATA = normal(7, 7, 6) + 2


def loss(params, data):
    x, bad, zero = data["x"], data["bad"], data["zero"]
    p = params["model"]
    h = jnp.tanh(x @ p["encoder"]["w"] + p["encoder"]["b"])

    def step(h, number):
        return jnp.tanh(h @ p["cell"]["w"] + jnp.where(number == bad, jnp.nan, 0.0)), None

    h, _ = lax.scan(step, h, jnp.arange(STEPS), reverse=True)

    def maybe(h, number):
        return lax.cond(number < 3, lambda h: jnp.tanh(h @ p["early"]["w"]), lambda h: h, h), None

    h, _ = lax.scan(maybe, h, jnp.arange(STEPS))
    h = lax.cond(zero > 1, lambda h: h @ p["branch"]["w"], lambda h: h, h)
    h = h + zero * jnp.tanh(h @ p["mute"]["w"])
    target = lax.stop_gradient(x @ p["teacher"]["w"])
    return jnp.mean((gf.tap("out<b>", h @ p["head"]["w"]) - target) ** 2)


look = jax.jit(lambda data: gf.value_grad_and_flow(loss)(PARAMS, data)[2])


def measure(bad):
    return look({"x": DATA, "bad": jnp.int32(bad), "zero": jnp.float32(0)})


@pytest.fixture(scope="module")
def flow():
    return measure(-1)


@pytest.fixture(scope="module")
def broken():
    with jax.debug_nans(False):
        return measure(3)


@pytest.fixture(scope="module")
def half():
    """float16, a loss so small that most cotangents are flushed."""
    params = {"a": {"w": normal(0, 4, 8).astype(jnp.float16)}, "b": {"w": normal(1, 8, 4).astype(jnp.float16)}}
    x = normal(2, 16, 4).astype(jnp.float16)

    def small(p, x):
        return jnp.mean(((x @ p["a"]["w"]) @ p["b"]["w"]).astype(jnp.float32) * 1e-6)

    return jax.jit(gf.value_grad_and_flow(small))(params, x)[2]


def row(text, name):
    """The cells of a row."""
    line = next(line for line in text.splitlines() if line.startswith(name))
    return re.split(r"\s{2,}", line)


def cell(text, name, title):
    titles = row(text, "layer")
    return row(text, name)[titles.index(title)]


def rms(values):
    return np.sqrt(np.mean(np.square(np.asarray(values, np.float64))))


def test_the_input_comes_first_with_rms_and_mean(flow):
    text = flow.table(width=160)
    assert text.splitlines()[1].startswith("input ")
    assert cell(text, "input ", "output") == f"{rms(DATA):.2e}"
    assert cell(text, "input ", "mean") == f"{np.mean(DATA):+.1e}"
    assert cell(text, "input ", "dL/doutput") == "—"


def test_means_over_steps_are_rms_and_count_only_what_ran(flow):
    text = flow.table(width=160)
    cellular, early = flow["model/cell"], flow["model/early"]
    assert cell(text, "model/cell", "dL/doutput") == f"{rms(cellular.output_grad_rms):.2e}"
    assert cell(text, "model/cell", "output") == f"{rms(cellular.output_rms):.2e}"
    assert cell(text, "model/early", "output") == f"{rms(np.asarray(early.output_rms)[:3]):.2e}"
    assert cell(text, "model/early", "dL/doutput") == f"{rms(np.asarray(early.output_grad_rms)[:3]):.2e}"
    assert "ran in 3/5 steps" in text
    bar = row(text, "model/early")[-1].split()[0]
    assert bar[3:] == "··"
    assert "·" not in bar[:3]


def test_what_has_no_number_is_said_in_words(flow):
    text = flow.table(width=160)
    assert row(text, "model/teacher")[3:] == ["not reached", row(text, "model/teacher")[4], "cut by stop_gradient"]
    assert row(text, "model/branch") == ["model/branch", "not run"]
    assert cell(text, "model/mute", "dL/doutput") == "0"
    assert row(text, "model/mute")[-1] == "zero or not reached"
    assert "NaN" not in text


def test_remarks_without_room_stand_below(flow):
    text = flow.table(width=80)
    assert "\ncut by stop_gradient: model/teacher\n" in text
    assert "\nzero or not reached: model/mute\n" in text


def test_the_curve_of_a_reverse_scan_follows_the_index(flow):
    drawn = row(flow.table(width=160), "model/cell")[-1]
    bar, _, said = drawn.partition(" ")
    assert said == "reverse scan"
    order = np.argsort(np.asarray(flow["model/cell"].output_grad_rms))
    assert bar[order[0]] <= bar[order[-1]]
    assert [ord(level) for level in np.array(list(bar))[order]] == sorted(map(ord, bar))


def test_nan_is_shown_with_its_steps_and_where_it_began(broken):
    text = broken.table(width=160)
    # Made behind the contraction of step 3 of 4, 3, 2, 1, 0: steps 2, 1 and 0 put it out.
    assert cell(text, "model/cell ", "output") == "NaN 3/5"
    assert cell(text, "model/cell/h", "output") == "NaN 4/5"
    assert cell(text, "model/encoder", "dL/doutput") == "NaN"
    assert re.fullmatch(r"[×]{5}", row(text, "model/cell ")[-1].split()[0])
    assert "NaN or Inf began: forward, in the output of carry model/cell/h at step 3" in text
    assert str(broken.first_nonfinite) in text
    narrow = broken.table(width=80)
    assert narrow.index("NaN or Inf began") < narrow.index("cut by stop_gradient")


def test_columns_follow_the_statistics_that_were_asked_for():
    def plain(statistics):
        look = gf.value_grad_and_flow(lambda p, x: jnp.sum(x @ p["weight"]), statistics=statistics)
        return look({"weight": jnp.eye(2)}, jnp.ones((3, 2)))[2].table(width=120).splitlines()

    assert plain("output_rms") == ["layer     output", "input   1.00e+00", "weight  1.00e+00"]
    assert plain("nonfinite") == ["layer", "input", "weight"]
    assert plain("zero_grad_fraction")[0] == "layer   zero"


def test_idle_experts_are_counted():
    params, x = {"moe": {"w": normal(0, 4, 3, 5)}}, normal(1, 6, 3)
    sizes = jnp.array([4, 0, 2, 0], jnp.int32)
    look = jax.jit(gf.value_grad_and_flow(lambda p, x: jnp.sum(lax.ragged_dot(x, p["moe"]["w"], sizes))))
    flow = look(params, x)[2]
    assert "2/4 experts without rows" in flow.table(width=160)


def test_uses_without_a_row_are_listed_by_reason(flow):
    assert "no row: 1 leaf added to or multiplied with data (biases, scales; see flow.parameters)" in flow.table(
        width=160
    )
    more = (*(Unseen(f"e{k}", "inside ffi_call") for k in range(5)), Unseen("moe/experts", "inside a while loop"))
    text = with_meta(flow, unseen=flow.unseen + more).table(width=240)
    assert "; 5 leaves (e0, e1, e2 and 2 more): inside ffi_call; moe/experts: inside a while loop" in text


def test_a_loss_without_layers_says_so():
    flow = gf.value_grad_and_flow(lambda p: jnp.sum(p["a"] * p["b"]))({"a": jnp.ones(3), "b": jnp.ones(3)})[2]
    assert "no layers: the loss has no contraction with a weight; flow.parameters has 2 leaves" in str(flow).replace(
        "\n ", ""
    )


def test_float16_says_what_is_not_known_and_what_to_do(half):
    text = half.table(width=200)
    assert "float16: dead and underflow not known; zeros are zero or flushed (up to 100%, " in text
    assert "scale the loss" in text
    assert "zero or flushed" in " ".join(row(text, "a ") + row(text, "b "))
    assert "dead" not in row(text, "layer")


def test_stacked_flows_are_averaged_and_it_is_said(flow):
    stacked = jax.tree.map(lambda a: jnp.stack([a, a, a]), flow)
    text = stacked.table(width=160)
    assert "3 stacked flows, of shape (3,), are averaged" in text
    for name, title in (("model/encoder", "dL/doutput"), ("model/cell ", "output"), ("model/head", "zero")):
        assert cell(text, name, title) == cell(flow.table(width=160), name, title)


def test_roles_and_passes_stand_in_the_label(flow):
    changes = {"model/head": {"role": "read-out", "computed_in": "tangent"}, "model/mute": {"computed_in": "cotangent"}}
    text = with_entries(flow, changes).table(width=200)
    assert "model/head (read-out, tangent)" in text
    assert "model/mute (cotangent)" in text
    assert "out<b> (tap)" in text
    assert "model/cell/h (carry)" in text
    assert "recurrent" not in text  # every layer of that scan reads the carry


@pytest.mark.parametrize("width", [60, 73, 80, 120])
def test_no_line_is_wider_than_asked(flow, broken, half, width):
    long = with_entries(flow, {n: {"name": f"a/very/long/way/to/{n * 3}/here"} for n in flow})
    for shown in (flow, broken, half, long, many(flow, 45, nan=(5,))):
        for kwargs in ({}, {"rows": 7, "sort": "output_grad_rms"}):
            lines = shown.table(width=width, **kwargs).splitlines()
            assert max(map(len, lines)) <= width


def test_columns_without_room_are_named(flow):
    text = flow.table(width=60)
    assert "no room for: " in text.replace("\n ", "")
    assert "output" in text.splitlines()[0]
    assert "dL/dout" in text.splitlines()[0]


def test_the_width_is_that_of_the_terminal(flow, monkeypatch):
    monkeypatch.setenv("COLUMNS", "75")
    assert str(flow) == flow.table(width=75)
    monkeypatch.setenv("COLUMNS", "20")
    assert str(flow) == flow.table(width=60)


def test_repeated_blocks_are_folded_to_ends_and_extremes(flow):
    factors = np.ones(48)
    factors[20], factors[30] = 1e-3, 50.0
    shown = many(flow, 48, factors=factors)
    text = shown.table(width=120)
    names = [line.split()[0] for line in text.splitlines() if line.startswith("block")]
    assert names == [f"block_{k}/query" for k in (0, 20, 30, 47)]
    gradient = float(shown["block_1/query"].output_grad_rms)
    assert f"  … 44 more like block_*/query, dL/doutput {gradient:.1e}\n" in text
    factors[5] = 2.0
    again = many(flow, 48, factors=factors).table(width=120)
    assert f"dL/doutput {gradient:.1e} … {2 * gradient:.1e}\n" in again
    assert many(flow, 48).table(rows=None, width=120).count("block_") == 48


def test_the_extremes_of_each_kind_of_block_are_shown(flow):
    """Also where those of another kind are more extreme; one line in two is a query, the other a key."""
    factors = np.ones(96)
    factors[[10, 20]] = 1e-6, 1e6  # block_5/query, block_10/query
    factors[[31, 41]] = 1e-2, 1e2  # block_15/key, block_20/key
    renamed = {f"{k}": {"name": f"block_{k // 2}/{('query', 'key')[k % 2]}"} for k in range(96)}
    text = with_entries(many(flow, 96, names="{}", factors=factors), renamed).table(width=120)
    shown = re.findall(r"^(block_\d+/\w+)", text, re.M)
    assert shown == [
        *("block_0/query", "block_5/query", "block_10/query", "block_47/query"),
        *("block_0/key", "block_15/key", "block_20/key", "block_47/key"),
    ]


def test_the_worst_rows_are_always_shown(flow):
    shown = many(flow, 120, names="{0}x{0}", factors={33: 1e-9, 100: 1e9}, nan=(77, 78, 90), dead=111)
    text = shown.table(rows=14, width=120)
    assert len([line for line in text.splitlines() if re.match(r"\d+x|  …", line)]) <= 14
    for k in (77, 78, 90, 33, 100, 111):
        assert f"{k}x{k} " in text
    assert "NaN or Inf began: forward, in the output of layer 77x77" in text
    assert re.search(r"… \d+ more", text)


def test_a_fold_says_what_it_hides(flow):
    text = many(flow, 100, nan=tuple(range(10, 60))).table(rows=8, width=120)
    hidden = int(re.search(r"(\d+) with NaN or Inf", text)[1])
    shown = len([line for line in text.splitlines() if line.startswith("block") and "NaN" in line])
    assert hidden + shown == 50


def test_rows_can_be_sorted_by_a_statistic(flow):
    factors = {3: 5.0, 1: 3.0, 7: 0.1}
    names = functools.partial(re.findall, re.compile(r"^block_(\d+)/", re.M))
    shown = many(flow, 9, factors=factors, nan=(4,))
    assert names(shown.table(sort="output_grad_rms"))[:3] == ["4", "3", "1"]
    assert names(shown.table(sort="-output_grad_rms"))[:2] == ["4", "7"]
    assert shown.table(sort="output_grad_rms", width=160).splitlines()[10].startswith("input")


def test_wrong_arguments_are_named(flow):
    with pytest.raises(ValueError, match=r"expected at least 2 lines, or None for all, got 0"):
        flow.table(rows=0)
    with pytest.raises(ValueError, match=r"expected at least 60 columns, got 40"):
        flow.table(width=40)
    with pytest.raises(ValueError, match="'output_grad' is unknown; did you mean 'output_grad_rms'"):
        flow.table(sort="output_grad")
    with pytest.raises(ValueError, match="'output_grad_max' was not asked for"):
        flow.table(sort="output_grad_max")

    def inside(params):
        return measure_simple(params).table()

    with pytest.raises(FlowError, match="return the flow from the jitted function"):
        jax.jit(inside)(jnp.eye(2))


def measure_simple(w):
    return gf.value_grad_and_flow(lambda w: jnp.sum(jnp.ones((3, 2)) @ w))(w)[2]


def test_small_shares_are_not_rounded_to_none_or_all(flow):
    from gradflow.instrument.cells import Cell

    assert [Cell(x, 1).text("{:.0%}") for x in (0.0, 1e-4, 0.3, 0.999, 1.0)] == ["0%", "<1%", "30%", ">99%", "100%"]


def test_labels_keep_what_differs():
    labels = [f"bert/encoder/layer_{k}/attention/{part}" for k in range(3) for part in ("query", "value")]
    assert shorten(labels, 40) == labels
    assert shorten(labels, 26)[0] == "…layer_0/attention/query"
    for width in (12, 16, 20):
        short = shorten(labels, width)
        assert all(len(label) <= width for label in short)
        assert len(set(short)) == len(labels)


class Balanced(HTMLParser):
    """Checks that elements close in order, and keeps the text."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag != "rect":
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag != "rect":
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_html_is_self_contained_and_escaped(flow, broken):
    for shown in (flow, broken, many(flow, 90)):
        page = Balanced()
        page.feed(shown._repr_html_())
        assert not page.open
        assert "b" not in page.seen
        assert {"table", "svg", "rect"} <= set(page.seen)
        assert not re.search(r"https?://|<script|<link|background:(?!transparent)", shown._repr_html_())
    words = " ".join(page.text)
    assert "more like block_*/query" in words
    page = Balanced()
    page.feed(broken._repr_html_())
    assert {"out<b> (tap)", "NaN 3/5", "not reached"} <= set(page.text)
    assert any("NaN or Inf began: " in text for text in page.text)


# Flows of many layers, without compiling one: the numbers of one layer, scaled.


def with_meta(flow, **changes):
    return Flow(dataclasses.replace(flow._meta, **changes), *flow._arrays)


def with_entries(flow, changes):
    entries = tuple(dataclasses.replace(e, **changes.get(e.name, {})) for e in flow._meta.entries)
    return with_meta(flow, entries=entries)
