"""What the analysis finds in a jaxpr: places to tap, and uses of parameters that have no place of their own."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from gradflow.instrument.jaxprs import dtype_of, shape_of
from gradflow.instrument.origins import Origin

Path = tuple[int, ...]
Pass = Literal["value", "tangent", "cotangent"]
LAYER_KINDS = ("layer", "embedding", "activation")


@dataclasses.dataclass(frozen=True)
class Site:
    """One place in the jaxpr where a value is tapped.

    Attributes:
        path: indices that lead to the equation: (equation, sub-jaxpr, equation, ...), the last one an equation.
        kind: "layer", "embedding", "activation" (two activations contracted), "tap" (by hand), "carry", "input" (data
            that enters a layer), or "silence" (the activation that follows a 16-bit layer: which units are 0 there).
        out: which output of the equation is tapped; which operand, where `entering`.
        source: which operand enters as the layer's input, None where there is none to speak of.
        weight: origin of the weight, None where there is none.
        unit_axes, example_axes: axes of the tapped value; `similarity` runs over the first example axis.
        shape, input_shape: of the tapped value and of the input.
        dtype: of the tapped value.
        mesh_axes: manual mesh axes over which the examples are split.
        lengths: lengths of the scans around it, outermost first.
        reverse: which of those scans run from their last step to their first.
        chain: paths of those scans.
        scope: the `jax.named_scope` at which it was traced.
        given: the name given by hand, "" otherwise.
        source_active: whether the loss differentiates through the input anyway.
        source_carried: whether the input is what a scan carries (the recurrent kernel of a cell).
        order: sorts sites by when they run.
        entering: whether the value is tapped before the equation, for this use of it alone.
        forward_only: whether there is nothing to see on the way back (data, and what answers a question about it).
        computed_in: "value", or "tangent" or "cotangent" of a derivative inside the loss.
        groups: operand that holds the sizes of the groups of a ragged contraction, None elsewhere.
        experts: how many groups there are.
        cut: what lies between it and the loss where no cotangent can reach it, () where one can.
        parent: path of the layer that a "silence" belongs to.
        single_reader: whether one equation alone reads the tapped value.
        readers: numbers of the equations beside it to which each goes as a branch of its own, () for no fork.
    """

    path: Path
    kind: str
    out: int
    source: int | None
    weight: Origin | None
    unit_axes: tuple[int, ...]
    example_axes: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: Any
    input_shape: tuple[int, ...] | None = None
    mesh_axes: tuple[str, ...] = ()
    lengths: tuple[int, ...] = ()
    reverse: tuple[bool, ...] = ()
    chain: tuple[Path, ...] = ()
    scope: str = ""
    given: str = ""
    source_active: bool = False
    source_carried: bool = False
    order: tuple[Any, ...] = ()
    entering: bool = False
    forward_only: bool = False
    computed_in: Pass = "value"
    groups: int | None = None
    experts: int = 0
    cut: tuple[str, ...] = ()
    parent: Path = ()
    single_reader: bool = False
    readers: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Use:
    """A use of parameters that has no row.

    Attributes:
        leaves: numbers of the leaves.
        why: what the use is, in words.
    """

    leaves: frozenset[int]
    why: str


@dataclasses.dataclass(frozen=True)
class Findings:
    """What can be tapped in a traced loss, and what cannot.

    Attributes:
        sites: in forward order.
        uses: uses of leaves that feed the loss and have no site.
        used: leaves on which the loss depends.
        reached: leaves to which a cotangent can get.
    """

    sites: tuple[Site, ...]
    uses: tuple[Use, ...]
    used: frozenset[int]
    reached: frozenset[int]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the analysis stands: the path so far and the scans around it."""

    path: Path = ()
    lengths: tuple[int, ...] = ()
    reverse: tuple[bool, ...] = ()
    chain: tuple[Path, ...] = ()

    def into(self, eqn: int, branch: int = 0) -> Place:
        """Step into a sub-jaxpr of an equation."""
        return dataclasses.replace(self, path=(*self.path, eqn, branch))

    def into_scan(self, eqn: int, length: int, reverse: bool) -> Place:
        """Step into the body of a scan."""
        path = (*self.path, eqn, 0)
        return Place(path, (*self.lengths, length), (*self.reverse, reverse), (*self.chain, path))


def site_of_value(var: Any, path: Path, kind: str, out: int, place: Place, **more: Any) -> Site:
    """Return a place that taps a value as it is: its last axis holds the units, the ones before it the examples.

    Args:
        var: the variable.
        path: of the equation before or behind which it is tapped.
        kind: see `Site`.
        out: see `Site`.
        place: where the equation stands.
        **more: further attributes of the site.
    """
    shape = shape_of(var)
    more = {"source": None, "weight": None} | more
    return Site(
        path,
        kind,
        out,
        unit_axes=tuple(range(len(shape)))[-1:],
        example_axes=tuple(range(len(shape) - 1)),
        shape=shape,
        dtype=dtype_of(var),
        lengths=place.lengths,
        reverse=place.reverse,
        chain=place.chain,
        **more,
    )
