"""The diagnosis of a network: what is wrong, where, why, and what helps."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from gradflow.diagnosis.book import Book
from gradflow.diagnosis.finding import Finding
from gradflow.diagnosis.letter import letter
from gradflow.diagnosis.measurements import Measurements, measure
from gradflow.diagnosis.rules import findings
from gradflow.instrument import Flow

if TYPE_CHECKING:
    import optax

__all__ = ["Diagnosis", "diagnose", "first_batches"]

_PATIENCE = 3.0  # seconds after which progress is said


@dataclasses.dataclass(frozen=True, eq=False)
class Diagnosis:
    """What is wrong with a network; `print` shows a letter.

    Attributes:
        findings: the most severe first; empty for a healthy network.
        measurements: what they rest on.
        seconds: that it took.
    """

    findings: tuple[Finding, ...]
    measurements: Measurements
    seconds: float

    @property
    def healthy(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def book(self) -> Book:
        """The ledger of the batch."""
        return self.measurements.book

    @property
    def flow(self) -> Flow:
        """The flow of the batch."""
        return self.measurements.flow

    @property
    def scope(self) -> str:
        """What was looked at, in a sentence."""
        trial = self.measurements.trial
        steps = "no step was taken" if trial is None else f"{len(trial.losses) - 1} steps were taken"
        return f"One batch was looked at, {steps}; layers: {len(self.flow.layers)}."

    def to_json(self) -> str:
        """Return findings and ledger as JSON."""
        return json.dumps(
            {
                "healthy": self.healthy,
                "scope": self.scope,
                "findings": [finding.to_record() for finding in self.findings],
                "ledger": {"summary": self.book.summary, "entries": self.book.to_records()},
            },
            indent=1,
            allow_nan=False,
        )

    def to_html(self) -> str:
        """Return a self-contained page: the letter, the ledger's table and its figure."""
        from gradflow.diagnosis.page import page

        return page(self)

    def __str__(self) -> str:
        return letter(self)

    def __repr__(self) -> str:
        return f"Diagnosis({'healthy' if self.healthy else ', '.join(f.kind for f in self.findings)})"

    def _repr_html_(self) -> str:
        from gradflow.diagnosis.page import body

        return body(self)


def diagnose(
    loss_fn: Callable[..., Any],
    params: Any,
    *args: Any,
    optimizer: optax.GradientTransformation | None = None,
    batches: Iterable[Any] | None = None,
    steps: int = 20,
    has_aux: bool = False,
    progress: bool = True,
    **kwargs: Any,
) -> Diagnosis:
    """Say what is wrong with a network that does not train, where, why, and what helps.

    The batch is sent through once forward and backward, with its flow and its ledger. The gradient is formed again
    with all weights changed by 1 %, beside the same after a change by rounding alone, and with the loss times a
    power of 2, which changes nothing but what is flushed to 0. With an optimizer some steps are taken, and the last
    update is tried at multiples from 1/4096 to 4096. Where the steps learn less than half of the loss, they are
    taken again from the start at a quarter of the rate; where they learn little, at up to four other rates and with
    Adam, too. The parameters that were passed stay as they are.

    No rule reads a number that a factor of the loss would move. Limits and what they rest on:
    `gradflow.diagnosis.thresholds`.

    Args:
        loss_fn: a loss, as for `jax.value_and_grad`.
        params: its first argument, which is differentiated.
        *args: its other arguments: a batch.
        optimizer: with which you train. None: only the initialization is judged.
        batches: of the steps: an iterable of tuples, each in the place of `*args` (an item that is no tuple is the only
            argument). None: `*args` at every step.
        steps: how many at most.
        has_aux: whether the loss returns (loss, aux).
        progress: whether to say on standard error what is done, from 3 seconds on.
        **kwargs: of the loss.

    Returns:
        The diagnosis. `healthy` is an answer, too.

    Raises:
        FlowError: inside `jit`, `vmap` or `grad`, or for a loss that `value_grad_and_flow` refuses.
        ValueError: for negative `steps`, or batches of another structure than `*args`.

    Examples:
        >>> import jax, jax.numpy as jnp, gradflow as gf
        >>> keys = jax.random.split(jax.random.key(0), 12)
        >>> params = {f"layer_{k:02}": jax.random.normal(key, (32, 32)) / 32**0.5 for k, key in enumerate(keys)}
        >>> def loss(params, x):
        ...     for w in params.values():
        ...         x = jax.nn.sigmoid(x @ w)
        ...     return jnp.mean(x**2)
        >>> d = gf.diagnose(loss, params, jax.random.normal(jax.random.key(1), (16, 32)))
        >>> d.healthy, d.findings[0].kind, d.book.summary
        (False, 'vanishing', '6.9 decades lost: the activations -6.9, the weights +0.1.')
    """
    if steps < 0:
        raise ValueError(f"diagnose(steps=...): expected a number of steps, got {steps}. Fix: 20, or 0 for none")
    begun = time.monotonic()
    taken = None if batches is None else first_batches(batches, steps)

    def say(what: str) -> None:
        if progress and time.monotonic() - begun > _PATIENCE:
            sys.stderr.write(f"gradflow: {what}\n")

    measured = measure(loss_fn, params, args, kwargs, has_aux, optimizer, taken, steps, say)
    return Diagnosis(findings(measured), measured, time.monotonic() - begun)


def first_batches(batches: Iterable[Any], count: int) -> list[tuple[Any, ...]]:
    """Return the first batches, each as the tuple of a loss's other arguments.

    Args:
        batches: of the user.
        count: at most.

    Raises:
        ValueError: if there is none.
    """
    out: list[tuple[Any, ...]] = []
    for batch in batches:
        if len(out) == count:
            break
        out.append(batch if isinstance(batch, tuple) else (batch,))
    if not out and count:
        raise ValueError(
            "batches: expected at least one batch, got none. Likely cause: an iterator that is used up. "
            "Fix: a list of batches, or a new iterator"
        )
    return out
