"""Examples in README and in docs: the Python blocks of a page run in order; a text block behind one is what it prints.

`python -m tests.house.documents` runs them all and writes the text blocks anew.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import warnings
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("COLUMNS", "100")

import jax

ROOT = Path(__file__).parents[2]
# Results are written by `experiments.gallery`, and api and project hold no text of their own.
WRITTEN_ELSEWHERE = {"results", "api", "project"}
PAGES = [
    ROOT / "README.md",
    *sorted(
        page
        for page in (ROOT / "docs").rglob("*.md")
        if page.relative_to(ROOT / "docs").parts[0] not in WRITTEN_ELSEWHERE
    ),
]
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    """Return the path of a page inside the repository."""
    return str(page.relative_to(ROOT))


def run(text: str) -> list[tuple[re.Match[str], str]]:
    """Run the Python blocks of a page, under JAX's own settings.

    Args:
        text: of the page.

    Returns:
        Its text blocks, and what the Python block before each has printed.
    """
    scope: dict[str, object] = {"__name__": "page"}
    printed, out = "", []
    with jax.numpy_dtype_promotion("standard"), jax.debug_nans(False), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # frameworks warn where they are imported
        for block in BLOCK.finditer(text):
            kind, content = block.groups()
            if kind == "text":
                out.append((block, printed))
                continue
            with contextlib.redirect_stdout(io.StringIO()) as stream:
                exec(compile(content, f"<block at {block.start()}>", "exec", dont_inherit=True), scope)
            printed = stream.getvalue()
    return out


def rewritten(text: str) -> str:
    """Return a page with what its blocks print now.

    Args:
        text: of the page.
    """
    for block, printed in reversed(run(text)):
        text = f"{text[: block.start(2)]}{printed}{text[block.end(2) :]}"
    return text


if __name__ == "__main__":
    for page in [Path(name) for name in sys.argv[1:]] or PAGES:
        page.write_text(rewritten(page.read_text(encoding="utf-8")), encoding="utf-8")
        print(page)
