"""Public names: one table, the same for type checkers, each with a docstring, and every one that README mentions."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from typing import Any

import pytest

import gradflow as gf

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gradflow"
# Their `__all__` comes with their rewriting.
EXEMPT = ("instrument", "nonfinite")


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


PUBLIC = [
    module_name(f)
    for f in sorted(PACKAGE.rglob("*.py"))
    if not any(part.startswith("_") and part != "__init__.py" for part in f.relative_to(PACKAGE).parts)
    and not any(part.removesuffix(".py") in EXEMPT for part in f.relative_to(PACKAGE).parts)
]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("package", ["gradflow", "gradflow.live", "gradflow.theory"])
def test_type_checkers_see_the_table_of_names(package: str) -> None:
    module = importlib.import_module(package)
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    checked = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    imported = {
        alias.name: "" if node.module == package else node.module
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == module._HOMES
    assert sorted(module.__all__) == dir(module) == sorted(imported)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'; it has"):
        _ = module.nothing


@pytest.mark.parametrize("name", PUBLIC)
def test_all_names_what_a_module_offers(name: str) -> None:
    """Every public function and class that it defines, and nothing that it does not have."""
    module = importlib.import_module(name)
    if not hasattr(module, "__all__"):
        assert len(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8")).body) == 1, "more than a docstring"
        return
    assert len(set(module.__all__)) == len(module.__all__)
    for offered in module.__all__:
        assert hasattr(module, offered), offered
    own = {
        n
        for n, value in vars(module).items()
        if not n.startswith("_") and getattr(value, "__module__", None) == name and hasattr(value, "__qualname__")
    }
    assert own <= set(module.__all__)


def resolve(path: str) -> Any:
    """The object behind `gf.a.b`; what follows a class or a function is an attribute of its own."""
    value: Any = gf
    for piece in path.split(".")[1:]:
        try:
            value = getattr(value, piece)
        except AttributeError:
            value = importlib.import_module(f"{value.__name__}.{piece}")
    return value


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda f: str(f.relative_to(ROOT)))
def test_every_name_in_the_documentation_exists(document: Path) -> None:
    found = sorted(set(re.findall(r"\bgf(?:\.[A-Za-z_]\w*)+", document.read_text(encoding="utf-8"))))
    assert found or document != ROOT / "README.md"
    for path in found:
        assert resolve(path) is not None, path
