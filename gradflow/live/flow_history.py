"""The flow during training, as arrays of layer x step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gradflow.instrument import Flow

__all__ = ["FlowHistory", "history", "profile", "rows"]


@dataclasses.dataclass(frozen=True, eq=False)
class FlowHistory:
    """Flow over the steps of training.

    Attributes:
        steps: number of each recorded step: the flow of the update that was its (step + 1)-th.
        layers: names in forward order; a layer inside a scan has one row a step of it, `Hidden/Dense_0[3]`, in the
            order of their index, also where the scan runs in reverse.
        values: statistic -> array layer x step; NaN where the network had NaN, and where there was no number (the layer
            did not run, no cotangent reached it).
    """

    steps: Int[np.ndarray, " records"]
    layers: tuple[str, ...]
    values: dict[str, Float[np.ndarray, "layers records"]]

    def joined(self, later: FlowHistory) -> FlowHistory:
        """Return both, one after the other.

        Args:
            later: records of later steps, of the same layers and statistics.

        Raises:
            ValueError: if it has other layers or statistics.
        """
        if self.layers != later.layers or self.values.keys() != later.values.keys():
            raise ValueError(
                f"expected a history of {len(self.layers)} layers with {', '.join(self.values)}; got "
                f"{len(later.layers)} layers with {', '.join(later.values)}. Likely cause: another model or other "
                "statistics than when the run began. Fix: continue with what it began with"
            )
        values = {name: np.concatenate([old, later.values[name]], 1) for name, old in self.values.items()}
        return FlowHistory(np.concatenate([self.steps, later.steps]), self.layers, values)

    def until(self, records: int) -> FlowHistory:
        """Return the first of the records.

        Args:
            records: how many.
        """
        values = {name: value[:, :records] for name, value in self.values.items()}
        return FlowHistory(self.steps[:records], self.layers, values)

    def _repr_html_(self) -> str:
        """Return a table for notebooks: for each layer and statistic a curve over the steps, first and last value."""
        from gradflow.instrument.html import history_html

        first_last = f", steps {self.steps[0]} … {self.steps[-1]}" if len(self.steps) else ""
        title = f"FlowHistory({len(self.layers)} rows, {len(self.steps)} records{first_last})"
        return history_html(title, self.layers, self.values)


def history(flow: Flow, steps: Sequence[int] | Int[np.ndarray, " records"]) -> FlowHistory:
    """Turn a flow that was stacked over records, as `gf.training.run` returns it, into arrays layer x step.

    Args:
        flow: statistics with one leading axis, the records.
        steps: the step of each.

    Examples:
        >>> import jax, jax.numpy as jnp, gradflow as gf
        >>> measure = gf.value_grad_and_flow(lambda w, x: jnp.mean((x @ w) ** 2), statistics="output_rms")
        >>> _, (_, _, flow) = jax.lax.scan(lambda w, x: (w, measure(w, x)), jnp.ones((3, 2)), jnp.ones((5, 4, 3)))
        >>> history(flow, range(5)).values["output_rms"].shape
        (1, 5)
    """
    taken = {name: np.asarray(value).T for name, value in profile(flow, stacked=1).items()}
    return FlowHistory(np.asarray(steps, np.int64), rows(flow, stacked=1), taken)


def profile(
    flow: Flow, statistics: Iterable[str] | None = None, *, stacked: int = 0
) -> dict[str, Float[Array, "*stack layers"]]:
    """Line up a flow's statistics over its layers; pure, also inside `jit`.

    Args:
        flow: of one step, or of many.
        statistics: fields of `LayerFlow`; those that the flow was made with by default, except `nonfinite`.
        stacked: how many axes of `vmap` and `scan` around the transformation the statistics have in front.

    Returns:
        Arrays whose last axis is that of `rows`.
    """
    chosen = [s for s in flow.statistics if s != "nonfinite"] if statistics is None else list(statistics)

    def line(statistic: str) -> Array:
        parts = [jnp.asarray(getattr(flow[layer], statistic)) for layer in flow.layers]
        return jnp.concatenate([part.reshape(*part.shape[:stacked], -1) for part in parts], -1)

    return {statistic: line(statistic) for statistic in chosen}


def rows(flow: Flow, *, stacked: int = 0) -> tuple[str, ...]:
    """Name the rows of `profile`: the layers, those inside scans once for each step, `name[step]`.

    Args:
        flow: of one step, or of many.
        stacked: as for `profile`.
    """
    names: list[str] = []
    for layer in flow.layers:
        names.extend(_row_name(layer, step) for step in np.ndindex(np.shape(flow[layer].calls)[stacked:]))
    return tuple(names)


def _row_name(name: str, steps: tuple[int, ...]) -> str:
    return name + "".join(f"[{i}]" for i in steps)
