"""The treatment of a network: what is promising is tried beside no remedy at all and beside a random one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from scipy.special import stdtrit

from gradflow.diagnosis.objective import Objective
from gradflow.diagnosis.treatment.changes import ADAM, CHANGES, RATES, STARTS, Change, Context, at_random, promising
from gradflow.diagnosis.treatment.model_changes import Build, model_changes
from gradflow.diagnosis.treatment.plan import Plan
from gradflow.diagnosis.treatment.trials import Outcome, Trials
from gradflow.diagnosis.verdict import Diagnosis, diagnose, first_batches

if TYPE_CHECKING:
    import optax

__all__ = ["Arm", "Treatment", "treat"]

_CHANCE = 0.95
_CANDIDATES = 3  # that are tried over more orders at most
WORTH = 0.1  # the tenth that `experiments.diagnosis` parts sick networks from healthy ones by


@dataclasses.dataclass(frozen=True, eq=False)
class Arm:
    """One way of training that was tried.

    Attributes:
        changes: that were made; empty for the untreated network.
        plan: how it is trained.
        outcome: what it reached.
        random: whether it was drawn by chance, to compare with.
        variant: name of the model's version; "" for the one that was passed.
    """

    changes: tuple[Change, ...]
    plan: Plan
    outcome: Outcome
    random: bool = False
    variant: str = ""

    @property
    def name(self) -> str:
        """What was changed, in a few words."""
        said = [*filter(None, [self.variant]), *(change.name for change in self.changes)]
        return ", ".join(said) or "untreated"

    @property
    def loss(self) -> float:
        """Mean over the seeds of the loss in the end."""
        return float(np.mean(self.outcome.ends))

    def better_by(self, other: Arm) -> tuple[float, float]:
        """Return limits of how much lower the loss is than another arm's, seed by seed; equal numbers for one seed.

        Args:
            other: the arm to compare with, over the seeds that both were trained on.
        """
        both = min(len(self.outcome.ends), len(other.outcome.ends))
        ends = self.outcome.ends[:both]
        with np.errstate(invalid="ignore"):
            differences = other.outcome.ends[:both] - ends
        if not np.all(np.isfinite(differences)):
            won = np.isfinite(ends).all()
            return (math.inf, math.inf) if won else (-math.inf, -math.inf)
        middle, count = float(np.mean(differences)), len(differences)
        if count == 1:
            return middle, middle
        half = float(stdtrit(count - 1, (1 + _CHANCE) / 2)) * float(np.std(differences, ddof=1)) / math.sqrt(count)
        return middle - half, middle + half


@dataclasses.dataclass(frozen=True, eq=False)
class Treatment:
    """What was tried, and the best of it; `print` shows a letter.

    Attributes:
        chosen: the best arm; the untreated one where nothing was better for certain.
        trials: all arms, the untreated one first.
        diagnosis: that the changes were chosen by.
        given: the optimizer that was passed.
        budget: steps of a trial.
    """

    chosen: Arm
    trials: tuple[Arm, ...]
    diagnosis: Diagnosis
    given: optax.GradientTransformation
    budget: int

    @property
    def improved(self) -> bool:
        """Whether something was better than no treatment."""
        return self.chosen is not self.untreated

    @property
    def untreated(self) -> Arm:
        """The network as it was passed."""
        return self.trials[0]

    @property
    def params(self) -> Any:
        """Parameters to start from: treated, not trained."""
        return self.chosen.plan.params

    @property
    def model(self) -> Any:
        """The configuration to train; None where none was given."""
        return self.chosen.plan.model

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer to train with. A loss scale is not part of it: `chosen.plan.loss_scale`."""
        return self.chosen.plan.optimizer(self.given)

    @property
    def letter(self) -> str:
        """What helps, and by how much, in words."""
        from gradflow.diagnosis.treatment.report import letter

        return letter(self)

    def __str__(self) -> str:
        return self.letter

    def __repr__(self) -> str:
        return f"Treatment({self.chosen.name}: loss {self.chosen.loss:.3g}, untreated {self.untreated.loss:.3g})"


def treat(
    loss_fn: Callable[..., Any],
    params: Any,
    *args: Any,
    optimizer: optax.GradientTransformation,
    batches: Iterable[Any] | None = None,
    diagnosis: Diagnosis | None = None,
    budget: int = 200,
    seeds: int = 3,
    variants: Mapping[str, tuple[Callable[..., Any], Any]] | None = None,
    model: Any = None,
    build: Build | None = None,
    has_aux: bool = False,
    key: Any = None,
    **kwargs: Any,
) -> Treatment:
    """Try the remedies that a diagnosis promises, and return the best, if it is better than no remedy for certain.

    Each promising change is tried alone for `budget` steps, over `seeds` orders of the batches, beside the untreated
    network and beside one change drawn by chance from all there are. A diagnosis of some steps does not see all that
    goes wrong later. So the changes of start, optimizer and rate that it does not promise are tried over the first
    order, and the best of them over all orders. Then the best change is tried together with other rates.

    What is returned is better than the untreated network by the lower 95 % limit of Student's t over the seeds, and by
    more than a tenth of what lies between knowing nothing and the lowest loss; or it is the untreated network. Where
    the lowest mean is not better for certain, up to three of the lowest ones are tried over as many orders again, and
    the untreated network, too. The same batches and orders serve all arms. What was passed stays as it is.

    Args:
        loss_fn: a loss, as for `jax.value_and_grad`.
        params: its first argument, which is differentiated.
        *args: its other arguments: a batch.
        optimizer: with which you train.
        batches: of the trials: an iterable of tuples, each in the place of `*args`. None: `*args` at every step.
        diagnosis: of the same call; None: it is made.
        budget: steps of a trial.
        seeds: orders of the batches, and as many again for what is not certain; a single batch has one.
        variants: other versions of the model to try, by name: (loss_fn, params) of each.
        model: the configuration of the network, such as `gf.models.MLP(...)`: what the diagnosis promises of another
            activation, normalization, skips or a cell is tried, too, where the model has a field of that name.
        build: from such a configuration to (loss_fn, params); goes with `model`.
        has_aux: whether the loss returns (loss, aux).
        key: of JAX, for weights that are drawn anew and for the random change.
        **kwargs: of the loss.

    Returns:
        The treatment: `params`, `optimizer`, `model`, `trials`, `letter`.

    Raises:
        FlowError: inside `jit`, `vmap` or `grad`, or for a loss that `value_grad_and_flow` refuses.
        ValueError: for a budget or seeds below 1, batches of another structure than `*args`, a model without `build`.

    Examples:
        >>> import jax, jax.numpy as jnp, optax, gradflow as gf
        >>> keys = jax.random.split(jax.random.key(0), 8)
        >>> params = {f"layer_{k}": 0.3 * jax.random.normal(k2, (16, 16)) / 4 for k, k2 in enumerate(keys)}
        >>> def loss(params, x, y):
        ...     for w in params.values():
        ...         x = jax.nn.relu(x @ w)
        ...     return jnp.mean((x - y) ** 2)
        >>> x = jax.random.normal(jax.random.key(1), (64, 16))
        >>> t = gf.treat(loss, params, x, jnp.abs(x), optimizer=optax.sgd(0.1), budget=50)
        >>> t.improved, t.chosen.changes[0].touches
        (True, 'initialization')
    """
    _check(budget, seeds, model, build)
    key = jax.random.key(0) if key is None else key
    taken = None if batches is None else first_batches(batches, budget)
    if diagnosis is None:
        diagnosis = diagnose(
            loss_fn, params, *args, optimizer=optimizer, batches=taken, has_aux=has_aux, progress=False, **kwargs
        )
        objective = diagnosis.measurements.objective
    else:  # nothing tells whether it is of these very parameters
        objective = Objective.of(loss_fn, params, args, kwargs, has_aux)
    arrays = [objective.arrays] if taken is None else [objective.arrays_of(batch) for batch in taken]
    trials = Trials(optimizer, arrays, budget, seeds)
    plain = Plan(objective, objective.leaves, model=model)
    known = CHANGES if build is None else (*CHANGES, *model_changes(model, build, args, kwargs, has_aux))
    arms = [Arm((), plain, trials.run(plain))]
    norms = arms[0].outcome.norms
    context = Context(objective.arrays, jax.random.fold_in(key, 0), norms[np.isfinite(norms)], budget)
    by_chance = at_random(jax.random.fold_in(key, 1), known)
    promised = promising(diagnosis.findings, known)
    arms += _tried(trials, plain, context, [(change,) for change in promised])
    arms += _tried(trials, plain, context, [(by_chance,)], random=True)
    for name, (other, start) in (variants or {}).items():
        version = Objective.of(other, start, args, kwargs, has_aux)
        plan = Plan(version, version.leaves)
        arms.append(Arm((), plan, trials.run(plan), variant=name))
    arms += _not_promised(trials, plain, context, promised)
    best = min(_compared(arms, trials), key=lambda arm: arm.loss)
    if best is not arms[0] and best.variant == "":
        arms += _tried(trials, plain, context, [(*best.changes, rate) for rate in RATES if rate not in best.changes])
    arms = _made_certain(trials, arms)
    return Treatment(_best(arms, trials), tuple(arms), diagnosis, optimizer, budget)


def _check(budget: int, seeds: int, model: Any, build: Build | None) -> None:
    if budget < 1 or seeds < 1:
        raise ValueError(f"treat: expected a budget and seeds of at least 1, got {budget} and {seeds}")
    if (model is None) != (build is None):
        one, other = ("model", "build") if build is None else ("build", "model")
        raise ValueError(
            f"treat: expected model= and build= together, got only {one}. Likely cause: {other} was left out. Fix: "
            "model=config, build=lambda model: (loss_fn, params), the loss and fresh parameters of that model"
        )


def _tried(
    trials: Trials,
    plan: Plan,
    context: Context,
    remedies: Iterable[tuple[Change, ...]],
    *,
    random: bool = False,
    seeds: Sequence[int] | None = None,
) -> list[Arm]:
    """Run each list of changes over some orders, by default all; those that do not apply are left out."""
    arms = []
    for changes in remedies:
        changed: Plan | None = plan
        for change in changes:
            changed = None if changed is None else change.apply(changed, context)
        if changed is not None:
            arms.append(Arm(changes, changed, trials.run(changed, seeds), random=random))
    return arms


def _not_promised(trials: Trials, plan: Plan, context: Context, promised: tuple[Change, ...]) -> list[Arm]:
    """Try the common changes that no finding promised over the first order, and the best of them over the others."""
    rest = [(change,) for change in (*STARTS, ADAM, *RATES) if change not in promised]
    found = _tried(trials, plan, context, rest, seeds=range(1))
    best = min(found, key=lambda arm: arm.loss, default=None)
    return [_longer(trials, arm, range(1, trials.seeds)) if arm is best else arm for arm in found]


def _longer(trials: Trials, arm: Arm, seeds: Sequence[int]) -> Arm:
    """Return an arm that was tried over more orders."""
    if not seeds:
        return arm
    return dataclasses.replace(arm, outcome=arm.outcome.and_then(trials.run(arm.plan, seeds)))


def _compared(arms: Iterable[Arm], trials: Trials) -> list[Arm]:
    """Return the arms that were tried over all orders, without the one drawn by chance."""
    return [arm for arm in arms if not arm.random and len(arm.outcome.ends) >= trials.seeds]


def _worthy(arms: list[Arm], trials: Trials) -> list[Arm]:
    """Return those of them that are worth it, certain or not."""
    return [arm for arm in _compared(arms[1:], trials) if _worth(arm, arms[0])]


def _made_certain(trials: Trials, arms: list[Arm]) -> list[Arm]:
    """Try the arms of the lowest losses over as many orders again, until one is better than no treatment for certain.

    The untreated network is tried over them, too. The arm of the lowest loss is often the least steady one.
    """
    if trials.seeds == 1:  # a single batch has no other order
        return arms
    again = range(trials.seeds, 2 * trials.seeds)
    out = list(arms)
    for arm in sorted(_worthy(arms, trials), key=lambda arm: arm.loss)[:_CANDIDATES]:
        if arm.better_by(out[0])[0] > 0:
            break
        if len(out[0].outcome.ends) == trials.seeds:
            out[0] = _longer(trials, out[0], again)
        longer = out[arms.index(arm)] = _longer(trials, arm, again)
        if longer.better_by(out[0])[0] > 0:
            break
    return out


def _worth(arm: Arm, untreated: Arm) -> bool:
    """Tell whether the difference is more than a tenth of all that lies between three losses.

    They are the untreated one, the arm's, and that of a network that knows nothing. A start far off is not among them:
    after it all ends would look alike.
    """
    if not math.isfinite(untreated.loss):
        return True
    losses = (untreated.loss, arm.loss, untreated.outcome.ignorance)
    return untreated.loss - arm.loss > WORTH * (max(losses) - min(losses))


def _best(arms: list[Arm], trials: Trials) -> Arm:
    """Return the arm of the lowest loss among those better than the untreated one for certain and by enough."""
    untreated = arms[0]
    better = [arm for arm in _worthy(arms, trials) if arm.better_by(untreated)[0] > 0]
    return min(better, key=lambda arm: arm.loss, default=untreated)
