"""Run a jaxpr with taps in place, one handler for each higher-order primitive that holds some."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
from jax.extend import core

from gradflow.instrument import jaxprs
from gradflow.instrument.layers import Site
from gradflow.instrument.sinks import Chain, Pack, Sinks, SiteKey
from gradflow.instrument.tap import TapSpec, apply_input_tap, apply_tap


@dataclasses.dataclass
class _Node:
    """The sites of one jaxpr: by equation, and those further down by (equation, sub-jaxpr)."""

    chain: Chain = ()
    taps: dict[int, list[int]] = dataclasses.field(default_factory=dict)
    below: dict[tuple[int, int], _Node] = dataclasses.field(default_factory=dict)
    keys: set[SiteKey] = dataclasses.field(default_factory=set)

    @property
    def touched(self) -> set[int]:
        return {*self.taps, *(index for index, _ in self.below)}


class Interpreter:
    """A traced function, ready to be run with taps at `sites`.

    Args:
        sites: where to tap.
        specs: what each tap has to know.
        packs: how their sinks are grouped; every site is in exactly one.
    """

    def __init__(self, sites: Sequence[Site], specs: Sequence[TapSpec], packs: Sequence[Pack]) -> None:
        self.sites, self.specs = tuple(sites), tuple(specs)
        self.packs = {pack.chain: (number, pack) for number, pack in enumerate(packs)}
        self.root = _Node()
        for k, site in enumerate(self.sites):
            self._plant(k, site)

    def __call__(self, closed: Any, args: Sequence[Any], sinks: Sequence[Any]) -> list[Any]:
        """Evaluate the traced function; `sinks` in the order of `packs`."""
        given: Sinks = {("pack", number, ""): sinks[number] for number, _ in self.packs.values()}
        return self._call(self.root, closed, args, self._opened(self.root, given))

    def _plant(self, k: int, site: Site) -> None:
        node, path = self.root, site.path
        number, pack = self.packs[site.chain]
        own: set[SiteKey] = {("site", k, which) for site_, which, _ in pack.pieces if site_ == k}
        for depth in range(0, len(path) - 1, 2):
            node.keys |= own if node.chain == site.chain else {("pack", number, "")}
            edge, prefix = (path[depth], path[depth + 1]), path[: depth + 2]
            deeper = (*node.chain, prefix) if prefix in site.chain else node.chain
            node = node.below.setdefault(edge, _Node(deeper))
        node.keys |= own
        node.taps.setdefault(path[-1], []).append(k)

    def _opened(self, node: _Node, sinks: Sinks) -> Sinks:
        """Replace the pack that belongs to this very nest of scans by the sinks inside it."""
        number, pack = self.packs.get(node.chain, (-1, None))
        array = sinks.pop(("pack", number, ""), None)
        return sinks if array is None or pack is None else sinks | pack.split(array)

    def _call(self, node: _Node, closed: Any, args: Sequence[Any], sinks: Sinks) -> list[Any]:
        jaxpr, consts = jaxprs.opened(closed)
        env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))
        for start, stop, outs in _pieces(jaxpr, node.touched):
            if start in node.touched:
                self._equation(node, start, jaxpr, env, sinks)
            else:
                jaxprs.evaluate(jaxpr, jaxpr.eqns[start:stop], outs, env)
        return [env[v] if jaxprs.is_var(v) else jaxprs.literal_value(v) for v in jaxpr.outvars]

    def _equation(self, node: _Node, index: int, jaxpr: core.Jaxpr, env: dict[Any, Any], sinks: Sinks) -> None:
        eqn = jaxpr.eqns[index]
        here = [self.sites[k] for k in node.taps.get(index, ())]
        inputs = {v: env[v] for v in eqn.invars if jaxprs.is_var(v)}
        entering = {}
        for k, site in zip(node.taps.get(index, ()), here, strict=True):
            if site.source is not None and jaxprs.is_var(eqn.invars[site.source]):
                var = eqn.invars[site.source]
                entering[k] = env[var]
                if ("site", k, "handed") in sinks:
                    inputs[var] = apply_input_tap(self.specs[k], env[var], sinks[("site", k, "handed")])
        args = [inputs[v] if jaxprs.is_var(v) else jaxprs.literal_value(v) for v in eqn.invars]
        below = [(branch, child) for (at, branch), child in node.below.items() if at == index]
        if below:
            outs = _HANDLERS[eqn.primitive.name](self, eqn, dict(below), args, sinks)
            env.update(zip(eqn.outvars, outs, strict=True))
        else:
            kept = [v for v in eqn.outvars if not isinstance(v, core.DropVar)]
            jaxprs.evaluate(jaxpr, [eqn], kept, inputs)
            env.update((v, inputs[v]) for v in kept)
        for k, site in zip(node.taps.get(index, ()), here, strict=True):
            var = eqn.outvars[site.out]
            env[var] = apply_tap(self.specs[k], env[var], entering.get(k), sinks[("site", k, "main")])

    def _inline(self, eqn: core.JaxprEqn, below: dict[int, _Node], args: Sequence[Any], sinks: Sinks) -> list[Any]:
        args = _constrained(args, eqn.params.get("in_shardings", ()))
        outs = self._call(below[0], jaxprs.inner_jaxpr(eqn), args, sinks)
        return _constrained(outs, eqn.params.get("out_shardings", ()))

    def _remat(self, eqn: core.JaxprEqn, below: dict[int, _Node], args: Sequence[Any], sinks: Sinks) -> list[Any]:
        def run(args: Sequence[Any], sinks: Sinks) -> list[Any]:
            return self._call(below[0], jaxprs.inner_jaxpr(eqn), args, sinks)

        remat = jax.checkpoint(run, prevent_cse=eqn.params["prevent_cse"], policy=eqn.params["policy"])
        return remat(list(args), _needed(below[0], sinks))

    def _scan(self, eqn: core.JaxprEqn, below: dict[int, _Node], args: Sequence[Any], sinks: Sinks) -> list[Any]:
        num_consts, num_carry = jaxprs.scan_arity(eqn)
        consts, carry, rows = (
            args[:num_consts],
            args[num_consts : num_consts + num_carry],
            args[num_consts + num_carry :],
        )
        node = below[0]

        def body(carry: list[Any], step: tuple[list[Any], Sinks]) -> tuple[list[Any], list[Any]]:
            rows, sinks = step
            outs = self._call(node, jaxprs.inner_jaxpr(eqn), [*consts, *carry, *rows], self._opened(node, dict(sinks)))
            return outs[:num_carry], outs[num_carry:]

        last, stacked = lax.scan(
            body,
            list(carry),
            (list(rows), self._entering(node, sinks)),
            length=eqn.params["length"],
            reverse=eqn.params["reverse"],
            unroll=eqn.params["unroll"],
            **({"_split_transpose": True} if eqn.params.get("_split_transpose") else {}),
        )
        return [*last, *stacked]

    def _entering(self, node: _Node, sinks: Sinks) -> Sinks:
        """Return the packs that a scan's body consumes row by row: its own and those of scans inside it."""
        numbers = {self.packs[node.chain][0]} if node.chain in self.packs else set()
        numbers |= {number for kind, number, _ in node.keys if kind == "pack"}
        return {("pack", n, ""): sinks[("pack", n, "")] for n in sorted(numbers)}

    def _cond(self, eqn: core.JaxprEqn, below: dict[int, _Node], args: Sequence[Any], sinks: Sinks) -> list[Any]:
        def branch(number: int) -> Callable[[list[Any], Sinks], list[Any]]:
            closed = eqn.params["branches"][number]
            return lambda args, sinks: self._call(below.get(number, _Node()), closed, args, sinks)

        needed = {key: value for node in below.values() for key, value in _needed(node, sinks).items()}
        branches = [branch(n) for n in range(len(eqn.params["branches"]))]
        return lax.switch(args[0], branches, list(args[1:]), needed)

    def _shard_map(self, eqn: core.JaxprEqn, below: dict[int, _Node], args: Sequence[Any], sinks: Sinks) -> list[Any]:
        needed = _needed(below[0], sinks)

        def run(args: list[Any], sinks: Sinks) -> list[Any]:
            return self._call(below[0], jaxprs.inner_jaxpr(eqn), args, sinks)

        params = eqn.params
        everywhere = jax.sharding.PartitionSpec()
        mapped = jax.shard_map(
            run,
            mesh=params["mesh"],
            in_specs=(list(params["in_specs"]), dict.fromkeys(needed, everywhere)),
            out_specs=list(params["out_specs"]),
            check_vma=params["check_vma"],
            axis_names=params.get("newly_manual_axes", params.get("manual_axes", frozenset())),
        )
        return mapped(list(args), needed)


_HANDLERS: dict[str, Callable[..., list[Any]]] = {
    **dict.fromkeys(jaxprs.INLINED, Interpreter._inline),
    **dict.fromkeys(jaxprs.REMAT, Interpreter._remat),
    "scan": Interpreter._scan,
    "cond": Interpreter._cond,
    "shard_map": Interpreter._shard_map,
}


def _needed(node: _Node, sinks: Sinks) -> Sinks:
    return {key: sinks[key] for key in sorted(node.keys)}


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
