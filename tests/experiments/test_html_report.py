"""The page of results, and running everything: what is on it, what a browser makes of it, what is not run again."""

from __future__ import annotations

import dataclasses
import html
import html.parser
import json
import re
import shutil
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.__main__ import main as list_main
from experiments.framework import commandline, html_report, run_all, storage
from experiments.framework.catalogue import Head
from experiments.framework.claims import Claim, paper, theory
from experiments.framework.runner import Experiment, execute

HEADS = [
    Head("toy", "A toy & its claims.", "Nobody 2000", "Fig. 1 of `toy`", "1", "a <mean> of 0", False),
    Head("timed", "A timing.", "none", "none", "1", "a time", True),
    Head("absent", "Never run.", "none", "none", "1", "nothing", False),
]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclasses.dataclass(frozen=True)
class Config:
    """A number."""

    seed: int = 0
    """Seed."""
    rates: tuple[float, ...] = (0.1, 0.2)
    """Rates."""


def claims(results):
    return [
        Claim("mean", "mean < 1 & > -1", theory("symmetry", 0, absolute=1), results["x"].mean()),
        Claim("small", "x is small", paper("Nobody 2000", high=0.5), 2.0),
    ]


def figures(results):
    pair = Figure(), Figure()
    for figure in pair:
        figure.subplots().plot(results["x"])
    pair[0].suptitle("x < 3\n& growing")
    return {"overview": pair[0], "close_up": pair[1]}


def toy(name: str) -> Experiment:
    presets = dict.fromkeys(commandline.PRESET_NAMES, Config())
    return Experiment(name, "Head.", presets, lambda config: {"x": np.arange(3.0)}, claims, figures)


@pytest.fixture
def results(tmp_path):
    for name in ("toy", "timed"):
        execute(toy(name), commandline.Command("smoke", tmp_path, Config()))
    return tmp_path


class Reader(html.parser.HTMLParser):
    """Collects tags, and complains of any left open or closed twice."""

    VOID = frozenset(("meta", "link", "img", "br", "input"))

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.images = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_shows_every_figure_and_claim_and_needs_no_other_file(results):
    written = html_report.write(results, "smoke", HEADS, {"absent": "absent: did not finish"})
    text = written.read_text()
    reader = Reader()
    reader.feed(text)
    assert not reader.open
    assert len(reader.images) == 4
    assert all(image["src"].startswith("data:image/png;base64,") for image in reader.images)
    assert all(image["width"] == "1024" and image["height"] == "768" for image in reader.images)  # 6.4 x 4.8 in
    assert [image["alt"] for image in reader.images[:2]] == [
        "toy: overview. x < 3 & growing",
        "toy: close up. close_up",
    ]
    assert reader.tags.count("section") == 3
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    for words in (
        "2 experiments. Claims: 2 hold: 2 theory; 2 fail: 2 paper.",
        "mean &lt; 1 &amp; &gt; -1",
        "A toy &amp; its claims.",
        "does not hold",
        "absent: did not finish",
        "python -m experiments.toy <span>--preset smoke</span> <span>--seed 0</span>",
        "Fig. 1 of <code>toy</code>",
        "[0.1, 0.2]",
    ):
        assert words in text
    assert [file.name for file in results.glob(".index*")] == []


PROBE = """<!DOCTYPE html><iframe style="width: WIDTHpx; height: 900px; border: 0" srcdoc="PAGE"></iframe><script>
addEventListener('load', () => {
  const page = document.querySelector('iframe').contentDocument, images = [...page.images];
  const sideways = () => page.documentElement.scrollWidth > page.documentElement.clientWidth;
  const texts = [...page.body.querySelectorAll('*')].filter(e => [...e.childNodes].some(n => n.data?.trim()));
  const found = {
    shown: images.filter(i => i.complete && i.naturalWidth > 0).length,
    inside: images.filter(i => i.getBoundingClientRect().right <= page.documentElement.clientWidth).length,
    sideways: sideways(),
    smallest: Math.min(...texts.map(e => parseFloat(page.defaultView.getComputedStyle(e).fontSize))),
  };
  images[0].click();
  document.title = JSON.stringify({...found, enlarged: images[0].clientWidth, sideways_then: sideways()});
})</script>"""


def browse(page_file, profile, *options):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += ["--enable-logging=stderr", f"--user-data-dir={profile}", *options, f"file://{page_file}"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in run.stderr
    return run.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no browser installed")
@pytest.mark.parametrize("width", [360, 390, 1200])
def test_a_browser_shows_every_image_without_errors_or_sideways_scrolling(results, tmp_path, width):
    """The page is looked at in a frame: a browser's own window does not get as narrow as a phone's."""
    written = html_report.write(results, "smoke", HEADS, {})
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.replace("WIDTH", str(width)).replace("PAGE", html.escape(written.read_text())))
    shown = browse(probe, tmp_path / "profile", "--dump-dom", "--window-size=1300,900")
    found = json.loads(html.unescape(re.search("<title>(.*?)</title>", shown)[1]))
    assert found["smallest"] >= 12
    del found["smallest"]
    still = {"shown": 4, "inside": 4, "sideways": False, "sideways_then": False}
    assert found == {**still, "enlarged": 768}  # a click gives 1024 pixels of 160 an inch three quarters of a CSS pixel


@pytest.mark.skipif(CHROMIUM is None, reason="no browser installed")
def test_in_print_what_was_run_begins_a_page_and_what_was_not_shares_one(results, tmp_path):
    heads = [*HEADS, *(dataclasses.replace(HEADS[2], name=f"absent_{i}") for i in range(3))]
    written = html_report.write(results, "smoke", heads, {})
    browse(written, tmp_path / "profile", f"--print-to-pdf={tmp_path / 'page.pdf'}")
    printed = (tmp_path / "page.pdf").read_bytes()
    summary, runs, not_run = 1, 2 * 2, 1  # two figures, claims and settings take two pages; what was not run shares one
    assert len(re.findall(rb"/Type /Page\b", printed)) == summary + runs + not_run


def order(out, **changes):
    return dataclasses.replace(run_all.Order("smoke", 0, out, 2, False), **changes)


@pytest.fixture
def registered(monkeypatch):
    for name in ("toy", "timed"):
        module = types.ModuleType(f"experiments.{name}.experiment")
        module.EXPERIMENT = toy(name)
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.usefixtures("registered")
def test_only_the_same_settings_and_code_count_as_done(results, monkeypatch):
    assert run_all.done_before("toy", order(results)) == 1  # one of its claims fails
    assert run_all.done_before("toy", order(results, seed=1)) is None
    assert run_all.done_before("toy", order(results, preset="laptop")) is None
    monkeypatch.setattr(storage, "source_digest", lambda: "other code")
    assert run_all.done_before("toy", order(results)) is None


@pytest.mark.usefixtures("registered")
def test_one_that_fails_stops_no_other_and_what_measures_runs_last_and_alone(results, monkeypatch):
    """The processes are replaced by a record of their starts; `absent` ends without a result."""
    (results / "toy" / "smoke" / storage.CONFIG_FILE).unlink()
    started = []

    class Process:
        def __init__(self, command, **_):
            started.append(command[2])
            name = command[2].removeprefix("experiments.")
            if name != "absent":
                execute(toy(name), commandline.Command("smoke", results, Config()))

        def wait(self, timeout=None):
            return 1

        def terminate(self):
            raise AssertionError("nothing is left to stop")

    monkeypatch.setattr(subprocess, "Popen", Process)
    lines = []
    outcomes = run_all.run(HEADS, order(results, again=True), lines.append)
    assert started[-1] == "experiments.timed"
    assert sorted(started[:2]) == ["experiments.absent", "experiments.toy"]
    assert [(o.name, o.finished) for o in outcomes] == [("toy", True), ("timed", True), ("absent", False)]
    assert any("absent: did not finish (exit status 1); see" in line for line in lines)

    started.clear()
    again = run_all.run(HEADS[:2], order(results), lines.append)
    assert started == []
    assert [outcome.seconds for outcome in again] == [0, 0]
    assert lines[-1].endswith("1 holds: 1 theory; 1 fails: 1 paper (smoke), done before")


@pytest.mark.parametrize(
    ("statuses", "finished", "expected"),
    [((0, 0), (True, True), 0), ((0, 1), (True, True), 1), ((1, 3), (True, False), 3), ((0, 2), (True, False), 3)],
)
def test_all_ends_with_what_its_experiments_ended_with(tmp_path, monkeypatch, capsys, statuses, finished, expected):
    outcomes = [
        run_all.Outcome(head.name, status, done, 1.0)
        for head, status, done in zip(HEADS, statuses, finished, strict=False)
    ]
    monkeypatch.setattr("experiments.framework.catalogue.heads", lambda: HEADS[:2])
    monkeypatch.setattr(run_all, "run", lambda heads, order, say: outcomes)
    assert list_main(["--all", "--jobs", "1", "--out", str(tmp_path)]) == expected
    assert "running 2 experiments" in capsys.readouterr().out


def test_an_interrupt_stops_what_is_running(tmp_path):
    class Interrupted(Exception):
        pass

    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    statuses = []

    def interrupted():
        with run_all._processes() as start:
            thread = threading.Thread(target=lambda: statuses.append(start(command, tmp_path / "log")))
            thread.start()
            time.sleep(0.5)
            raise Interrupted(thread)

    with pytest.raises(Interrupted) as stop:
        interrupted()
    (thread,) = stop.value.args
    thread.join(10)
    assert statuses == [-15]


def test_a_run_records_the_order_of_its_figures(results):
    config = json.loads((results / "toy" / "smoke" / storage.CONFIG_FILE).read_text())
    assert config["figures"] == ["overview", "close_up"]
    assert len(config["source"]) == 64


@pytest.mark.parametrize(("preset", "jobs"), [("smoke", 6), ("laptop", 3), ("paper", 3)])
def test_smoke_runs_get_a_core_each_and_others_two(monkeypatch, preset, jobs):
    monkeypatch.setattr(run_all.os, "cpu_count", lambda: 6)
    monkeypatch.setattr("jax.default_backend", lambda: "cpu")
    assert run_all.default_jobs(preset) == jobs
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert run_all.default_jobs(preset) == 1


@pytest.mark.parametrize("columns", [60, 80, 150])
def test_the_list_fits_the_terminal_and_breaks_no_word(results, capsys, monkeypatch, columns):
    heads = [dataclasses.replace(HEADS[0], name="a_name_of_some_length", figure="Fig. 1 " * 20), HEADS[2]]
    monkeypatch.setattr("experiments.framework.catalogue.heads", lambda: heads)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    (results / "toy").rename(results / "a_name_of_some_length")
    assert list_main(["--out", str(results)]) == 0
    lines = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= columns
    for words in ("a_name_of_some_length", "1 holds: 1 theory", "not run", "Nobody 2000"):
        assert any(words in line for line in lines)


def test_help_keeps_the_fields_of_a_head_on_lines_of_their_own(capsys):
    head = "Title.\n\nPaper:    A 2010\nFigure: 3, and\n          4\npython -m x    runs\npython -m x.y  runs y\n"
    with pytest.raises(SystemExit):
        commandline.read("x", head, Config(), ["--help"])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert {"Paper:    A 2010", "Figure: 3, and", "python -m x    runs", "python -m x.y  runs y"} <= set(lines)
