"""The report as a command, and of files of every kind."""

from __future__ import annotations

import os
import threading

import pytest

from gradflow.__main__ import main
from tests.live.test_report import layer, simple, written


def test_the_command_writes_a_page_and_says_where(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    simple(tmp_path / "a.jsonl")
    assert main(["report", "a.jsonl"]) == 0
    assert capsys.readouterr().out == "report.html\n"
    assert main(["report", "a.jsonl", "a.jsonl", "--out", "two.html"]) == 0
    text = (tmp_path / "two.html").read_text(encoding="utf-8")
    assert "a.jsonl (1): Forward rms" in text
    assert "a.jsonl (2): Forward rms" in text
    assert {p.name for p in tmp_path.iterdir()} == {"a.jsonl", "report.html", "two.html"}


def test_a_folder_stands_for_its_newest_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("runs/a/old.jsonl", "runs/a/run.jsonl", "runs/b/run.jsonl")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        os.utime(simple(tmp_path / name), (number, number))
    assert main(["report", "runs/a", "runs/b"]) == 0
    assert capsys.readouterr().out == "report.html\n"
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<li>a/run.jsonl: 3 records" in text
    assert "<li>b/run.jsonl: 3 records" in text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name")
def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    path, pipe, read = simple(tmp_path / "a.jsonl"), tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text(encoding="utf-8")), daemon=True)
    reader.start()
    assert main(["report", str(path), "--out", str(pipe)]) == 0
    assert pipe.is_fifo()
    reader.join(30)
    assert read[0].startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["b.jsonl"], "got b.jsonl, which is not there"),
        ([], "expected a run, got none"),
        (["empty"], "expected a run, got the folder empty without a file"),
        (["empty.jsonl"], "killed before its first record"),
        (["a.jsonl", "--out", "nowhere/x.html"], "Fix: make the folder"),
        (["a.jsonl", "--out", "a.jsonl"], "expected another file"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    simple(tmp_path / "a.jsonl")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "empty").mkdir()
    assert main(["report", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("python -m gradflow report: ")
    assert said.count("\n") == 1
    assert words in said
    assert {p.name for p in tmp_path.iterdir()} == {"a.jsonl", "empty.jsonl", "empty"}


def test_a_page_that_cannot_be_written_is_status_1(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    simple(tmp_path / "a.jsonl")
    (tmp_path / "folder.html").mkdir()
    assert main(["report", "a.jsonl", "--out", "folder.html"]) == 1
    assert "folder.html could not be written" in capsys.readouterr().err
    assert {p.name for p in tmp_path.iterdir()} == {"a.jsonl", "folder.html"}


def test_runs_with_other_layers_and_one_of_a_single_record_stand_side_by_side(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    simple(tmp_path / "a.jsonl")
    written(tmp_path / "b.jsonl", {0: [layer(0, "other", (1.0, "NaN", None, 0.0))]})
    assert main(["report", "a.jsonl", "b.jsonl"]) == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "b: 1 record, step 0, 1 row of layers" in text
    assert "other, step 0: NaN" in text
    assert "last, step 10: " in text
