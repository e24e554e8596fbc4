"""Mean-field theory of any traced loss function: every value becomes a random field, layer by layer.

An abstract interpretation of the jaxpr. Parameters are known numbers, data are unknown, and a layer's output is a fresh
Gaussian whose variance follows from its input's and the mean square of its weight. What theory has no description for
is `Outside`, with the reason in words; a layer fed by it starts anew from its measured input.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from gradflow.instrument import jaxprs
from gradflow.instrument.sites import Site
from gradflow.theory.tracing.abstract_values import (
    ELEMENTWISE,
    SHAPED,
    BatchMean,
    Data,
    Known,
    Outside,
    Piece,
    Series,
    Value,
    apply,
    axes_of,
    key_of,
    layers_below,
    moved,
    multiple_of,
    on_nodes,
    on_numbers,
    outside,
    piece_of,
    product_of,
    put_together,
    row,
    step_of,
    summed,
    typical,
    why,
    wider,
)
from gradflow.theory.tracing.random_fields import Signal, Source, as_source, gaussian

Steps = tuple[int, ...]
Measured = Callable[[str, str, Steps], float]  # layer, field of its flow, steps of the scans around it


class Propagation:
    """Runs a jaxpr on random fields.

    Attributes:
        sources: all Gaussians, those made of others after them.
        open: sources that something outside the theory reads, so that no gradient can be predicted for them.
        notes: what to say of a layer, by name.
    """

    def __init__(self, sites: dict[tuple[int, ...], tuple[str, Site]], measured: Measured) -> None:
        self.sites, self.measured = sites, measured
        self.sources: list[Source] = []
        self.open: set[Source] = set()
        self.notes: dict[str, str] = {}
        self._merged: dict[Any, Signal] = {}
        self._gains: dict[Any, tuple[Any, float]] = {}
        self._approximate: set[Source] = set()
        self._multiples: dict[Source, tuple[Signal, float]] = {}

    def walk(
        self, closed: Any, args: Sequence[Value], path: tuple[int, ...] = (), steps: Steps = (), *, data: bool = False
    ) -> list[Value]:
        """Run a jaxpr; `data` says that its constants are the user's, not numbers of the program."""
        jaxpr, consts = jaxprs.opened(closed)
        env: dict[Any, Value] = {v: Data() if data else Known(c) for v, c in zip(jaxpr.constvars, consts, strict=True)}
        env.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Value:
            return env[atom] if jaxprs.is_var(atom) else Known(jaxprs.literal_value(atom))

        for index, eqn in enumerate(jaxpr.eqns):
            outs = self.equation(jaxpr, eqn, [read(v) for v in eqn.invars], (*path, index), steps)
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def equation(
        self, jaxpr: core.Jaxpr, eqn: core.JaxprEqn, args: list[Value], path: tuple[int, ...], steps: Steps
    ) -> list[Value]:
        """Give the values of one equation's outputs."""
        name = eqn.primitive.name
        if path in self.sites:
            return self.layer(eqn, args, path, steps)
        if name == "scan":
            return self.scan(eqn, args, path, steps)
        if name in jaxprs.INLINED | jaxprs.REMAT | jaxprs.CUSTOM_RULES:
            return self.walk(
                jaxprs.inner_jaxpr(eqn),
                args[: len(jaxprs.opened(jaxprs.inner_jaxpr(eqn))[0].invars)],
                (*path, 0),
                steps,
            )
        if all(isinstance(a, Known) and a.exact for a in args) and not name.startswith("random"):
            env = {v: a.value for v, a in zip(eqn.invars, args, strict=True) if jaxprs.is_var(v)}  # type: ignore[union-attr]
            jaxprs.evaluate(jaxpr, [eqn], list(eqn.outvars), env)
            return [Known(env[v]) for v in eqn.outvars]
        if all(isinstance(a, (Known, Data)) for a in args) and any(isinstance(a, Data) for a in args):
            return [Data()] * len(eqn.outvars)
        if (reason := next((a.reason for a in args if isinstance(a, Outside)), None)) is not None:
            return [outside(args, reason)] * len(eqn.outvars)
        if len(eqn.outvars) == 1 and (out := self.ordinary(eqn, args)) is not None:
            return [out]
        return [outside(args, why(name, args))] * len(eqn.outvars)

    def leave(self, args: Sequence[Value]) -> None:
        """Note that the loss depends on values in a way that cannot be followed backwards."""
        self.open |= outside(args, "").reads

    def ordinary(self, eqn: core.JaxprEqn, args: list[Value]) -> Value | None:
        """Apply an equation without a jaxpr inside, or return None if there is no description of what comes out."""
        name, first = eqn.primitive.name, args[0]
        if name in SHAPED:
            axes = moved(name, eqn, axes_of(first))
            if axes is None or isinstance(first, (Known, BatchMean)):
                return None if axes is None else first
            if isinstance(first, Piece):
                return dataclasses.replace(first, signal=dataclasses.replace(first.signal, axes=axes))
            return dataclasses.replace(first, axes=axes) if isinstance(first, (Signal, Series)) else None
        if name == "stop_gradient":
            return None
        if name == "slice" and isinstance(first, Series):
            return step_of(first, eqn)
        if name == "slice" and isinstance(first, Signal):
            return piece_of(first, eqn)
        if name == "concatenate":
            return put_together(eqn, args)
        if name == "reduce_sum" and isinstance(first, Signal):
            return summed(first, eqn)
        if name not in ELEMENTWISE or any(isinstance(a, Series) for a in args):
            return None
        if any(isinstance(a, BatchMean) for a in args):
            return self.batch_statistic(name, eqn, args)
        if all(isinstance(a, Known) for a in args):
            return on_numbers(eqn, args)
        if not all(isinstance(a, (Known, Signal)) for a in args):
            return None
        return self.elementwise(name, eqn, args)

    def elementwise(self, name: str, eqn: core.JaxprEqn, args: list[Any]) -> Value | None:
        """Sums and multiples of signals as such; anything else if all operands are functions of one Gaussian."""
        if name in ("add", "sub", "add_any"):
            left, right = (self.as_signal(a) for a in args)
            left, right = self.related(left, right)
            out = left.plus(right, -1.0 if name == "sub" else 1.0)
            return dataclasses.replace(out, axes=wider(left.axes, right.axes))
        if name == "neg":
            return args[0].scaled(-1.0)
        if name in ("mul", "div") and isinstance(args[1], Known):
            return self.multiple(args[0], args[1], typical(args[1], inverse=name == "div"))
        if name == "mul" and isinstance(args[0], Known):
            return self.multiple(args[1], args[0], typical(args[0]))
        singles = [self.single(a) if isinstance(a, Signal) else a for a in args]
        sources = {s for a in singles if isinstance(a, Signal) for s in a.parts}
        if len(sources) > 1 or any(isinstance(a, Known) and a.number() is None for a in singles):
            return None
        source = next(iter(sources), None)
        if source is None:
            return None
        part = apply(eqn, [on_nodes(a, source) for a in singles])
        axes = next(a.axes for a in args if (isinstance(a, Signal) and "u" in a.axes) or isinstance(a, Signal))
        return None if part is None else Signal(0.0, {source: part}, axes)

    def multiple(self, signal: Signal, by: Known, factor: float) -> Signal:
        """Times a number; one taken from the batch or the units themselves leaves nothing of the width's chance."""
        scaled = signal.scaled(factor)
        if by.exact or not scaled.linear or not scaled.parts:
            return scaled
        source = self.add(dataclasses.replace(as_source(scaled), log_variance=0.0))
        self._multiples[source] = (signal, factor)
        return gaussian(source, scaled.axes, scaled.mean)

    def as_signal(self, value: Any) -> Signal:
        """A known array as a signal: its mean, and its variance over units as a Gaussian that all examples share."""
        if isinstance(value, Signal):
            return value
        array = np.asarray(value.value, np.float64)
        spread = float(array.var()) if array.size else 0.0
        mean = float(array.mean()) if array.size else 0.0
        if spread <= 1e-14 * mean**2 or spread < 1e-30:
            return Signal(mean, {}, ())
        return gaussian(self.add(Source(spread, 1.0)), (), mean)

    def related(self, left: Signal, right: Signal) -> tuple[Signal, Signal]:
        """Replace a sum by the one Gaussian made of it where the other side is a function of that."""
        pair = [left, right]
        for k, (own, other) in enumerate(((left, right), (right, left))):
            merged = self._merged.get(key_of(own))
            if merged is not None and set(merged.parts) & set(other.parts):
                pair[k] = dataclasses.replace(merged, axes=own.axes)
        return pair[0], pair[1]

    def single(self, signal: Signal) -> Signal:
        """The signal as a function of one Gaussian."""
        if len(signal.parts) <= 1:
            return signal
        key = key_of(signal)
        if key not in self._merged:
            source = self.add(as_source(signal))
            if not signal.linear:
                self._approximate.add(source)
            self._merged[key] = gaussian(source, signal.axes, signal.mean)
        return dataclasses.replace(self._merged[key], axes=signal.axes)

    def add(self, source: Source) -> Source:
        """Note a Gaussian."""
        self.sources.append(source)
        if any(parent in self._approximate for parent, _ in source.edges) and source.layer is None:
            self._approximate.add(source)
        return source

    def batch_statistic(self, name: str, eqn: core.JaxprEqn, args: list[Any]) -> Value | None:
        """What batch normalization computes: x - mean(x), a x + (b - a mean(x)), and mean(x^2) - mean(x)^2."""
        first, second = args[0], args[-1]
        if name in ("mul", "div") and isinstance(first, BatchMean) and isinstance(second, Known):
            factor = typical(second, inverse=name == "div")
            return dataclasses.replace(first, scale=first.scale * factor) if first.plus is None else None
        if name == "mul" and isinstance(first, Known) and isinstance(second, BatchMean):
            return self.batch_statistic(name, eqn, [second, first])
        squares = name == "square" or (name == "integer_pow" and eqn.params["y"] == 2) or name == "mul"
        if squares and isinstance(first, BatchMean) and isinstance(second, BatchMean) and first.power == 1:
            same = first is second or key_of(first.signal) == key_of(second.signal)
            same = same and first.plus is None and second.plus is None
            return dataclasses.replace(first, scale=first.scale * second.scale, power=2) if same else None
        if name not in ("add", "sub", "add_any"):
            return None
        sign = -1.0 if name == "sub" else 1.0
        if name != "sub" and isinstance(first, BatchMean):
            first, second = second, first
        if not isinstance(second, BatchMean):
            return None
        second = dataclasses.replace(second, scale=sign * second.scale)
        if isinstance(first, Signal):
            return self.centred(first, second, sign)
        if second.plus is None and isinstance(first, Known) and second.power == 1:
            return dataclasses.replace(second, plus=first)
        return self.batch_variance(first, second) if isinstance(first, BatchMean) else None

    def centred(self, signal: Signal, mean: BatchMean, sign: float) -> Value | None:
        """A signal less its own mean over the batch, and whatever that comes with."""
        factor, within = 1.0, signal
        while len(within.parts) == 1 and (made := self._multiples.get(next(iter(within.parts)))) is not None:
            if (k := multiple_of(within, gaussian(next(iter(within.parts)), (), 0.0))) is None:
                break
            within, factor = made[0], factor * k * made[1]
        k = multiple_of(within, mean.signal)
        if mean.power != 1 or k is None or not math.isclose(k * factor, -mean.scale, rel_tol=1e-3):
            return None
        source = as_source(signal)
        source.variance, source.shared = max(source.variance - signal.shared, 0.0), 0.0
        out = gaussian(self.add(source), signal.axes)
        return out if mean.plus is None else out.plus(self.as_signal(mean.plus), sign)

    def batch_variance(self, square: BatchMean, mean: BatchMean) -> Known | None:
        """mean(x^2) - mean(x)^2."""
        whole = square.scale * square.signal.mean
        if square.power != 1 or mean.power != 2 or square.plus is not None or abs(mean.scale + 1) > 1e-4:
            return None
        if not math.isclose(whole, mean.signal.square, rel_tol=1e-3):
            return None
        return Known(np.float64(mean.signal.variance - mean.signal.shared), exact=False)

    def layer(self, eqn: core.JaxprEqn, args: list[Value], path: tuple[int, ...], steps: Steps) -> list[Value]:
        """A fresh Gaussian for the output of a layer, or of an embedding, beside what else the equation returns."""
        name, site = self.sites[path]
        units = math.prod(site.shape[a] for a in site.unit_axes)
        axes = tuple("u" if k in site.unit_axes else "e" for k in range(len(site.shape)))
        weight = None if site.source is None else args[1 - site.source]
        product = product_of(eqn)
        if len(args) != 2 or not isinstance(weight, Known) or product is None:
            reason = "its weight is not made of parameters alone, or stands inside a custom rule"
            if site.kind == "embedding":
                reason = "an embedding: starts from its measured rms"
            self.leave(args)
            self.notes.setdefault(name, reason)
            square, shared = self.measured(name, "output_rms", steps) ** 2, self.alike(name, steps)
            source = self.add(Source(square, shared, layer=(name, steps), units=units))
        else:
            assert site.source is not None
            gain = self.gain(product, site.source, weight.value, path)
            down = gain * math.prod(site.shape) / max(math.prod(site.input_shape or (1,)), 1)
            source = self.add(self.fed(name, args[site.source], gain, down, steps, units))
        outs: list[Value] = [Outside("beside a layer")] * len(eqn.outvars)
        outs[site.out] = gaussian(source, axes)
        return outs

    def fed(self, name: str, entering: Value, gain: float, down: float, steps: Steps, units: int) -> Source:
        """The Gaussian that a layer makes of its input; `gain` and `down` are sums of squared weights, per entry."""
        layer = (name, steps)
        if not isinstance(entering, Signal):
            if isinstance(entering, Known):  # an initial state: zeros
                square = float(np.mean(np.square(np.asarray(entering.value, np.float64))))
                return Source(gain * square, 1.0, layer=layer, units=units, log_variance=2 / units)
            if not isinstance(entering, Data):
                reason = entering.reason if isinstance(entering, Outside) else "a statistic of the batch enters it"
                self.leave([entering])
                self.notes.setdefault(name, f"outside the theory: {reason}; starts from its measured input")
            square = self.measured(name, "input_rms", steps) ** 2
            return Source(gain * square, self.alike(name, steps), layer=layer, units=units, log_variance=2 / units)
        if any(source in self._approximate for source in entering.parts) or (
            len(entering.parts) > 1 and not math.isfinite(entering.square)
        ):
            self.notes.setdefault(name, "approximate: a nonlinearity of a sum that is not Gaussian")
        square = entering.square
        shared = (entering.shared + entering.mean**2) / max(square, 1e-300)
        below = max(max((s.units for s in layers_below(entering)), default=units), 1)
        return Source(
            gain * square,
            min(max(shared, -1.0), 1.0),
            [(source, down * factor) for source, factor in entering.edges],
            entering.log_variance + entering.sampling / below + 2 / units,
            layer,
            units,
            entering.kurtosis,
        )

    def alike(self, name: str, steps: Steps) -> float:
        """Measured similarity of a layer's outputs for different examples, 0 where there is none."""
        value = self.measured(name, "similarity", steps)
        return min(max(value, 0.0), 1.0) if math.isfinite(value) else 0.0

    def gain(self, eqn: core.JaxprEqn, source: int, weight: Any, path: tuple[int, ...]) -> float:
        """Mean square output for an input of ones with random signs: counts padding and groups as they are."""
        kept = self._gains.get(path)
        if kept is None or kept[0] is not weight:
            pair = [
                jnp.ones(jaxprs.shape_of(eqn.invars[source]), jnp.float32),
                jnp.square(jnp.asarray(weight, jnp.float32)),
            ]
            pair = pair if source == 0 else pair[::-1]
            params = {**eqn.params, "preferred_element_type": None}
            out = jax.jit(lambda a, b: jnp.mean(eqn.primitive.bind(a, b, **params)))(*pair)
            kept = self._gains[path] = (weight, float(out))
        return kept[1]

    def scan(self, eqn: core.JaxprEqn, args: list[Value], path: tuple[int, ...], steps: Steps) -> list[Value]:
        """Step by step: the weights are shared over time, their outputs taken as independent (Chen et al. 2018)."""
        count, carries = jaxprs.scan_arity(eqn)
        fixed, carry, rows = args[:count], args[count : count + carries], args[count + carries :]
        length, stacked = eqn.params["length"], []
        order = range(length - 1, -1, -1) if eqn.params["reverse"] else range(length)
        for step in order:
            now = [row(value, step) for value in rows]
            outs = self.walk(jaxprs.inner_jaxpr(eqn), [*fixed, *carry, *now], (*path, 0), (*steps, step))
            carry = outs[:carries]
            stacked.append(outs[carries:])
        series = [list(column) for column in zip(*stacked, strict=True)] or [[]] * (len(eqn.outvars) - carries)
        return [*carry, *(self.series(column, eqn) for column in series)]

    def series(self, column: list[Value], eqn: core.JaxprEqn) -> Value:
        """What a scan returns of one value for all its steps."""
        if eqn.params["reverse"]:
            column = column[::-1]
        if column and all(isinstance(v, Signal) for v in column):
            return Series(tuple(column), ("t", *column[0].axes))  # type: ignore[union-attr]
        if any(isinstance(v, Data) for v in column) and all(isinstance(v, (Data, Known)) for v in column):
            return Data()
        if column and all(isinstance(v, Known) and v.exact for v in column):
            return Known(np.stack([np.asarray(v.value) for v in column]))  # type: ignore[union-attr]
        reasons = [v.reason for v in column if isinstance(v, Outside)]
        return outside(column, reasons[0] if reasons else "what a scan stacks")
