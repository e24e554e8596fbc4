"""`python -m gradflow diagnose`: exit status, files, and one line for each kind of bad usage."""

from __future__ import annotations

import json

import pytest

from gradflow.__main__ import main

MODULE = """
import jax, jax.numpy as jnp, optax

x = jax.random.normal(jax.random.key(0), (16, 8))

def problem(scale=2 ** 0.5):
    keys = jax.random.split(jax.random.key(1), 8)
    params = {f"layer_{k}": scale * jax.random.normal(key, (8, 8)) / 8 ** 0.5 for k, key in enumerate(keys)}
    def loss(params, x):
        for w in params.values():
            x = jax.nn.relu(x @ w)
        return jnp.mean((x - 1) ** 2)
    return loss, params, (x,)

sick = lambda: problem(0.2)
with_optimizer = lambda: (*problem(), {"optimizer": optax.sgd(1e-2), "steps": 2})
bare = lambda: problem()[0]
not_a_tuple = lambda: (*problem()[:2], x)
wrong_options = lambda: (*problem(), 3)
wrong_argument = lambda: (*problem(), {"step": 3, "optimiser": None})
fails = lambda: 1 / 0
fails_inside = lambda: (lambda params, x: 1 / 0, *problem()[1:])
number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_module.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_module", raising=False)
    return tmp_path


@pytest.mark.parametrize(("name", "status"), [("problem", 0), ("sick", 1), ("with_optimizer", 0)])
def test_status(module, name, status, capsys):
    assert main(["diagnose", f"my_module:{name}", "--json", "d.json", "--html", "d.html"]) == status
    assert capsys.readouterr().out.startswith("1. The gradient vanishes" if status else "Healthy.")
    assert json.loads((module / "d.json").read_text(encoding="utf-8"))["healthy"] is (status == 0)
    assert (module / "d.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert {path.name for path in module.glob("*.*")} == {"d.json", "d.html", "my_module.py"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["my_module"], "expected MODULE:FUNCTION"),
        (["my_modul:problem"], "no module is called"),
        (["my_module:problm"], "did you mean 'problem'"),
        (["my_module:number"], "unknown function"),
        (["my_module:bare"], "expected it to return (loss_fn, params, args), got function"),
        (["my_module:not_a_tuple"], "(x,) for a single argument"),
        (["my_module:wrong_options"], "expected a dict"),
        (["my_module:problem", "--html", "nowhere/d.html"], "make the folder"),
    ],
)
def test_bad_usage_is_one_line(module, arguments, words, capsys):
    assert main(["diagnose", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("name", ["fails", "fails_inside"])
def test_code_that_fails_is_told_apart(module, name, capsys):
    assert main(["diagnose", f"my_module:{name}"]) == 3
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_list_of_commands(capsys):
    assert main([]) == 0
    assert "diagnose MODULE:FUNCTION" in capsys.readouterr().out
    assert main(["diagnos"]) == 2
    assert "did you mean 'diagnose'" in capsys.readouterr().err
