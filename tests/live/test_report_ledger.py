"""Ledger and verdict over training: what the report shows of diagnoses is what was written."""

from __future__ import annotations

import json
import re

import jax
import jax.numpy as jnp
import pytest

import gradflow as gf
from gradflow.live.jsonl import read_jsonl
from gradflow.live.reporting.diagnoses import judged
from tests.live.test_report import Page, page_of, simple


def diagnosis(step, gains, findings=()):
    entries = [{"cause": cause, "where": where, "operation": "dot", "log10_gain": gain} for cause, where, gain in gains]
    return {"line": "diagnosis", "step": step, "findings": list(findings), "ledger": {"entries": entries}}


SICK = {
    "kind": "dead_units", "severity": "fatal", "confidence": "likely", "layers": ["<b>", *"cdefg"], "cause": "a bias",
}  # fmt: skip


def test_ledger_and_verdict_are_those_that_were_written(tmp_path):
    first = diagnosis(
        0, [("loss", "loss", 3.0), ("weights", "b", -1.0), ("time", "b", None), ("weights", "a", -2.5)], [SICK]
    )
    later = diagnosis(9, [("loss", "loss", 3.0), ("weights", "b", 0.25), ("skip", "a", "-Infinity")])
    path = simple(tmp_path / "a.jsonl", events=[later, first])
    text, page = page_of(path, tmp_path)
    section = text.partition('<section id="verdict">')[2].partition("</section>")[0]
    assert page.found["li"][1:3] == [
        "step 0: dead units at <b>, c, d, e and 2 more (fatal, likely). A bias.", "step 9: healthy",
    ]  # fmt: skip
    titles = Page(section).found["title"]
    assert {
        "in total, step 0: -3.5", "weights, step 0: -3.5", "in total, step 9: -Inf", "weights, step 9: 0.25",
        "skip, step 9: -Inf", "a: dot, step 0: -2.5", "b: dot (2), step 0: -1", "b: dot, step 0: no number",
        "loss: dot, step 9: 3", "a: dot, step 9: -Inf",
    } <= set(titles)  # fmt: skip
    assert "skip, step 0: 0" not in titles
    assert "linear" in section
    assert not re.search(r'"[^"]*\b(nan|inf)\b[^"]*"', re.sub(r"<title>.*?</title>", "", section.replace("gf-inf", "")))


def test_alarms_stand_beside_their_steps(tmp_path):
    path = simple(tmp_path / "a.jsonl")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        if line["line"] == "record":
            line["alarms"] = ["<b> is dead"] if line["step"] else []
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    _, page = page_of(path, tmp_path)
    assert "Alarms stand at 2 of 3 records." in page.found["p"]
    assert page.found["td"].count("<b> is dead") == 2


@pytest.mark.slow
def test_a_real_diagnosis_adds_up_to_its_book(tmp_path):
    keys = jax.random.split(jax.random.key(0), 3)
    params = {name: jax.random.normal(key, (8, 8)) / 8 for name, key in zip("abc", keys, strict=True)}

    def loss(params, x):
        for w in params.values():
            x = jnp.tanh(x @ w)
        return jnp.mean(jnp.square(x - 1))

    d = gf.diagnose(loss, params, jax.random.normal(jax.random.key(1), (16, 8)), progress=False)
    log = gf.live.Jsonl(tmp_path / "a.jsonl")
    log.write_diagnosis(d, 7)
    log.close()
    one = judged(read_jsonl(tmp_path / "a.jsonl").diagnoses[0])
    assert one.causes == pytest.approx(d.book.by_cause)
    assert sum(one.causes.values()) == pytest.approx(d.book.total)
    _, page = page_of(tmp_path / "a.jsonl", tmp_path)
    assert f"in total, step 7: {d.book.total:.4g}" in page.found["title"]
    assert "0 records" in page.found["li"][0]
