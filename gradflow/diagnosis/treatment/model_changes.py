"""Remedies that change a model's configuration: its activation, normalization, skip connections or recurrent cell.

A configuration is any Flax Linen module or dataclass that has such a field, so that models of `gradflow.models` are
served without being imported, and so are others with the same fields.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from gradflow import activations
from gradflow.diagnosis.objective import Objective
from gradflow.diagnosis.treatment.changes import Change, Context
from gradflow.diagnosis.treatment.plan import Plan
from gradflow.initializers import critical

__all__ = ["MODEL_CHANGES", "Build", "ModelChange", "model_changes"]

Build: TypeAlias = Callable[[Any], tuple[Callable[..., Any], Any]]

_TANH_BIAS = 0.05  # sigma_b^2 of the critical line, as in Schoenholz et al. 2017, Fig. 5
_PLAIN_CELLS = ("rnn", "irnn")
_OVER_TIME = ("vanishing", "exploding", "stalled_layer", "learning_rate", "unstable_update")
_DEPTH = ("vanishing", "exploding", "rank_collapse", "shattered")


@dataclasses.dataclass(frozen=True)
class ModelChange:
    """A remedy in a configuration.

    Attributes:
        name: in a few words.
        why: what it is good for.
        effect: what it should do to the flow.
        kinds: findings that it is promising for.
        code: how to do it by hand.
        settings: from a model to choices of new fields, the best first; none where it has them already, or no such
            field. The first choice that the model takes is used.
    """

    name: str
    why: str
    effect: str
    kinds: tuple[str, ...]
    code: str
    settings: Callable[[Any], tuple[Mapping[str, Any], ...]]

    def version(self, model: Any) -> Any:
        """Return the changed model, None where the change does not apply.

        Args:
            model: a configuration; stays as it is.
        """
        for settings in self.settings(model):
            try:
                return model.clone(**settings) if hasattr(model, "clone") else dataclasses.replace(model, **settings)
            except (TypeError, ValueError):  # a value that this model does not know
                continue
        return None


def _saturates(model: Any) -> bool:
    """Tell whether the slope of the model's activation fades on both sides."""
    phi = getattr(model, "activation", None)
    if phi is None or not hasattr(model, "initializer"):
        return False
    try:
        ends = activations.get(phi).saturates_at
    except (KeyError, TypeError, ValueError, ArithmeticError):  # a layer that is no elementwise function
        return False
    return ends is not None and all(abs(end) < float("inf") for end in ends)


def _rectified(model: Any) -> tuple[Mapping[str, Any], ...]:
    return ({"activation": "relu", "initializer": "he_normal"},) if _saturates(model) else ()


def _critical_tanh(model: Any) -> tuple[Mapping[str, Any], ...]:
    if not _saturates(model):
        return ()
    point = critical("tanh", bias_variance=_TANH_BIAS)
    settings = {"activation": "tanh", "initializer": point.kernel}
    return ({**settings, "bias": point.bias}, settings) if getattr(model, "bias", False) else ()


def _leaky(model: Any) -> tuple[Mapping[str, Any], ...]:
    name = getattr(model, "activation", None)
    return ({"activation": "leaky_relu"},) if isinstance(name, str) and activations.get(name).can_die else ()


def _skipping(model: Any) -> tuple[Mapping[str, Any], ...]:
    return ({"residual": "rezero"},) if getattr(model, "residual", True) in (None, False) else ()


def _normalized(model: Any) -> tuple[Mapping[str, Any], ...]:
    linen = sys.modules.get("flax.linen")
    if getattr(model, "normalization", "") is not None:
        return ()
    by_class = () if linen is None else ({"normalization": linen.LayerNorm},)
    return ({"normalization": "layer"}, *by_class)


def _gated(cell: str) -> Callable[[Any], tuple[Mapping[str, Any], ...]]:
    def settings(model: Any) -> tuple[Mapping[str, Any], ...]:
        # An elementwise function stands for the simple cell with it.
        now = getattr(model, "cell", None)
        plain = now in _PLAIN_CELLS if isinstance(now, str) else callable(now) and not isinstance(now, type)
        # What was drawn for the plain cell (a scale, the identity) is not meant for gates.
        drawn = {name: None for name in ("initializer", "recurrent_initializer") if hasattr(model, name)}
        return ({"cell": cell, **drawn}, {"cell": cell}) if plain else ()

    return settings


MODEL_CHANGES = (
    ModelChange("rectifiers", "a slope of 1 wherever a unit is on, in place of one that fades on both sides",
                "weights of variance 2 / fan_in and half the units on: every layer keeps the signal's norm",
                ("vanishing", "saturation", "rank_collapse"),
                'model = model.clone(activation="relu", initializer="he_normal")', _rectified),
    ModelChange("skips", "every layer adds to a stream instead of replacing it",
                "the identity at first: the gradient of the last layer reaches the first as it is", _DEPTH,
                'model = model.clone(residual="rezero")', _skipping),
    ModelChange("layer normalization", "the signal has variance 1 in front of every activation",
                "neither saturation nor growth, whatever the size of the weights",
                ("saturation", "poor_initialization", "unstable_update", *_DEPTH),
                'model = model.clone(normalization="layer")', _normalized),
    ModelChange("critical tanh", "weights at the edge between order and chaos",
                "sigma_w^2 E[slope^2] = 1: the gradient keeps its size over depth",
                ("vanishing", "saturation", "rank_collapse", "exploding"),
                f'point = gf.initializers.critical("tanh", bias_variance={_TANH_BIAS}); '
                'model = model.clone(activation="tanh", initializer=point.kernel, bias=point.bias)', _critical_tanh),
    ModelChange("leaky rectifiers", "a unit that is off for every example still learns", "no unit without a gradient",
                ("dead_units",), 'model = model.clone(activation="leaky_relu")', _leaky),
    ModelChange("LSTM", "a memory that is added to, and gates that keep it",
                "at first .73 of the memory's credit passes each step (forget bias 1), and the gate can open further",
                _OVER_TIME, 'model = model.clone(cell="lstm")', _gated("lstm")),
    ModelChange("GRU", "a gate decides what of the state is kept",
                "at first half of the credit passes each step by the gate alone, and the gate can open further",
                _OVER_TIME, 'model = model.clone(cell="gru")', _gated("gru")),
)  # fmt: skip


def model_changes(
    model: Any, build: Build, args: tuple[Any, ...], kwargs: dict[str, Any], has_aux: bool
) -> Iterator[Change]:
    """Yield the changes that apply to a model, as changes of a plan.

    Args:
        model: a configuration.
        build: from a configuration to (loss_fn, params).
        args: of the loss, behind the parameters.
        kwargs: of the loss.
        has_aux: whether the loss returns (loss, aux).
    """
    for entry in MODEL_CHANGES:
        version = entry.version(model)
        if version is not None:
            made = functools.cache(functools.partial(_built, entry.name, version, build, args, kwargs, has_aux))
            yield Change(entry.name, "model", entry.why, entry.effect, entry.kinds, entry.code, _applied(made, version))


def _built(
    name: str, version: Any, build: Build, args: tuple[Any, ...], kwargs: dict[str, Any], has_aux: bool
) -> Objective | None:
    try:
        loss_fn, params = build(version)
        return Objective.of(loss_fn, params, args, kwargs, has_aux)
    except Exception as error:
        said = str(error).splitlines() or [type(error).__name__]
        warnings.warn(f"treat: {name} is left out, since build failed on that model: {said[0]}", stacklevel=2)
        return None


def _applied(made: Callable[[], Objective | None], version: Any) -> Callable[[Plan, Context], Plan | None]:
    def apply(plan: Plan, context: Context) -> Plan | None:
        objective = made()
        if objective is None:
            return None
        return dataclasses.replace(plan, objective=objective, leaves=objective.leaves, model=version)

    return apply
