"""What happened before a spike, a collapse or a value that was not finite, in a sentence and a figure."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PostMortem"]


@dataclasses.dataclass(frozen=True, eq=False)
class PostMortem:
    """An event of a run and the steps before it. `print` says it in a sentence or two.

    Attributes:
        kind: "spike", "collapse" (to less than a thousandth) or "nonfinite".
        step: where it was seen.
        factor: size of the whole gradient there / the usual one, the median of the steps before.
        first_layers: layers whose gradient left its usual size first, the furthest first; empty if none did.
        first_step: when they did.
        moved: how many layers had left it by `step`.
        loss_step: when the loss left its usual size; None if it did not.
        known_before: whether there were steps enough to know what is usual (20).
        steps: numbers of the steps that are known, a few after the event among them.
        losses: of these steps; NaN where it is not known.
        gradients: sizes of the layers' gradients at these steps.
        layers: their names.
    """

    kind: Literal["spike", "collapse", "nonfinite"]
    step: int
    factor: float
    first_layers: tuple[str, ...]
    first_step: int | None
    moved: int
    loss_step: int | None
    known_before: bool
    steps: Int[np.ndarray, " steps"]
    losses: Float[np.ndarray, " steps"]
    gradients: Float[np.ndarray, "steps layers"]
    layers: tuple[str, ...]

    @property
    def steps_before_loss(self) -> int | None:
        """How many steps the first layers moved before the loss; None if one of the two did not move."""
        if self.first_step is None or self.loss_step is None:
            return None
        return self.loss_step - self.first_step

    @property
    def sentence(self) -> str:
        """What happened, and which layer moved first, how many steps before the loss."""
        return f"Step {self.step}: {self._event()}. {self._order()}"

    @property
    def relative(self) -> Float[np.ndarray, "steps layers"]:
        """The layers' gradients over their usual size, the median of the steps before; NaN where that is 0."""
        before = self.gradients[self.steps < self.step]
        usual = np.array([np.median(x[np.isfinite(x)]) if np.isfinite(x).any() else 0.0 for x in before.T])
        with np.errstate(all="ignore"):
            return np.where(usual > 0, self.gradients / np.where(usual > 0, usual, 1.0), np.nan)

    def figure(self) -> Figure:
        """Draw each layer's gradient over its usual size, step by step, and the loss below."""
        from gradflow.plots.postmortem import postmortem

        return postmortem(self)

    def to_record(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON; a number that is not finite is a string."""
        return {
            "event": self.kind,
            "step": self.step,
            "sentence": self.sentence,
            "factor": _plain(self.factor),
            "first_layers": list(self.first_layers),
            "first_step": self.first_step,
            "loss_step": self.loss_step,
            "steps": self.steps.tolist(),
            "losses": [_plain(x) for x in self.losses],
            "layers": list(self.layers),
            "gradients": [[_plain(x) for x in row] for row in self.gradients],
        }

    def __str__(self) -> str:
        return self.sentence

    def __repr__(self) -> str:
        return f"PostMortem({self.kind}, step={self.step}, first={', '.join(self.first_layers[:3])})"

    def _event(self) -> str:
        if self.kind == "nonfinite":
            index = int(np.searchsorted(self.steps, self.step))
            bad = int(np.sum(~np.isfinite(self.gradients[index])))
            where = f"the gradient of {bad} of {len(self.layers)} layers" if bad else "the loss"
            return f"{where} was NaN or Inf"
        if self.factor == 0:
            return "the gradient became exactly 0"
        if self.kind == "collapse":
            return f"the gradient shrank to {self.factor:.1e} of its usual size"
        return f"the gradient grew to {self.factor:.3g} times its usual size"

    def _order(self) -> str:
        if not self.first_layers or self.first_step is None:
            if not self.known_before:
                return "Too few steps came before it to say what moved first."
            loss = "the loss" if self.loss_step is not None and self.loss_step <= self.step else ""
            return f"No layer had left its usual size{f'; {loss} had' if loss else ''}."
        who, lead = self._who(), self.steps_before_loss
        if lead is None:
            at = f"at step {self.first_step}" if self.first_step != self.step else "at this step"
            said = f"the loss had not moved by step {self.steps[-1]}"
            said = "the loss was not recorded" if np.isnan(self.losses).all() else said
            return f"{who} moved first, {at}; {said}."
        if lead > 0:
            return f"{who} moved first, {_steps(lead)} before the loss."
        if lead == 0:
            return f"{who} moved first, at the same step as the loss."
        return f"The loss moved first, {_steps(-lead)} before {who[0].lower()}{who[1:]}."

    def _who(self) -> str:
        count, names = len(self.first_layers), self.first_layers
        if count == 1:
            return f"Layer {names[0]}"
        if count == 2:
            return f"Layers {names[0]} and {names[1]}"
        row = dict(zip(self.layers, self.gradients[int(np.searchsorted(self.steps, self.step))], strict=True))
        far = f"{names[0]} furthest" if np.isfinite(row[names[0]]) else f"{names[0]} among them"  # NaN has no distance
        if count == len(self.layers):
            return f"All {count} layers" + (f" ({far})" if np.isfinite(row[names[0]]) else "")
        return f"{count} of {len(self.layers)} layers ({far})"


def _steps(count: int) -> str:
    return f"{count} step{'s' * (count != 1)}"


def _plain(x: Any) -> float | str:
    number = float(x)
    return number if np.isfinite(number) else "NaN" if np.isnan(number) else "Infinity" if number > 0 else "-Infinity"
