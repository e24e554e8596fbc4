"""The gradient on its way down through the Gaussians that the walk has left."""

from __future__ import annotations

import dataclasses
import math

from gradflow.theory.tracing.abstract_values import Axes
from gradflow.theory.tracing.centring import BELOW_FEW_WEIGHTS, FEW_WEIGHTS
from gradflow.theory.tracing.likeness import Likeness, lost, mixture
from gradflow.theory.tracing.measured_cotangents import MeasuredCotangents, Reading
from gradflow.theory.tracing.propagation import Propagation
from gradflow.theory.tracing.random_fields import Gaussian

__all__ = ["Gradient", "gradients_of"]

_MOST_MEASURED = 0.5  # of the mean square gradient, beyond which it does not count as predicted


@dataclasses.dataclass(frozen=True)
class Gradient:
    """The gradient with respect to a Gaussian.

    Attributes:
        square: its mean square.
        spread: variance of the ln of that.
        anchored: whether it is the measured one.
        measured: how much of the mean square was measured, because it comes from outside the theory.
        likeness: how alike it is at different positions and nodes.
    """

    square: float
    spread: float = 0.0
    anchored: bool = False
    measured: float = 0.0
    likeness: Likeness = dataclasses.field(default_factory=Likeness)


def gradients_of(propagation: Propagation, cotangents: MeasuredCotangents) -> dict[Gaussian, Gradient]:
    """Return the gradient of every Gaussian, from those of the layers that feed the loss, which are measured.

    Args:
        propagation: after its walk.
        cotangents: gradients that are measured beside those of the layers; notes what is missing.
    """
    return _Descent(propagation, cotangents).run()


class _Descent:
    def __init__(self, propagation: Propagation, cotangents: MeasuredCotangents) -> None:
        self.propagation, self.cotangents = propagation, cotangents
        self.returned = propagation.returns.measured(cotangents)
        self.open = set(propagation.open) | self.returned.lost
        self.alike = propagation.algebra.asks_for_likeness
        self.arriving: dict[Gaussian, list[Gradient]] = {}
        self.reasons: dict[Gaussian, str] = {}

    def run(self) -> dict[Gaussian, Gradient]:
        """From the last Gaussian to the first."""
        out: dict[Gaussian, Gradient] = {}
        for gaussian in reversed(self.propagation.algebra.gaussians):
            terms = list(self.arriving.get(gaussian, []))
            if (square := self.returned.squares.get(gaussian)) is not None and gaussian not in self.returned.lost:
                terms.append(Gradient(square, measured=square))
            gradient = _sum(terms)
            over = gradient.measured > _MOST_MEASURED * gradient.square
            if gaussian.layer is not None and (gaussian in self.open or not terms or over):
                gradient = self._anchor(gaussian.layer)
                if (reason := self.reasons.get(gaussian)) is not None:
                    self.propagation.notes.setdefault(gaussian.layer[0], f"its gradient is the measured one: {reason}")
            elif gaussian in self.open or (terms and gradient.square <= 0 < gradient.measured):
                for parent, _ in gaussian.edges:
                    self.open.add(parent)
                    self.reasons |= {parent: self.reasons[gaussian]} if gaussian in self.reasons else {}
                gradient = dataclasses.replace(gradient, anchored=True)
            out[gaussian] = gradient
            if self.reasons.get(gaussian) == FEW_WEIGHTS and gaussian.layer is not None:
                for parent, _ in gaussian.edges:  # units with a small deviation have small weights, too
                    self.open.add(parent)
                    self.reasons[parent] = BELOW_FEW_WEIGHTS
            elif terms or gradient.anchored:  # else it ends in a number, such as a statistic of normalization
                self._send(gaussian, gradient)
        return out

    def _anchor(self, layer: tuple[str, tuple[int, ...]]) -> Gradient:
        """The measured gradient of a layer; 0 where nothing arrives."""
        name, steps = layer
        measured = self.propagation.measured(name, "output_grad_rms", steps)
        square = 0.0 if math.isnan(measured) else measured**2
        return Gradient(square, anchored=True, likeness=self._likeness(name, steps))

    def _likeness(self, name: str, steps: tuple[int, ...]) -> Likeness:
        if not self.alike:
            return Likeness()
        path, site = self.propagation.places[name]
        axes: Axes = tuple("u" if k in site.unit_axes else "e" for k in range(len(site.shape)))
        reading = Reading(path, None, out=site.out, axes=axes, nodes=self.propagation.follow_nodes)
        moments = self.cotangents.get(reading, steps)
        if moments is None or not moments["square"] > 0:
            return Likeness()
        square, nodes = float(moments["square"]), moments.get("nodes")
        return Likeness(
            moments["positions"] / square, None if nodes is None else nodes / square, moments["examples"] / square
        )

    def _send(self, gaussian: Gaussian, gradient: Gradient) -> None:
        """Hand a gradient on to what a Gaussian is made of."""
        inside = 0.0 if gaussian.layer is not None else gradient.measured
        carries = gaussian.carries if len(gaussian.carries) == len(gaussian.edges) else [lost] * len(gaussian.edges)
        for (parent, factor), kurtosis, carry in zip(gaussian.edges, gaussian.kurtosis, carries, strict=True):
            added = max(3 * kurtosis - 1, 0.0) / parent.units if parent.units else 0.0
            added += gaussian.unevenness if gaussian.layer is None else 0.0
            found = carry(gradient.likeness) if factor else (1.0, Likeness())
            if isinstance(found, str):
                self.open.add(parent)
                self.reasons[parent] = found
                continue
            below = factor * found[0]
            arrived = Gradient(
                gradient.square * below, gradient.spread + added, measured=inside * below, likeness=found[1]
            )
            self.arriving.setdefault(parent, []).append(arrived)
        for parent, factor in self.returned.echoes.get(gaussian, ()):
            echo = gradient.square * factor
            self.arriving.setdefault(parent, []).append(Gradient(echo, gradient.spread, measured=abs(echo)))


def _sum(terms: list[Gradient]) -> Gradient:
    """The sum of gradients that have nothing to do with each other."""
    square = sum(term.square for term in terms)
    spread = sum(term.square * term.spread for term in terms) / square if square > 0 else 0.0
    measured = sum(term.measured for term in terms)
    likeness = mixture([(term.square, term.likeness) for term in terms])
    return Gradient(square, max(spread, 0.0), False, measured, likeness)
