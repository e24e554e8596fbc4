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
from gradflow.primitives import CONTRACTIONS
from gradflow.theory.tracing.abstract_values import (
    Data,
    Known,
    Outside,
    Padded,
    Padding,
    Parts,
    Piece,
    Value,
    gaussians_below,
    layers_below,
    outside,
    unmeasured_of,
)
from gradflow.theory.tracing.algebra import FieldAlgebra
from gradflow.theory.tracing.branches import stream_with_branch
from gradflow.theory.tracing.contractions import (
    carries_down,
    contraction_of,
    input_axes,
    mean_square_gain,
    pairs_of_output,
    sizes_of_output,
    unevenness_of_weights,
    windows_of,
)
from gradflow.theory.tracing.entering import moments_of, nodes_of, normalized, table_square
from gradflow.theory.tracing.equations import as_signal, ordinary, stack, step_of
from gradflow.theory.tracing.example_average import average_over_examples
from gradflow.theory.tracing.measured_fields import MeasuredFields, Request
from gradflow.theory.tracing.notes import place_of
from gradflow.theory.tracing.positions import through_windows
from gradflow.theory.tracing.random_fields import Gaussian, Signal, correlation_of, gaussian_signal, measured_share
from gradflow.theory.tracing.returns import Returns

__all__ = [
    "CALLS",
    "Measured",
    "Path",
    "Propagation",
    "Steps",
]

Path: TypeAlias = tuple[int, ...]
Steps: TypeAlias = tuple[int, ...]
Measured: TypeAlias = Callable[[str, str, Steps], float]  # layer, field of its flow, steps of the scans around it

_MOST_MEASURED = 0.5  # of the variance that enters a layer, beyond which its output does not count as predicted
CALLS = jaxprs.INLINED | jaxprs.REMAT | jaxprs.CUSTOM_RULES


class Propagation:
    """Runs a jaxpr on random fields.

    Attributes:
        sites: name and place of each layer, by the path of its equation.
        measured: looks up what was measured at a layer.
        fields: moments that are measured beside the layers, where theory has no description.
        algebra: computes with signals, and holds all Gaussians.
        follow_nodes: whether the covariance of every two examples is followed, as a graph asks for.
        open: Gaussians that something outside the theory reads, so that no gradient can be predicted for them.
        anew: layers that start from what was measured, because what enters them is outside the theory.
        notes: what to say of a layer, by name.
        returns: where signals leave the theory, and come back.
    """

    def __init__(
        self,
        sites: dict[Path, tuple[str, Site]],
        measured: Measured,
        fields: MeasuredFields | None = None,
        gains: dict[Path, tuple[Any, float]] | None = None,
        *,
        follow_nodes: bool = False,
    ) -> None:
        self.follow_nodes = follow_nodes
        self.sites, self.measured = sites, measured
        self.fields = MeasuredFields(final=True) if fields is None else fields
        self.algebra = FieldAlgebra()
        self.open: set[Gaussian] = set()
        self.anew: set[Gaussian] = set()
        self.notes: dict[str, str] = {}
        self._last = max(sites, default=())
        self._gains = {} if gains is None else gains
        self.returns = Returns()
        self._muted = False  # inside a rule for the derivative, which is lost where it is opened

    @property
    def places(self) -> dict[str, tuple[Path, Site]]:
        """Path and place of each layer, by its name."""
        return {name: (path, site) for path, (name, site) in self.sites.items()}

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
            return self._call(eqn, values, path, steps)
        self.returns.sum_with(eqn, values, path)
        try:
            with np.errstate(all="ignore"):
                outs = ordinary(self.algebra, jaxpr, eqn, values)
                if isinstance(outs[0], Outside) and any(isinstance(v, Signal) for v in values):
                    return [self._sum(jaxpr, eqn, values, outs[0], path, steps), *outs[1:]]
                return self._left(eqn, values, outs, path, steps)
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            said = f"the rule for {eqn.primitive.name} failed: {type(error).__name__}: {reason[0]}{place_of(eqn)}"
            return self._left(eqn, values, [outside(values, said)] * len(eqn.outvars), path, steps)

    def _call(self, eqn: core.JaxprEqn, values: list[Value], path: Path, steps: Steps) -> list[Value]:
        """What an equation that runs one jaxpr returns; a rule for the derivative is left as a whole."""
        inner = jaxprs.inner_jaxpr(eqn)
        inputs = values[: len(jaxprs.opened(inner)[0].invars)]
        if eqn.primitive.name not in jaxprs.CUSTOM_RULES:
            self.returns.enter(eqn, path)
            return self.walk(inner, inputs, (*path, 0), steps)
        muted, self._muted = self._muted, True
        self.algebra.in_custom_rule = True
        outs = self.walk(inner, inputs, (*path, 0), steps)
        self._muted = self.algebra.in_custom_rule = muted
        layers = any(place[: len(path)] == path for place in self.sites)
        return outs if layers else self._left(eqn, values, outs, path, steps)

    def _left(
        self, eqn: core.JaxprEqn, values: list[Value], outs: list[Value], path: Path, steps: Steps
    ) -> list[Value]:
        """The outputs of an equation; where it is outside, it is noted that signals leave the theory here."""
        if self._muted or not any(isinstance(v, (Piece, Signal)) for v in values):
            return outs
        if not all(isinstance(out, Outside) for out in outs):
            return [self.returns.cut(eqn, out, path) for out in outs]
        return [self.returns.leave(eqn, values, out, path, steps) for out in outs if isinstance(out, Outside)]

    def _sum(
        self, jaxpr: core.Jaxpr, eqn: core.JaxprEqn, values: list[Value], failed: Outside, path: Path, steps: Steps
    ) -> Value:
        """The stream with what theory does not follow added to it as measured; for other equations `failed`."""
        stream = None  # where no layer reads it: the loss takes its targets away here
        if steps or path <= self._last:
            stream = stream_with_branch(self.algebra, self.fields, eqn, values, failed, (path, steps))
        if stream is None:
            return self._left(eqn, values, [failed], path, steps)[0]
        at = next(k for k, v in enumerate(values) if isinstance(v, Signal))
        self.mark_unpredictable([values[1 - at]])
        self.returns.join(jaxpr, eqn, values, self.algebra.gaussians[-1], (path, steps))
        return stream

    def mark_unpredictable(self, values: Sequence[Value]) -> None:
        """Note that the loss depends on values in a way that cannot be followed backwards."""
        self.open |= unmeasured_of(values) | self.algebra.repeated_gaussians

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
            if site.kind == "embedding" and (table := table_square(eqn, values)) is not None:
                similarity = self._similarity(name, steps)
                gaussian = Gaussian(table, similarity, layer=(name, steps), units=units, log_variance=2 / max(units, 1))
            else:
                gaussian = self._measured_output(name, reason, values, steps, units)
                self.anew.add(gaussian)
            if len(site.example_axes) > 1:
                moments = self.fields.get(Request(path, None, axes), steps)
                gaussian.spatial = None if moments is None else normalized(moments, "operand")
        else:
            gaussian = self._contracted(product, values[site.source], weight.value, (path, steps), units)
        if not math.isfinite(gaussian.variance):
            reason = "its predicted mean square is not finite: starts from its measured rms"
            gaussian = self._measured_output(name, reason, values, steps, units)
        if not gaussian.edges and not isinstance(values[site.source or 0], (Known, Data)):
            self.anew.add(gaussian)
        outs: list[Value] = [Outside("beside a layer")] * len(eqn.outvars)
        outs[site.out] = gaussian_signal(self.algebra.add(gaussian), axes)
        return outs

    def _contracted(
        self, product: core.JaxprEqn, value: Value, weight: Any, place: tuple[Path, Steps], units: int
    ) -> Gaussian:
        """What a contraction with a known weight makes of what enters it."""
        (path, steps), (name, site) = place, self.sites[place[0]]
        assert site.source is not None
        entering = as_signal(self.algebra, value)
        padding = value.padding if isinstance(value, Padded) else {}
        gain = self._gain(product, site.source, weight, path, padding)
        whole = jaxprs.shape_of(product.invars[site.source])
        entries = math.prod(n - sum(padding.get(k, (0, 0))) for k, n in enumerate(whole))
        down = gain * math.prod(site.shape) / max(entries, 1)
        gaussian = self._output(name, entering, gain, down, steps, units)
        places = [site.shape[k] for k in site.example_axes]
        positions = len(places) - 1
        gaussian.carries = carries_down(product, site.source, entering, padding, positions)
        uneven, gaussian.sizes = sizes_of_output(product, site.source, entering, padding, places)
        gaussian.variance *= uneven
        gaussian.pairs = pairs_of_output(product, site.source, entering, padding)
        average_over_examples(gaussian, entering, product, site.source, math.prod(places))
        if positions > 0:
            gaussian.spatial = self._positions(product, site.source, value, positions, place)
            windows = windows_of(product, site.source, padding) or ()
            gaussian.few_weights = unevenness_of_weights(product, weight, windows)
            if isinstance(value, (Padded, Parts, Signal)):
                gaussian.shared *= math.prod(window.overlap for window in windows)
        else:
            gaussian.spatial = np.ones(())
            if self.follow_nodes:
                gaussian.nodes = nodes_of(product, site.source, entering)
        if isinstance(value, Signal) and measured_share(value) > _MOST_MEASURED:
            self.anew.add(gaussian)
        return gaussian

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
        if self.algebra.branches:
            below = gaussians_below(entering)
            reason = next((r for g, r in self.algebra.branches.items() if g in below), None)
            if reason is not None:
                self.notes.setdefault(name, f"behind what is added to the signal as measured: {reason}")

    def _positions(
        self, product: core.JaxprEqn, source: int, entering: Value, positions: int, place: tuple[Path, Steps]
    ) -> Any:
        """Correlation between positions of a layer's output; what enters is measured where it is outside the theory."""
        path, steps = place
        measured = None
        if isinstance(entering, Outside) and product.primitive.name in CONTRACTIONS:
            found = self.fields.get(Request(path, source, input_axes(product, source)), steps)
            measured = None if found is None else normalized(found, "operand")
        padding = entering.padding if isinstance(entering, Padded) else {}
        moments = moments_of(product, source, as_signal(self.algebra, entering), measured)
        windows = windows_of(product, source, padding)
        if moments is not None and windows is not None and len(windows) == positions:
            moments = through_windows(moments, windows, same_tap=True)
        elif product.primitive.name != "dot_general":
            return None
        return None if moments is None else correlation_of(moments, float(moments.flat[0]))

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
            now = [step_of(self.algebra, value, step, length) for value in stacked]
            outs = self.walk(jaxprs.inner_jaxpr(eqn), [*constants, *carry, *now], (*path, 0), (*steps, step))
            carry = outs[:carries]
            columns.append(outs[carries:])
        if eqn.params["reverse"]:
            columns = columns[::-1]
        series = [list(column) for column in zip(*columns, strict=True)] or [[]] * (len(eqn.outvars) - carries)
        return [*carry, *(stack(column) for column in series)]
