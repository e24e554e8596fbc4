"""The report: its numbers are those of the file, it says what is not a number, and it refuses what it cannot show."""

from __future__ import annotations

import html
import html.parser
import json
import math
import re
import shutil
import subprocess

import jax
import numpy as np
import pytest

import gradflow as gf
from gradflow.live import FlowHistory, Jsonl, Snapshot, read_jsonl
from gradflow.live.reporting import heat, lines, marks
from tests.live.problems import batch, loss_fn, parameters
from tests.user_errors import without_type_checker

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FIELDS = ("output_rms", "output_grad_rms", "update_ratio", "dead_fraction")
EVENT = {
    "line": "event", "event": "spike", "step": 10, "factor": 31.4, "layers": [], "steps": [], "losses": [],
    "gradients": [], "first_layers": ["<b>"], "first_step": 4, "loss_step": 10,
    "sentence": "Step 10: the gradient grew to 31.4 times its usual size. Layer <b> moved first.",
}  # fmt: skip


class Page(html.parser.HTMLParser):
    """Text by element, and whether every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.attributes = [], {}, []
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.attributes.append((tag, dict(attrs)))
        if tag not in ("meta",):
            self.open.append(tag)
            self.found.setdefault(tag, []).append("")

    def handle_startendtag(self, tag, attrs):
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.found[self.open[-1]][-1] += data


def layer(step, name, values, **changes):
    statistics = dict(zip(FIELDS, values, strict=True))
    line = {"line": "layer", "step": step, "name": name, "kind": "layer", "shape": [2], "dtype": "float32"}
    return {**line, "calls": 1.0, **statistics, "remarks": {}, **changes}


def written(path, records, events=(), scalars=None):
    """Write a file by hand: step -> lines of its layers."""
    found = []
    for step, layers in records.items():
        numbers = {"loss": 1.0 / (step + 1), "flow/gradient norm": 0.5} if scalars is None else scalars[step]
        found += [*layers, {"line": "record", "step": step, "layers": len(layers), "scalars": numbers, "worst": {}}]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*found, *events]), encoding="utf-8")
    return path


def simple(path, factor=1.0, events=()):
    names = ("<b>", "last")
    return written(
        path,
        {
            step: [
                layer(step, n, (factor * (k + 1), 1e-3 * (k + 1) / (step + 1), 2e-3, 0.25)) for k, n in enumerate(names)
            ]
            for step in (0, 5, 10)
        },
        events,
    )


def page_of(source, tmp_path):
    path = gf.report(source, tmp_path / "page.html")
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    path = tmp_path_factory.mktemp("real") / "run.jsonl"
    flow = jax.jit(gf.value_grad_and_flow(loss_fn))(parameters(), batch(0))[2]
    writer = Jsonl(path)
    for step in (0, 10, 20):
        writer.write_snapshot(Snapshot(step, flow, 1.5 + step, {"first/kernel": 0.25}, 0.5))
    writer.close()
    return path


def test_numbers_are_those_of_the_file(real, tmp_path):
    text, page = page_of(real, tmp_path)
    titles, history = page.found["title"], read_jsonl(real).flow
    assert history.layers == ("first", "second", "head")
    for field in FIELDS:
        section = text.partition(f'<section id="{field}">')[2].partition("</section>")[0]
        shown = Page(section).found["title"]
        for row, name in enumerate(history.layers):
            for column, step in enumerate(history.steps):
                value = history.values[field][row, column]
                words = "no number" if math.isnan(value) else f"{value:.4g}"
                assert f"{name}, step {step}: {words}" in shown, field
    for step in (0, 10, 20):
        assert f"run, step {step}: {1.5 + step:.4g}" in titles


def test_a_page_holds_every_section_and_needs_nothing_else(tmp_path):
    text, page = page_of(simple(tmp_path / "a.jsonl", events=[EVENT]), tmp_path)
    sections = [attributes["id"] for tag, attributes in page.attributes if tag == "section"]
    assert sections == ["scalars", "spikes", "verdict", *(s for f in FIELDS for s in (f, f"profile-{f}"))]
    assert not re.search(r"<script|<link|<img|https?:|@import|\bon\w+=", text)
    for tag, attributes in page.attributes:
        if tag == "svg":
            assert attributes.get("aria-hidden") == "true" or (attributes["role"] == "img" and attributes["aria-label"])
    assert page.found["figcaption"] == [
        "loss (logarithmic)", "gradient norm (logarithmic)",
        "Forward rms", "Forward rms over the layers (logarithmic)",
        "Backward rms", "Backward rms over the layers (logarithmic)",
        "Update ratio", "Update ratio over the layers (logarithmic)",
        "Dead share", "Dead share over the layers (linear)",
    ]  # fmt: skip
    assert len(page.found["details"]) == 10
    references = set(re.findall(r"url\(#([^)]*)\)", text))
    assert references <= {attributes.get("id") for _, attributes in page.attributes}


def test_names_and_sentences_are_escaped(tmp_path):
    text, page = page_of({"<i>run": simple(tmp_path / "a.jsonl", events=[EVENT])}, tmp_path)
    assert "<i>" not in text
    assert "<b>" not in text
    assert EVENT["sentence"] in page.found["li"]
    assert "&lt;b&gt;, step 5: 1" in text


def test_profiles_are_of_the_first_the_middle_and_the_last_record(tmp_path):
    history = FlowHistory(np.arange(5) * 10, ("a", "b"), {"output_rms": np.arange(1.0, 11.0).reshape(2, 5)})
    text, _ = page_of(history, tmp_path)
    section = text.partition('<section id="profile-output_rms">')[2].partition("</section>")[0]
    assert {t for t in Page(section).found["title"] if t} == {
        f"step {s}, {name}: {x}" for s, k in ((0, 0), (20, 2), (40, 4)) for name, x in (("a", 1 + k), ("b", 6 + k))
    }


def test_several_runs_share_their_scales(tmp_path):
    for name, factor in (("a", 1.0), ("b", 100.0)):
        (tmp_path / name).mkdir()
        simple(tmp_path / name / "run.jsonl", factor)
    files = [tmp_path / name / "run.jsonl" for name in "ab"]
    text, page = page_of(files, tmp_path)
    assert "Flow of 2 runs" in page.found["h1"]
    section = text.partition('<section id="output_rms">')[2].partition("</section>")[0]
    found = re.findall(r'height="18.0" fill="(#\w+)"><title>([^<]*), step 0: (\S+)</title>', section)
    assert [value for *_, value in found] == ["1", "2", "100", "200"]
    places = [math.log(x) / math.log(200) for x in (1, 2, 100, 200)]  # on one scale
    assert [color for color, *_ in found] == [marks.color(place) for place in places]
    for path in files:  # the names of the files are the same
        assert f"{path.parent.name}/run.jsonl: Forward rms" in page.found["figcaption"]
    _, page = page_of(
        {"sick": files[0], "cured": FlowHistory(np.arange(1), ("x",), {"output_rms": np.ones((1, 1))})}, tmp_path
    )
    assert "cured: Forward rms" in page.found["figcaption"]
    assert "No loss and no gradient norm are recorded in cured." in page.found["p"]
    assert any("cured: 1 record, step 0, 1 row of layers; not recorded: backward" in x for x in page.found["li"])


def test_what_is_no_number_is_drawn_as_what_it_is(tmp_path):
    rows = {
        "nan": ("NaN", "gf-nan"), "infinite": ("Infinity", "gf-inf"), "zero": (0.0, "gf-zero"),
        "absent": (None, "absent"),
    }  # fmt: skip
    layers = [layer(0, name, (value, 1.0, 1.0, 0.0)) for name, (value, _) in rows.items()]
    path = written(tmp_path / "a.jsonl", {0: layers}, scalars={0: {"loss": "NaN"}})
    text, page = page_of(path, tmp_path)
    for name, (_, mark) in rows.items():
        drawn = re.search(rf"<rect [^>]*><title>{name}, step 0: [^<]*</title>", text)[0]
        assert mark in drawn
    legends = " ".join(page.found["span"])
    for words in ("NaN", "infinite", "0: no logarithm", "no number: not measured there, or the layer did not run"):
        assert words in legends
    assert "nan, step 0: NaN" in page.found["title"]
    assert "infinite, step 0: Inf" in page.found["title"]
    assert "absent, step 0: no number" in page.found["title"]
    assert "a, step 0: NaN" in page.found["title"]  # of the loss
    dead = text.partition('<section id="dead_fraction">')[2]
    assert "zero, step 0: 0<" in dead
    assert "gf-zero" not in dead  # a share of 0 is on its linear scale


def test_a_history_does_not_say_whether_nan_is_a_number_that_is_not_there(tmp_path):
    history = FlowHistory(np.arange(2), ("a",), {"output_rms": np.array([[1.0, np.nan]])})
    text, page = page_of(history, tmp_path)
    assert "a, step 1: NaN or no number" in page.found["title"]
    assert "gf-unsure)" in text
    assert "A history does not hold them." in page.found["p"]


def test_without_a_single_number_no_scale_is_invented(tmp_path):
    history = FlowHistory(np.arange(2), ("a",), {"output_rms": np.full((1, 2), np.nan)})
    text, page = page_of(history, tmp_path)
    assert "a, step 0: NaN or no number" in page.found["title"]
    assert "colours, logarithmic" not in text
    assert 'class="grid"' not in text


def test_a_damaged_last_line_costs_its_record_only(tmp_path):
    path = simple(tmp_path / "a.jsonl")
    path.write_bytes(path.read_bytes()[:-20])
    _, page = page_of(path, tmp_path)
    assert "a: 2 records, steps 0 to 5, 2 rows of layers" in page.found["li"]
    assert not any("step 10" in title for title in page.found["title"])


def test_rows_that_only_later_records_have_are_named(tmp_path):
    first, later = layer(0, "a", (1.0,) * 4), [layer(1, name, (1.0,) * 4) for name in ("a", "late")]
    _, page = page_of(written(tmp_path / "a.jsonl", {0: [first], 1: later}), tmp_path)
    assert any("not shown, since the first record has no such row: late" in line for line in page.found["li"])


def test_layers_inside_a_scan_have_a_row_a_step(tmp_path):
    values = ([1.0, None], [0.5, "NaN"], 1.0, [0.0, 0.0])
    _, page = page_of(written(tmp_path / "a.jsonl", {0: [layer(0, "w", values, calls=[1.0, 0.0])]}), tmp_path)
    assert {"w[0], step 0: 1", "w[1], step 0: no number", "w[1], step 0: NaN"} <= set(page.found["title"])


def test_of_many_records_none_that_stands_out_is_lost(tmp_path):
    values = np.ones((300, 1000))
    values[7, 501], values[100, 333], values[299, 998] = 1e9, np.nan, 0.0
    names = tuple(f"layer {k}" for k in range(300))
    text, page = page_of(FlowHistory(np.arange(1000), names, {"output_rms": values}), tmp_path)
    assert len(text) < 5e6
    assert {"layer 7, step 501: 1e+09", "layer 100, step 333: NaN or no number", "layer 299, step 998: 0"} <= set(
        page.found["title"]
    )
    assert any(note.startswith("300 rows and 1000 records are more than fit") for note in page.found["p"])


@pytest.mark.parametrize("values", [[1e308, -1e308], [5.0, 5.0], [0.0, 0.0], [-0.0, 1e-320], [3.0], [math.inf, None]])
def test_a_chart_of_any_numbers_has_finite_places(values):
    drawn = lines.line_chart(
        "x", [lines.Line("a", [0.0, 1.0][: len(values)], ["p"] * len(values), values)], below="step"
    )
    assert not re.search(r'"[^"]*\b(nan|inf)\b[^"]*"', re.sub(r"<title>.*?</title>", "", drawn))
    Page(drawn)


def test_colours_are_of_one_order_of_lightness():
    from matplotlib import colormaps
    from matplotlib.colors import to_hex, to_rgb

    assert marks.color(0.0) == to_hex(colormaps["cividis"](0.0))
    assert marks.color(1.0) == to_hex(colormaps["cividis"](1.0))
    light = [np.dot(to_rgb(marks.color(x)), (0.2126, 0.7152, 0.0722)) for x in np.linspace(0, 1, 50)]
    assert np.all(np.diff(light) > 0)


def test_a_scale_puts_numbers_where_they_are():
    scale = marks.span([1e-4, None, math.nan, 0.0, 1.0], log=True)
    assert scale == marks.Scale(-4.0, 0.0, log=True)
    assert scale.at(1e-2) == pytest.approx(0.5)
    assert marks.ticks(scale) == [(0.0, "1e-4"), (0.25, "1e-3"), (0.5, "1e-2"), (0.75, "1e-1"), (1.0, "1e0")]
    assert heat._ends(["3", "4", "5"]) == "3 … 5"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "expected records, got none in"),
        ('{"loss": 1}\n', r"expected lines of gf\.live\.Jsonl"),
        ('{"step": 1}\n', r"expected lines of gf\.live\.Jsonl, got none"),
        ('{"step": 1, "line": "record", "layers": 0}\n', r"expected lines of gf\.live\.Jsonl, got none"),
        ('{"step": 1, "line": "diagnosis"}\n', "cause: a file of another tool"),
        ('{"step": 1, "line": "record", "layers": 0, "scalars": {"loss": "x"}}\n', "could not convert string"),
        ('{"step": "x", "line": "event"}\n', r"expected lines of gf\.live\.Jsonl, got none"),
    ],
)
def test_files_without_a_run_are_refused(tmp_path, content, words):
    (tmp_path / "a.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        gf.report(tmp_path / "a.jsonl", tmp_path / "page.html")
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_what_is_no_source_is_refused(tmp_path):
    path = simple(tmp_path / "a.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"report: expected a run, got the folder .*empty without a file"):
        gf.report(tmp_path / "empty", tmp_path / "page.html")
    with pytest.raises(ValueError, match="expected another file for the page"):
        gf.report(tmp_path, path)
    with pytest.raises(ValueError, match="expected a run, got none"):
        gf.report([], tmp_path / "page.html")
    with pytest.raises(ValueError, match="expected another file for the page"):
        gf.report([str(path)], path)
    with pytest.raises(ValueError, match="a history without any"):
        gf.report(FlowHistory(np.arange(0), ("a",), {"output_rms": np.ones((1, 0))}), tmp_path / "page.html")
    with pytest.raises(FileNotFoundError, match="Fix: make the folder"):
        gf.report(path, tmp_path / "nowhere" / "page.html")
    with pytest.raises(FileNotFoundError):
        gf.report(tmp_path / "b.jsonl", tmp_path / "page.html")
    with without_type_checker(), pytest.raises(TypeError, match="got int"):
        gf.report(3, tmp_path / "page.html")


PROBE = """<!doctype html><iframe id="f" style="border:0;width:WIDTHpx;height:900px" srcdoc="PAGE"></iframe><script>
const f = document.getElementById("f")
f.onload = () => {
  const d = f.contentDocument
  document.title = JSON.stringify([d.documentElement.scrollWidth, d.querySelectorAll("figure").length,
    Math.min(...[...d.querySelectorAll("svg[role=img]")].map(s => s.getBoundingClientRect().height))])
}</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no browser installed")
@pytest.mark.parametrize("width", [390, 1200])
def test_in_a_browser_wide_figures_scroll_in_their_box(real, tmp_path, width):
    text, _ = page_of({"a-run-with-a-name-that-is-rather-long-for-a-telephone": real, "b": real}, tmp_path)
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.replace("WIDTH", str(width)).replace("PAGE", html.escape(text)), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--dump-dom"]
    command += ["--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1300,900"]
    shown = subprocess.run([*command, f"file://{probe}"], capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in shown.stderr
    wide, figures, smallest = json.loads(html.unescape(re.search("<title>(.*?)</title>", shown.stdout)[1]))
    assert wide <= width
    assert figures == 2 + 8 * 2
    assert smallest >= 30
