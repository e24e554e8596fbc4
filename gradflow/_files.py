"""Files that are either old or whole, never a part."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, text: str, errors: str = "strict") -> None:
    """Write a text under a temporary name beside its place, then rename it; a pipe or a device is written to as it is.

    Args:
        path: of the file; its folder has to be there.
        text: in UTF-8.
        errors: what is done with a character that UTF-8 cannot hold, as in `str.encode`.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        path.write_text(text, encoding="utf-8", errors=errors)
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8", errors=errors)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
