"""Mean-field theory of any traced loss function: every value becomes a random field, layer by layer.

An abstract interpretation of the jaxpr. Parameters and constants are known numbers, the batch is unknown. The output of
a layer is a fresh Gaussian whose variance follows from that of its input and the mean square of its weight. What theory
has no description for is `Outside`, with the reason in words; a layer fed by it starts anew from its measured input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from jax.extend import core

from gradflow.instrument import jaxprs
from gradflow.instrument.sites import Site
from gradflow.primitives import ELEMENTWISE
from gradflow.theory.tracing.abstract_values import (
    BatchMean,
    Data,
    Known,
    Outside,
    Padded,
    Padding,
    Parts,
    Series,
    Value,
    layers_below,
    outside,
)
from gradflow.theory.tracing.algebra import FieldAlgebra
from gradflow.theory.tracing.constants import evaluate
from gradflow.theory.tracing.contractions import contraction_of, data_correlation, mean_square_gain, windows_of
from gradflow.theory.tracing.notes import place_of, reason_outside
from gradflow.theory.tracing.positions import through_windows
from gradflow.theory.tracing.random_fields import Gaussian, Signal, correlation_of, gaussian_signal
from gradflow.theory.tracing.rules import rule_of
from gradflow.theory.tracing.rules.parts import apply_to_parts

__all__ = [
    "CALLS",
    "Measured",
    "Path",
    "Propagation",
    "Steps",
    "data_of",
    "ordinary",
    "stack",
    "step_of",
]

Path: TypeAlias = tuple[int, ...]
Steps: TypeAlias = tuple[int, ...]
Measured: TypeAlias = Callable[[str, str, Steps], float]  # layer, field of its flow, steps of the scans around it

_OF_PARTS = frozenset({"concatenate", "slice", "split"})  # their rules see the signals side by side as such
CALLS = jaxprs.INLINED | jaxprs.REMAT | jaxprs.CUSTOM_RULES


class Propagation:
    """Runs a jaxpr on random fields.

    Attributes:
        sites: name and place of each layer, by the path of its equation.
        measured: looks up what was measured at a layer.
        algebra: computes with signals, and holds all Gaussians.
        open: Gaussians that something outside the theory reads, so that no gradient can be predicted for them.
        anew: layers that start from what was measured, because what enters them is outside the theory.
        notes: what to say of a layer, by name.
    """

    def __init__(self, sites: dict[Path, tuple[str, Site]], measured: Measured) -> None:
        self.sites, self.measured = sites, measured
        self.algebra = FieldAlgebra()
        self.open: set[Gaussian] = set()
        self.anew: set[Gaussian] = set()
        self.notes: dict[str, str] = {}
        self._gains: dict[Path, tuple[Any, float]] = {}

    def walk(self, closed: Any, values: Sequence[Value], path: Path = (), steps: Steps = ()) -> list[Value]:
        """Run a jaxpr.

        Args:
            closed: the jaxpr with its constants.
            values: of its inputs.
            path: leads to it from the outermost jaxpr.
            steps: of the scans around it.
        """
        jaxpr, consts = jaxprs.opened(closed)
        env: dict[Any, Value] = {v: Known(c) for v, c in zip(jaxpr.constvars, consts, strict=True)}
        env.update(zip(jaxpr.invars, values, strict=True))

        def read(atom: Any) -> Value:
            return env[atom] if jaxprs.is_var(atom) else Known(jaxprs.literal_value(atom))

        for index, eqn in enumerate(jaxpr.eqns):
            outs = self.equation(jaxpr, eqn, [read(v) for v in eqn.invars], (*path, index), steps)
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def equation(
        self, jaxpr: core.Jaxpr, eqn: core.JaxprEqn, values: list[Value], path: Path, steps: Steps
    ) -> list[Value]:
        """Return the values of one equation's outputs; never an exception, which would cost the other layers.

        Args:
            jaxpr: that it stands in.
            eqn: the equation.
            values: of its operands.
            path: leads to it from the outermost jaxpr.
            steps: of the scans around it.
        """
        if path in self.sites:
            return self.layer(eqn, values, path, steps)
        if eqn.primitive.name == "scan":
            return self.scan(eqn, values, path, steps)
        if eqn.primitive.name in CALLS:
            inner = jaxprs.inner_jaxpr(eqn)
            return self.walk(inner, values[: len(jaxprs.opened(inner)[0].invars)], (*path, 0), steps)
        try:
            with np.errstate(all="ignore"):
                return ordinary(self.algebra, jaxpr, eqn, values)
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            said = f"the rule for {eqn.primitive.name} failed: {type(error).__name__}: {reason[0]}{place_of(eqn)}"
            return [outside(values, said)] * len(eqn.outvars)

    def mark_unpredictable(self, values: Sequence[Value]) -> None:
        """Note that the loss depends on values in a way that cannot be followed backwards."""
        self.open |= outside(values, "").reads | self.algebra.repeated_gaussians

    def layer(self, eqn: core.JaxprEqn, values: list[Value], path: Path, steps: Steps) -> list[Value]:
        """Return a fresh Gaussian for the output of a layer, or of an embedding, beside the equation's other outputs.

        Args:
            eqn: the equation of the layer.
            values: of its operands.
            path: leads to it.
            steps: of the scans around it.
        """
        name, site = self.sites[path]
        units = math.prod(site.shape[a] for a in site.unit_axes)
        axes = tuple("u" if k in site.unit_axes else "e" for k in range(len(site.shape)))
        weight = None if site.source is None else values[1 - site.source] if len(values) == 2 else None
        product = contraction_of(eqn)
        if not isinstance(weight, Known) or site.source is None or product is None:
            reason = "its weight is not made of parameters alone, or stands inside a custom rule"
            if site.kind == "embedding":
                reason = "an embedding: starts from its measured rms"
            gaussian = self._measured_output(name, reason, values, steps, units)
        else:
            entering = values[site.source]
            padding = entering.padding if isinstance(entering, Padded) else {}
            gain = self._gain(product, site.source, weight.value, path, padding)
            entries = math.prod(
                n - sum(padding.get(k, (0, 0))) for k, n in enumerate(jaxprs.shape_of(eqn.invars[site.source]))
            )
            down = gain * math.prod(site.shape) / max(entries, 1)
            gaussian = self._output(name, _as_signal(entering), gain, down, steps, units)
            positions = len(site.example_axes) - 1
            gaussian.spatial = _correlation(product, site.source, entering, positions) if positions > 0 else np.ones(())
        if not math.isfinite(gaussian.variance):
            reason = "its predicted mean square is not finite: starts from its measured rms"
            gaussian = self._measured_output(name, reason, values, steps, units)
        if not gaussian.edges and not isinstance(values[site.source or 0], (Known, Data)):
            self.anew.add(gaussian)
        outs: list[Value] = [Outside("beside a layer")] * len(eqn.outvars)
        outs[site.out] = gaussian_signal(self.algebra.add(gaussian), axes)
        return outs

    def _measured_output(self, name: str, reason: str, values: Sequence[Value], steps: Steps, units: int) -> Gaussian:
        """The output of a layer as it was measured."""
        self.mark_unpredictable(values)
        self.notes.setdefault(name, reason)
        square = self._finite(self.measured(name, "output_rms", steps)) ** 2
        return Gaussian(square, self._similarity(name, steps), layer=(name, steps), units=units)

    def _output(self, name: str, entering: Value, gain: float, down: float, steps: Steps, units: int) -> Gaussian:
        """The Gaussian that a layer makes of its input; `gain` and `down` are sums of squared weights, per entry."""
        layer, chance = (name, steps), 2 / max(units, 1)
        if isinstance(entering, (Parts, Signal)) and math.isfinite(entering.square):
            square = entering.square
            shared = (entering.shared + entering.mean**2) / max(square, 1e-300)
            below = max(max((g.units for g in layers_below(entering)), default=units), 1)
            self._note_approximation(name, entering)
            return Gaussian(
                gain * square,
                min(max(shared, -1.0), 1.0),
                [(gaussian, down * factor) for gaussian, factor in entering.edges],
                entering.log_variance + entering.sampling / below + chance,
                layer,
                units,
                entering.kurtosis,
            )
        if isinstance(entering, Known) and entering.is_numeric:  # an initial state, or a batch that is closed over
            square = float(np.mean(np.square(entering.array()))) if np.size(entering.value) else 0.0
        else:
            if not isinstance(entering, Data):
                reason = entering.reason if isinstance(entering, Outside) else "a statistic of the batch enters it"
                self.mark_unpredictable([entering])
                self.notes.setdefault(name, f"outside the theory: {reason}; starts from its measured input")
            square = self._finite(self.measured(name, "input_rms", steps)) ** 2
        return Gaussian(gain * square, self._similarity(name, steps), layer=layer, units=units, log_variance=chance)

    def _note_approximation(self, name: str, entering: Signal | Parts) -> None:
        if any(gaussian in self.algebra.approximate for gaussian in entering.components):
            self.notes.setdefault(name, "approximate: a nonlinearity of a sum that is not Gaussian")

    def _similarity(self, name: str, steps: Steps) -> float:
        """Measured similarity of a layer's outputs for different examples, 0 where there is none."""
        return min(max(self._finite(self.measured(name, "similarity", steps)), 0.0), 1.0)

    @staticmethod
    def _finite(number: float) -> float:
        return number if math.isfinite(number) else 0.0

    def _gain(self, eqn: core.JaxprEqn, source: int, weight: Any, path: Path, padding: Padding) -> float:
        cached = self._gains.get(path)
        if cached is None or cached[0] is not weight:
            cached = self._gains[path] = (weight, mean_square_gain(eqn, source, weight, padding))
        return cached[1]

    def scan(self, eqn: core.JaxprEqn, values: list[Value], path: Path, steps: Steps) -> list[Value]:
        """Run a scan step by step: weights are shared over time, outputs taken as independent (Chen et al. 2018).

        Args:
            eqn: the scan.
            values: of its operands.
            path: leads to it.
            steps: of the scans around it.
        """
        count, carries = jaxprs.scan_arity(eqn)
        constants, carry, stacked = values[:count], values[count : count + carries], values[count + carries :]
        length, columns = eqn.params["length"], []
        order = range(length - 1, -1, -1) if eqn.params["reverse"] else range(length)
        for step in order:
            now = [step_of(value, step) for value in stacked]
            outs = self.walk(jaxprs.inner_jaxpr(eqn), [*constants, *carry, *now], (*path, 0), (*steps, step))
            carry = outs[:carries]
            columns.append(outs[carries:])
        if eqn.params["reverse"]:
            columns = columns[::-1]
        series = [list(column) for column in zip(*columns, strict=True)] or [[]] * (len(eqn.outvars) - carries)
        return [*carry, *(stack(column) for column in series)]


def _as_signal(value: Value) -> Value:
    """What enters a layer as a signal, where it is one in another form."""
    if isinstance(value, Padded):
        return value.signal
    if isinstance(value, Parts):
        pieces = tuple(_as_signal(p) for p in value.pieces)
        return Parts(pieces, value.fractions) if all(isinstance(p, Signal) for p in pieces) else value
    signal = value.as_signal() if isinstance(value, BatchMean) else None
    return value if signal is None else signal


def _correlation(product: core.JaxprEqn, source: int, entering: Value, positions: int) -> Any:
    """Correlation between positions of a layer's output, by distance; None where it is not known."""
    padding = entering.padding if isinstance(entering, Padded) else {}
    signal = _as_signal(entering)
    if isinstance(signal, (Parts, Signal)):
        moments = None if signal.spatial is None else signal.spatial + signal.mean**2
    elif isinstance(signal, (Data, Known)):
        moments = data_correlation(product, source, signal.value)
    else:
        moments = None
    if moments is None:
        return None
    windows = windows_of(product, source, padding)
    if windows is not None and len(windows) == positions:
        moments = through_windows(moments, windows, same_tap=True)
    elif product.primitive.name != "dot_general":
        return None
    return None if moments is None else correlation_of(moments, float(moments.flat[0]))


def ordinary(algebra: FieldAlgebra, jaxpr: core.Jaxpr, eqn: core.JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Return the outputs of an equation that is no layer and holds no jaxpr to walk.

    Args:
        algebra: that its rule computes with.
        jaxpr: that it stands in.
        eqn: the equation.
        values: of its operands.
    """
    count = len(eqn.outvars)
    if all(isinstance(v, Known) and v.exact for v in values) and not eqn.effects:
        return [Known(x) for x in evaluate(jaxpr, eqn, [v.value for v in values])]  # type: ignore[union-attr]
    if all(isinstance(v, (Known, Data)) for v in values) and any(isinstance(v, Data) for v in values):
        return data_of(jaxpr, eqn, values)
    if (reason := next((v.reason for v in values if isinstance(v, Outside)), None)) is not None:
        return [outside(values, reason)] * count
    rule = rule_of(eqn.primitive.name)
    if eqn.primitive.name in ELEMENTWISE:
        size = math.prod(jaxprs.shape_of(eqn.outvars[0]))
        shapes = [jaxprs.shape_of(v) for v in eqn.invars]
        values = [algebra.repeated(v, size / max(math.prod(s), 1)) for v, s in zip(values, shapes, strict=True)]
    if rule is not None and any(isinstance(v, Parts) for v in values) and eqn.primitive.name not in _OF_PARTS:
        out = apply_to_parts(rule, algebra, eqn, values)
    else:
        out = None if rule is None else rule(algebra, eqn, values)
    if out is None and rule is not None and any(isinstance(v, BatchMean) for v in values):
        out = rule(algebra, eqn, [_as_signal(v) if isinstance(v, BatchMean) else v for v in values])
    outs = out if isinstance(out, list) else [out]
    if any(v is None for v in outs) or len(outs) != count:
        return [outside(values, reason_outside(eqn, values))] * count
    return [v for v in outs if v is not None]


def data_of(jaxpr: core.Jaxpr, eqn: core.JaxprEqn, values: Sequence[Value]) -> list[Value]:
    """Return what is computed from the batch, with its numbers where all of the operands have theirs.

    Args:
        jaxpr: that the equation stands in.
        eqn: the equation.
        values: of its operands, known or data.
    """
    concrete = all(v.value is not None and (not isinstance(v, Known) or v.exact) for v in values)  # type: ignore[union-attr]
    if concrete and not eqn.effects:
        try:
            return [Data(x) for x in evaluate(jaxpr, eqn, [v.value for v in values])]  # type: ignore[union-attr]
        except Exception:  # without its numbers it is data all the same
            pass
    return [Data() for _ in eqn.outvars]


def step_of(value: Value, step: int) -> Value:
    """Return what one step of a scan sees of a value that it goes through.

    Args:
        value: with the steps on its first axis.
        step: which.
    """
    if isinstance(value, Known) and value.exact:
        return Known(value.value[step])
    if isinstance(value, Series) and value.axes[0] == "t":
        return value.signals[step]
    if isinstance(value, Data):
        return Data(None if value.value is None else value.value[step])
    return value if isinstance(value, Outside) else outside([value], "a scan over examples or units")


def stack(column: list[Value]) -> Value:
    """Return what a scan returns of one value for all its steps.

    Args:
        column: the value at each step.
    """
    signals = [v for v in column if isinstance(v, Signal)]
    if column and len(signals) == len(column):
        return Series(tuple(signals), ("t", *signals[0].axes))
    if any(isinstance(v, Data) for v in column) and all(isinstance(v, (Data, Known)) for v in column):
        return Data()
    if column and all(isinstance(v, Known) and v.exact and v.is_numeric for v in column):
        return Known(np.stack([np.asarray(v.value) for v in column]))  # type: ignore[union-attr]
    reasons = [v.reason for v in column if isinstance(v, Outside)]
    return outside(column, reasons[0] if reasons else "what a scan stacks")
