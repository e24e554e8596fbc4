"""README's gallery and BUILD_NOTES' claims come from results, and from nowhere else."""

from __future__ import annotations

import dataclasses
import json

import pytest
from matplotlib.figure import Figure
from PIL import Image

from experiments.framework import gallery
from experiments.framework.catalogue import Head

HEAD = Head("toy", "A toy | and its claims.", "Nobody 2000", "1", "1", "nothing", False)


def result(folder, seed, measured):
    folder = folder / "toy" / "laptop"
    folder.mkdir(parents=True)
    claim = {"claim": "|x| < 1", "source": "s", "expected": [0, 1], "measured": measured, "tolerance": "t"}
    (folder / "claims.json").write_text(json.dumps([claim | {"holds": measured < 1}]))
    (folder / "config.json").write_text(json.dumps({"config": {"seed": seed}, "figures": ["first", "second"]}))
    figure = Figure(figsize=(10, 5))
    figure.subplots().plot([1, 2])
    figure.savefig(folder / "figure_first.png", dpi=160)


@pytest.fixture
def root(tmp_path, monkeypatch):
    for name, part in (("README.md", "gallery"), ("BUILD_NOTES.md", "claims")):
        marks = gallery.BEGIN.format(part), gallery.END.format(part)
        (tmp_path / name).write_text(f"before\n{marks[0]}\nold \\1\n{marks[1]}\nafter\n")
    monkeypatch.setattr(gallery, "ROOT", tmp_path)
    monkeypatch.setattr(gallery, "IMAGES", tmp_path / "images")
    monkeypatch.setattr(gallery.catalogue, "heads", lambda: [HEAD])
    for seed, measured in enumerate((0.5, 0.25, 1.5)):
        result(tmp_path / f"seed{seed}", seed, measured)
    return tmp_path


def test_both_files_are_written_between_their_marks_and_stay_the_same_when_made_again(root):
    seeds = [str(root / f"seed{seed}") for seed in range(3)]
    texts = []
    for _ in range(2):
        assert gallery.main(["--out", seeds[0], "--seeds", *seeds]) == 0
        texts.append([(root / name).read_text() for name in ("README.md", "BUILD_NOTES.md")])
    assert texts[0] == texts[1]
    readme, notes = texts[0]
    assert readme.startswith("before\n")
    assert readme.endswith("after\n")
    assert "\\1" not in readme + notes
    assert "(images/toy.png)" in readme
    assert "1 of 1 claims hold" in readme
    assert "| \\|x\\| &lt; 1 | 0 … 1 | 0.5 | 0.25 | 1.5 | t | **2 of 3** |" in notes
    with Image.open(root / "images" / "toy.png") as image:
        assert image.width == gallery.WIDTH


def test_an_experiment_without_new_results_keeps_its_section(root, monkeypatch):
    before, after = (dataclasses.replace(HEAD, name=name) for name in ("other", "zero"))
    monkeypatch.setattr(gallery.catalogue, "heads", lambda: [before, HEAD, after])
    for file, level, part in (("README.md", "### ", "gallery"), ("BUILD_NOTES.md", "#### ", "claims")):
        marks = gallery.BEGIN.format(part), gallery.END.format(part)
        (root / file).write_text(f"{marks[0]}\n{level}zero\n\nits\n\ntable\n\n{level}toy\n\nearlier one\n{marks[1]}\n")
    seeds = [str(root / f"seed{seed}") for seed in range(3)]
    assert gallery.main(["--out", seeds[0], "--seeds", *seeds]) == 0
    for file, level in (("README.md", "### "), ("BUILD_NOTES.md", "#### ")):
        text = (root / file).read_text()
        assert "earlier one" not in text
        assert [line for line in text.splitlines() if line.startswith("#")] == [f"{level}toy", f"{level}zero"]
        assert f"\n\n{level}zero\n\nits\n\ntable\n<!--" in text


def test_missing_results_and_missing_marks_are_named(root, capsys):
    assert gallery.main(["--out", str(root / "nowhere")]) == 2
    assert "make them: python -m experiments --all" in capsys.readouterr().err
    (root / "README.md").write_text("no marks")
    assert gallery.main(["--out", str(root / "seed0")]) == 2
    assert "needs the marks" in capsys.readouterr().err
    assert (root / "README.md").read_text() == "no marks"
