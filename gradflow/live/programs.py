"""A step function compiled twice, without and with the flow, and chosen on the host."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow.instrument import FlowError
from gradflow.live.record import Record

__all__ = ["Programs", "Tracing", "host_step", "records", "tracing"]

_LAST = 2**31 - 1  # of the steps that 32 bits can count


class Tracing:
    """That a step function is being traced for one of the two programs.

    Attributes:
        watch: whose.
        recording: whether this program holds the flow.
        used: whether the watch was called.
    """

    def __init__(self, watch: Any, recording: bool) -> None:
        self.watch, self.recording, self.used = watch, recording, False


_CURRENT: contextvars.ContextVar[Tracing | None] = contextvars.ContextVar("gradflow_tracing", default=None)


def tracing(watch: Any) -> Tracing | None:
    """Return what a step function that calls a watch is being traced for; None outside of `watch.jit`.

    Args:
        watch: the one that is called.
    """
    current = _CURRENT.get()
    return current if current is not None and current.watch is watch else None


@contextlib.contextmanager
def _traced_for(watch: Any, recording: bool) -> Iterator[Tracing]:
    current = Tracing(watch, recording)
    token = _CURRENT.set(current)
    try:
        yield current
    finally:
        _CURRENT.reset(token)


class Programs:
    """A step function that runs as one of two compiled programs.

    A step whose number the host knows, an integer passed as `step`, is recorded where that is a multiple of `every`.
    Otherwise the first call is recorded, the number of its step is read, once, and further calls are counted from it.

    Attributes:
        plain: the program without the flow.
        recording: the program with it.
    """

    def __init__(self, watch: Any, fun: Callable[..., Any], jit: Callable[..., Any], options: dict[str, Any]) -> None:
        self._watch, self._every = watch, watch.every
        self._position = _position_of_step(fun)
        self._traces_integers = _traces_integers(jit)
        self.plain, self.recording = (jit(_traceable(watch, fun, on), **options) for on in (False, True))
        self._next: int | None = None
        functools.update_wrapper(self, fun)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the step.

        Args:
            *args: of the step function.
            **kwargs: likewise.
        """
        step = self._step(args, kwargs)
        if step is None and self._next is None:
            out = self.recording(*args, **kwargs)
            self._next = int(np.asarray(records(out)[0].step)) + 1
            return out
        number = step if step is not None else self._next
        assert number is not None
        self._next = number + 1
        if step is not None and not self._traces_integers:
            args, kwargs = self._with_array(step, args, kwargs)
        return (self.plain if number % self._every else self.recording)(*args, **kwargs)

    def _step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
        if self._position is None:
            return None
        step = kwargs.get("step", args[self._position] if self._position < len(args) else None)
        return host_step(step) if isinstance(step, (int, np.integer)) else None

    def _with_array(self, step: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the arguments with the step as an array, so that it is no constant of the program."""
        number, at = jnp.asarray(step, jnp.int32), self._position
        if at is None or "step" in kwargs:
            return args, {**kwargs, "step": number}
        return (*args[:at], number, *args[at + 1 :]), kwargs


def host_step(step: Any) -> int:
    """Return the number of a step that the host knows.

    Args:
        step: an integer of any kind.

    Raises:
        ValueError: for one that 32 bits cannot count.
    """
    number = int(step)
    if abs(number) > _LAST:
        raise ValueError(
            f"watch: expected the number of a step, at most {_LAST}, got {number}. Likely cause: examples or tokens "
            "are counted. Fix: count steps"
        )
    return number


def _traces_integers(jit: Callable[..., Any]) -> bool:
    """Tell whether Python integers are arguments of the program; `equinox.filter_jit` compiles one for each."""
    while isinstance(jit, functools.partial):
        jit = jit.func
    return str(getattr(jit, "__module__", "")).partition(".")[0] != "equinox"


def records(tree: Any) -> list[Record]:
    """Return the records that stand in a tree.

    Args:
        tree: any pytree.
    """
    found = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, Record))
    return [x for x in found if isinstance(x, Record)]


def _position_of_step(fun: Callable[..., Any]) -> int | None:
    try:
        names = list(inspect.signature(fun).parameters)
    except (TypeError, ValueError):
        return None
    return names.index("step") if "step" in names else None


def _traceable(watch: Any, fun: Callable[..., Any], recording: bool) -> Callable[..., Any]:
    @functools.wraps(fun)
    def step(*args: Any, **kwargs: Any) -> Any:
        with _traced_for(watch, recording) as current:
            out = fun(*args, **kwargs)
        _check(current, records(out))
        return out

    return step


def _check(current: Tracing, found: list[Record]) -> None:
    """Refuse a step function of which the wrong program would be compiled, or whose record would be lost."""
    expected = "a function that calls the watch once and returns its record"
    if not current.used or any(r.known is not current.recording for r in found):
        raise FlowError(
            expected,
            "one in which this watch was not called while it was traced",
            "the watch is called inside another jax.jit, whose trace is reused, or is another one",
            "step = watch.jit(train_step) with a train_step that is not compiled itself",
        )
    if not found:
        raise FlowError(
            expected,
            "one that returns no record",
            "the record was left out of what it returns",
            "return params, opt_state, value, record",
        )
    if any(np.ndim(r.step) for r in found if r.step is not None):
        raise FlowError(
            expected,
            "one that calls it inside a scan",
            "many steps in one program",
            "jax.jit in place of watch.jit: there the flow is a branch of the program",
        )
