"""Run a jaxpr with taps in place, one handler for each higher-order primitive that holds some.

Every handler returns, beside the outputs of the equation, what the taps below it saw on the way forward: numbers by
key, which scans stack, branches complete with zeros, and devices add up.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core

from gradflow.instrument import jaxprs
from gradflow.instrument.sinks import Arrays, Chain, Key, Pack
from gradflow.instrument.sites import Site
from gradflow.instrument.tap import (
    TapSpec,
    apply_expert_tap,
    apply_input_tap,
    apply_tap,
    forward_numbers,
    silent_units,
)

Result = tuple[list[Any], Arrays]


@dataclasses.dataclass
class _Node:
    """The sites of one jaxpr: by equation, and those further down by (equation, sub-jaxpr)."""

    chain: Chain = ()
    taps: dict[int, list[int]] = dataclasses.field(default_factory=dict)
    below: dict[tuple[int, int], _Node] = dataclasses.field(default_factory=dict)
    back: set[Key] = dataclasses.field(default_factory=set)
    ahead: set[Key] = dataclasses.field(default_factory=set)

    @property
    def touched(self) -> set[int]:
        return {*self.taps, *(index for index, _ in self.below)}


class Interpreter:
    """A traced function, ready to be run with taps at `sites`.

    Args:
        sites: where to tap.
        specs: what each tap has to know.
        packs: how their numbers are grouped; every site is in exactly one.
    """

    def __init__(self, sites: Sequence[Site], specs: Sequence[TapSpec], packs: Sequence[Pack]) -> None:
        self.sites, self.specs, self.packs = tuple(sites), tuple(specs), tuple(packs)
        self.numbers = {pack.chain: number for number, pack in enumerate(packs)}
        self.root = _Node()
        for k, site in enumerate(self.sites):
            self._plant(k, site)

    def __call__(self, closed: Any, args: Sequence[Any], sinks: Sequence[Any]) -> tuple[list[Any], tuple[Any, ...]]:
        """Evaluate the traced function.

        Args:
            closed: the jaxpr.
            args: its inputs.
            sinks: in the order of `packs`.

        Returns:
            Its outputs, and the forward numbers in the order of `packs`.
        """
        given: Arrays = {("pack", number, ""): sink for number, sink in enumerate(sinks)}
        outs, ahead = self._call(self.root, closed, args, self._opened(self.root, given))
        ahead = self._closed(self.root, ahead)
        return outs, tuple(ahead[("pack", number, "")] for number in range(len(self.packs)))

    def _plant(self, k: int, site: Site) -> None:
        node, path = self.root, site.path
        number = self.numbers[site.chain]
        back: set[Key] = {("site", k, part) for part in self.specs[k].back}
        ahead: set[Key] = {("site", k, part) for part in self.specs[k].ahead}
        packed: set[Key] = {("pack", number, "")}
        for depth in range(0, len(path) - 1, 2):
            own = node.chain == site.chain
            node.back |= back if own else packed
            node.ahead |= ahead if own else packed
            edge, prefix = (path[depth], path[depth + 1]), path[: depth + 2]
            deeper = (*node.chain, prefix) if prefix in site.chain else node.chain
            node = node.below.setdefault(edge, _Node(deeper))
        node.back |= back
        node.ahead |= ahead
        node.taps.setdefault(path[-1], []).append(k)

    def _opened(self, node: _Node, sinks: Arrays) -> Arrays:
        """Replace the pack that belongs to this very nest of scans by the sinks inside it."""
        number = self.numbers.get(node.chain, -1)
        array = sinks.pop(("pack", number, ""), None)
        return sinks if array is None else sinks | self.packs[number].split(array)

    def _closed(self, node: _Node, ahead: Arrays) -> Arrays:
        """Put the forward numbers of this very nest of scans into their pack."""
        number = self.numbers.get(node.chain)
        if number is None:
            return ahead
        rest = {key: value for key, value in ahead.items() if key[0] == "pack"}
        return rest | {("pack", number, ""): self.packs[number].joined(ahead)}

    def _call(self, node: _Node, closed: Any, args: Sequence[Any], sinks: Arrays) -> Result:
        jaxpr, consts = jaxprs.opened(closed)
        env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))
        ahead: Arrays = {}
        for start, stop, outs in _pieces(jaxpr, node.touched):
            if start in node.touched:
                ahead |= self._equation(node, start, jaxpr, env, sinks)
            else:
                jaxprs.evaluate(jaxpr, jaxpr.eqns[start:stop], outs, env)
        return [env[v] if jaxprs.is_var(v) else jaxprs.literal_value(v) for v in jaxpr.outvars], ahead

    def _equation(self, node: _Node, index: int, jaxpr: core.Jaxpr, env: dict[Any, Any], sinks: Arrays) -> Arrays:
        eqn = jaxpr.eqns[index]
        here = node.taps.get(index, [])
        inputs = {v: env[v] for v in eqn.invars if jaxprs.is_var(v)}
        ahead: Arrays = {}
        for k in here:
            ahead |= self._before(k, eqn, inputs, env, sinks)
        args = [inputs[v] if jaxprs.is_var(v) else jaxprs.literal_value(v) for v in eqn.invars]
        below = {branch: child for (at, branch), child in node.below.items() if at == index}
        if below:
            outs, seen = _HANDLERS[eqn.primitive.name](self, eqn, below, args, sinks)
            ahead |= seen
            made: dict[Any, Any] = dict(zip(eqn.outvars, outs, strict=True))
        else:
            made = dict(inputs)
            jaxprs.evaluate(jaxpr, [eqn], [v for v in eqn.outvars if not isinstance(v, core.DropVar)], made)
        env.update((v, made[v]) for v in eqn.outvars if not isinstance(v, core.DropVar))
        for k in here:
            ahead |= self._behind(k, eqn, env, sinks)
        return ahead

    def _before(self, k: int, eqn: core.JaxprEqn, inputs: dict[Any, Any], env: dict[Any, Any], sinks: Arrays) -> Arrays:
        """Tap what enters the equation."""
        site, spec = self.sites[k], self.specs[k]
        if site.entering:
            var = eqn.invars[site.out]
            if site.forward_only:
                return {("site", k, "value"): forward_numbers(spec, env[var], None)}
            inputs[var], numbers = apply_tap(spec, env[var], None, sinks[("site", k, "value")])
            return {("site", k, "value"): numbers}
        if ("site", k, "input_cotangent") in sinks and site.source is not None:
            var = eqn.invars[site.source]
            inputs[var] = apply_input_tap(spec, env[var], sinks[("site", k, "input_cotangent")])
        return {}

    def _behind(self, k: int, eqn: core.JaxprEqn, env: dict[Any, Any], sinks: Arrays) -> Arrays:
        """Tap what leaves the equation."""
        site, spec = self.sites[k], self.specs[k]
        if site.entering:
            return {}
        var = eqn.outvars[site.out]
        if site.forward_only:
            return {("site", k, "silent"): silent_units(spec, env[var])}
        x = None
        if site.source is not None and jaxprs.is_var(eqn.invars[site.source]):
            x = env[eqn.invars[site.source]]
        ahead: Arrays = {}
        if "experts" in spec.ahead and site.groups is not None:
            atom = eqn.invars[site.groups]
            sizes = env[atom] if jaxprs.is_var(atom) else jnp.asarray(jaxprs.literal_value(atom))
            sink = sinks[("site", k, "experts")]
            env[var], ahead[("site", k, "experts")] = apply_expert_tap(spec, env[var], sizes, sink)
        env[var], ahead[("site", k, "value")] = apply_tap(spec, env[var], x, sinks[("site", k, "value")])
        return ahead

    def _inline(self, eqn: core.JaxprEqn, below: dict[int, _Node], args: Sequence[Any], sinks: Arrays) -> Result:
        args = _constrained(args, eqn.params.get("in_shardings", ()))
        outs, ahead = self._call(below[0], jaxprs.inner_jaxpr(eqn), args, sinks)
        return _constrained(outs, eqn.params.get("out_shardings", ())), ahead

    def _remat(self, eqn: core.JaxprEqn, below: dict[int, _Node], args: Sequence[Any], sinks: Arrays) -> Result:
        def run(args: Sequence[Any], sinks: Arrays) -> Result:
            return self._call(below[0], jaxprs.inner_jaxpr(eqn), args, sinks)

        remat = jax.checkpoint(run, prevent_cse=eqn.params["prevent_cse"], policy=eqn.params["policy"])
        return remat(list(args), _needed(below[0], sinks))

    def _scan(self, eqn: core.JaxprEqn, below: dict[int, _Node], args: Sequence[Any], sinks: Arrays) -> Result:
        num_consts, num_carry = jaxprs.scan_arity(eqn)
        consts, carry = args[:num_consts], args[num_consts : num_consts + num_carry]
        rows = args[num_consts + num_carry :]
        node = below[0]

        def body(carry: list[Any], step: tuple[list[Any], Arrays]) -> tuple[list[Any], tuple[list[Any], Arrays]]:
            rows, sinks = step
            given = self._opened(node, dict(sinks))
            outs, ahead = self._call(node, jaxprs.inner_jaxpr(eqn), [*consts, *carry, *rows], given)
            return outs[:num_carry], (outs[num_carry:], self._closed(node, ahead))

        last, (stacked, ahead) = lax.scan(
            body,
            list(carry),
            (list(rows), self._entering(node, sinks)),
            length=eqn.params["length"],
            reverse=eqn.params["reverse"],
            unroll=eqn.params["unroll"],
            **({"_split_transpose": True} if eqn.params.get("_split_transpose") else {}),
        )
        return [*last, *stacked], ahead

    def _entering(self, node: _Node, sinks: Arrays) -> Arrays:
        """Return the packs that a scan's body consumes row by row: its own and those of scans inside it."""
        numbers = {self.numbers[node.chain]} if node.chain in self.numbers else set()
        numbers |= {number for kind, number, _ in node.back if kind == "pack"}
        return {("pack", n, ""): sinks[("pack", n, "")] for n in sorted(numbers)}

    def _cond(self, eqn: core.JaxprEqn, below: dict[int, _Node], args: Sequence[Any], sinks: Arrays) -> Result:
        promised = {key: node for node in below.values() for key in node.ahead}

        def branch(number: int) -> Callable[[list[Any], Arrays], Result]:
            closed = eqn.params["branches"][number]

            def run(args: list[Any], sinks: Arrays) -> Result:
                outs, ahead = self._call(below.get(number, _Node()), closed, args, sinks)
                given = {key: ahead[key] if key in ahead else self._nothing(key, promised[key]) for key in promised}
                return outs, given

            return run

        needed = {key: value for node in below.values() for key, value in _needed(node, sinks).items()}
        branches = [branch(n) for n in range(len(eqn.params["branches"]))]
        return lax.switch(args[0], branches, list(args[1:]), needed)

    def _nothing(self, key: Key, node: _Node) -> Any:
        """Return the forward numbers of a branch that was not taken."""
        kind, number, part = key
        if kind == "pack":
            return self.packs[number].no_forward(len(node.chain))
        return jnp.zeros((self.specs[number].ahead[part],), self.specs[number].layout.dtype)

    def _shard_map(self, eqn: core.JaxprEqn, below: dict[int, _Node], args: Sequence[Any], sinks: Arrays) -> Result:
        params, needed = eqn.params, _needed(below[0], sinks)
        manual = params.get("newly_manual_axes", params.get("manual_axes", frozenset()))
        everywhere = jax.sharding.PartitionSpec()
        each = jax.sharding.PartitionSpec(tuple(a for a in params["mesh"].axis_names if a in manual))

        def run(args: list[Any], sinks: Arrays) -> Result:
            outs, ahead = self._call(below[0], jaxprs.inner_jaxpr(eqn), args, sinks)
            spread = {key: jaxprs.varying_over(x, manual) if params["check_vma"] else x for key, x in ahead.items()}
            return outs, {key: value[None] for key, value in spread.items()}

        mapped = jax.shard_map(
            run,
            mesh=params["mesh"],
            in_specs=(list(params["in_specs"]), dict.fromkeys(needed, everywhere)),
            out_specs=(list(params["out_specs"]), dict.fromkeys(sorted(below[0].ahead), each)),
            check_vma=params["check_vma"],
            axis_names=manual,
        )
        outs, ahead = mapped(list(args), needed)
        return outs, {key: jnp.sum(value, 0) for key, value in ahead.items()}


_HANDLERS: dict[str, Callable[..., Result]] = {
    **dict.fromkeys(jaxprs.INLINED, Interpreter._inline),
    **dict.fromkeys(jaxprs.REMAT, Interpreter._remat),
    "scan": Interpreter._scan,
    "cond": Interpreter._cond,
    "shard_map": Interpreter._shard_map,
}


def _needed(node: _Node, sinks: Arrays) -> Arrays:
    return {key: sinks[key] for key in sorted(node.back)}


def _constrained(values: Sequence[Any], shardings: Sequence[Any]) -> list[Any]:
    """Keep the shardings that a nested jit asks for."""
    if not any(isinstance(s, jax.sharding.Sharding) for s in shardings):
        return list(values)
    return [
        lax.with_sharding_constraint(v, s) if isinstance(s, jax.sharding.Sharding) else v
        for v, s in zip(values, shardings, strict=True)
    ]


def _pieces(jaxpr: core.Jaxpr, touched: set[int]) -> list[tuple[int, int, list[Any]]]:
    """Cut the equations at the touched ones; with each piece come the variables that later ones read."""
    cuts = sorted({0, len(jaxpr.eqns), *touched, *(t + 1 for t in touched)})
    last: dict[Any, int] = {}
    for index, eqn in enumerate(jaxpr.eqns):
        last.update((v, index) for v in eqn.invars if jaxprs.is_var(v))
    last.update((v, len(jaxpr.eqns)) for v in jaxpr.outvars if jaxprs.is_var(v))
    pieces = []
    for start, stop in itertools.pairwise(cuts):
        made = (v for eqn in jaxpr.eqns[start:stop] for v in eqn.outvars)
        pieces.append((start, stop, [v for v in made if last.get(v, -1) >= stop]))
    return pieces
