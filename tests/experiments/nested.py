"""Results made up for tests, and results with something changed deep inside."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from typing import Any

import numpy as np


def made(kind: Any, values: dict[str, Any]) -> Any:
    """Make results of a kind from values at some paths, such as "training.loss"; all else is NaN."""
    hints = typing.get_type_hints(kind)
    found = {field.name: _part(hints[field.name], field.name, values) for field in dataclasses.fields(kind)}
    return kind(**found)


def _part(kind: Any, name: str, values: dict[str, Any]) -> Any:
    if name in values:
        return values[name]
    inner = {path.removeprefix(f"{name}."): value for path, value in values.items() if path.startswith(f"{name}.")}
    if dataclasses.is_dataclass(kind):
        return made(kind, inner)
    if typing.get_origin(kind) is dict:
        keys = dict.fromkeys(path.partition(".")[0] for path in inner)
        key_kind, value_kind = typing.get_args(kind)
        return {key_kind(key): _part(value_kind, key, inner) for key in keys}
    return np.nan


def replaced(results: Any, changes: dict[str, Any]) -> Any:
    """Return a copy of results with other values at some paths."""
    for path, value in changes.items():
        name, _, rest = path.partition(".")
        new = replaced(_get(results, name), {rest: value}) if rest else value
        if isinstance(results, dict):
            results = results | {_key(results, name): new}
        else:
            results = dataclasses.replace(results, **{name: new})
    return results


def changed(results: Any, path: str, change: Callable[[Any], Any]) -> Any:
    """Return a copy of results with the value at a path changed."""
    value = results
    for name in path.split("."):
        value = _get(value, name)
    return replaced(results, {path: change(value)})


def _get(results: Any, name: str) -> Any:
    return results[_key(results, name)] if isinstance(results, dict) else getattr(results, name)


def _key(results: dict[Any, Any], name: str) -> Any:
    """Return the key that is written like this, which may be a number."""
    return next((key for key in results if str(key) == name), name)
