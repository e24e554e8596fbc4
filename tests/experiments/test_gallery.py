"""The pages of results come from results, and from nowhere else."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from experiments.framework import catalogue, gallery
from experiments.framework.catalogue import Head
from experiments.framework.claims import Claim, theory

HEAD = Head("toy", "A toy | and its claims.", "Nobody 2000", "1", "1", "nothing", False)
ROOT = Path(__file__).parents[2]


def result(folder, seed, measured, claim="|x| < 1"):
    folder = folder / "toy" / "laptop"
    folder.mkdir(parents=True)
    record = Claim("c", claim, theory("s", 0.5, low=0, high=1), measured).record()
    (folder / "claims.json").write_text(json.dumps([record]))
    config = {"config": {"seed": seed}, "figures": ["first", "second"], "seconds": 60.0 * (seed + 1)}
    (folder / "config.json").write_text(json.dumps(config))
    figure = Figure(figsize=(10, 5))
    figure.subplots().plot([1, 2])
    figure.savefig(folder / "figure_first.png", dpi=160)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "PAGES", tmp_path / "pages")
    monkeypatch.setattr(gallery.catalogue, "heads", lambda: [HEAD])
    for seed, measured in enumerate((0.5, 0.25, 1.5)):
        result(tmp_path / f"seed{seed}", seed, measured)
    return tmp_path


def pages(root):
    return {file.name: file.read_bytes() for file in (root / "pages").iterdir()}


def test_a_page_has_the_figure_the_command_the_minutes_and_claims_over_seeds(root):
    seeds = [str(root / f"seed{seed}") for seed in range(3)]
    assert gallery.main(["--seeds", *seeds]) == 0
    first = pages(root)
    assert set(first) == {"toy.md", "toy.png", "index.md"}
    text, index = first["toy.md"].decode(), first["index.md"].decode()
    assert "(toy.png)" in text
    assert "python -m experiments.toy\n" in text
    assert "**Minutes:** 1 on two cores; 2.0 in the run shown here." in text
    assert "| \\|x\\| &lt; 1 | s | theory | 0 … 1 | 0.5 | 0.25 | 1.5 | -100 % | **2 of 3** |" in text
    assert "**Claims:** on seeds 0, 1 and 2, 1 fails: 1 theory." in text
    assert "|  | 0 of 1 |  |  | on seeds 0, 1 and 2, 1 fails: 1 theory | 1 |" in index
    assert 'src="toy.png" width="260"' in index
    assert "[toy](toy.md): A toy \\| and its claims." in index
    with Image.open(root / "pages" / "toy.png") as image:
        assert image.width == gallery.WIDTH
    assert gallery.main(["--seeds", *seeds]) == 0
    assert pages(root) == first


def test_one_seed_is_a_column_of_its_own(root):
    assert gallery.main(["--out", str(root / "seed2")]) == 0
    text = (root / "pages" / "toy.md").read_text()
    assert "| claim | source | basis | band | seed 2 | margin | holds |" in text
    assert "| 1.5 | -100 % | **no** |" in text


def test_a_head_says_which_machine_took_the_minutes():
    machines = {head.name: head.machine for head in catalogue.heads()}
    assert (machines["recurrent"], machines["vanishing"]) == ("one core", "two cores")


def test_the_page_says_which_machine_took_the_minutes(root, monkeypatch):
    monkeypatch.setattr(gallery.catalogue, "heads", lambda: [dataclasses.replace(HEAD, machine="one core")])
    assert gallery.main(["--out", str(root / "seed0")]) == 0
    assert "**Minutes:** 1 on one core; 1.0 in the run shown here." in (root / "pages" / "toy.md").read_text()


def test_tables_of_the_first_run_stand_on_the_page_the_shortest_first(root):
    for name, text in (("networks", "| long | table |\n|---|---|\n"), ("rates", "| short |\n|---|\n")):
        (root / "seed0" / "toy" / "laptop" / f"{name}.md").write_text(text)
    assert gallery.main(["--out", str(root / "seed0")]) == 0
    text = (root / "pages" / "toy.md").read_text()
    assert "\n\n## Rates\n\n| short |\n|---|\n\n## Networks\n\n| long | table |\n|---|---|\n\n[All exp" in text


def test_an_experiment_without_new_results_keeps_its_page(root, monkeypatch):
    other, without = (dataclasses.replace(HEAD, name=name) for name in ("other", "without"))
    monkeypatch.setattr(gallery.catalogue, "heads", lambda: [other, HEAD, without])
    (root / "pages").mkdir()
    (root / "pages" / "other.md").write_text(
        "its own\n\n**Claims:** on seed 5, 3 hold: 1 paper, 2 pilot; 1 fails: 1 pilot.\n"
    )
    assert gallery.main(["--out", str(root / "seed0")]) == 0
    assert (root / "pages" / "other.md").read_text().startswith("its own")
    index = (root / "pages" / "index.md").read_text()
    assert re.findall(r"\]\((\w+).md\)", index) == ["other", "toy"]
    assert "| 1 of 1 |  | 2 of 3 |  | on seed 5, 3 hold: 1 paper, 2 pilot; 1 fails: 1 pilot |" in index


def test_the_cost_of_the_preset_paper_stands_on_new_pages_and_on_kept_ones(root, monkeypatch):
    first = dataclasses.replace(HEAD, paper_cost="10^6 steps of .03 s, 8 hours")
    monkeypatch.setattr(gallery.catalogue, "heads", lambda: [first])
    assert gallery.main(["--out", str(root / "seed0")]) == 0
    page = root / "pages" / "toy.md"
    text = page.read_text()
    line = "**Minutes:** 1 on two cores; 1.0 in the run shown here.\\\n**Preset `paper`:** {}.\n\n**Expected:**"
    assert line.format(first.paper_cost) in text
    second, other = dataclasses.replace(first, paper_cost="3 days"), dataclasses.replace(HEAD, name="other")
    monkeypatch.setattr(gallery.catalogue, "heads", lambda: [second, other])
    (root / "seed0" / "toy").rename(root / "seed0" / "other")
    assert gallery.main(["--out", str(root / "seed0")]) == 0
    assert page.read_text() == text.replace(first.paper_cost, "3 days")
    assert "Preset" not in (root / "pages" / "other.md").read_text()


@pytest.mark.parametrize("head", [head for head in catalogue.heads() if not head.alone], ids=lambda head: head.name)
def test_the_preset_paper_says_what_it_costs_in_numbers(head):
    """How long, and a number before that from which it follows: steps and seconds a step, or networks."""
    assert re.search(r"\d.* [\d.]+ (minutes|hours|days|months|years)\b", head.paper_cost), head.paper_cost
    page = (ROOT / "docs" / "results" / f"{head.name}.md").read_text(encoding="utf-8")
    assert f"**Preset `paper`:** {head.paper_cost}." in page


def test_missing_results_and_claims_that_differ_between_seeds_are_bad_usage(root, capsys):
    assert gallery.main(["--out", str(root / "nowhere")]) == 2
    assert "python -m experiments --all makes them" in capsys.readouterr().err
    assert gallery.main(["--seeds", str(root / "seed0"), str(root / "nowhere")]) == 2
    assert "toy: expected the same claims on each of 2 seeds" in capsys.readouterr().err
    assert not (root / "pages").exists()


def test_every_experiment_has_a_page_whose_links_lead_somewhere():
    pages = ROOT / "docs" / "results"
    index = (pages / "index.md").read_text(encoding="utf-8")
    for head in catalogue.heads():
        text = (pages / f"{head.name}.md").read_text(encoding="utf-8")
        assert f"({head.name}.md)" in index
        assert f"python -m experiments.{head.name}\n" in text
        for target in re.findall(r"\]\(([\w./]+)\)", text):
            assert (pages / target).exists(), target
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "(docs/results/index.md)" in readme
