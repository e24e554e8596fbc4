"""Frozen dataclasses as pytrees that JAX may fill with anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax

__all__ = ["Class", "pytree"]

Class = TypeVar("Class", bound=type)


def pytree(*static: str) -> Callable[[Class], Class]:
    """Register a frozen dataclass as a pytree.

    Unlike `jax.tree_util.register_dataclass` it does not call the constructor to put a tree together again: JAX
    fills trees with tracers, axes and placeholders, which are no arrays and must not be checked as such. Where fields
    are arrays, which neither compare nor hash, the class wants `eq=False`.

    Args:
        static: fields that are no arrays: hashable, part of what a program is compiled for.
    """

    def register(cls: Class) -> Class:
        leaves = tuple(field.name for field in dataclasses.fields(cls) if field.name not in static)

        def flatten(tree: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            return tuple(getattr(tree, name) for name in leaves), tuple(getattr(tree, name) for name in static)

        def unflatten(fixed: tuple[Any, ...], children: tuple[Any, ...]) -> Any:
            tree: Any = object.__new__(cls)
            for name, value in zip(leaves + static, (*children, *fixed), strict=True):
                object.__setattr__(tree, name, value)
            return tree

        jax.tree_util.register_pytree_node(cls, flatten, unflatten)
        return cls

    return register
