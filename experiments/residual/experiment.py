"""Run and claims of `residual`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import experiments.residual as package
from experiments.framework.claims import Claim, goal
from experiments.framework.images import Images, load, rows
from experiments.framework.pilots import at_least, at_most
from experiments.framework.progress import side_by_side
from experiments.framework.runner import Experiment
from experiments.framework.stretches import in_stretches
from experiments.residual import bands, cifar, figures, network, normfree, paths, profile, shattering
from experiments.residual.results import Results, Training
from experiments.residual.settings import PRESETS, Config

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from experiments.residual.network import Params

EVALUATED = 2000


def run(config: Config) -> Results:
    """Train and measure.

    Args:
        config: settings.
    """
    data = load(config.data)
    train, test = rows(data, data.train), rows(data, data.test)
    options = {"depth": config.normfree_depth, "steps": config.normfree_steps, "seed": config.seed}
    drawn = (config.shatter_width, config.shatter_networks, config.seed)
    # The longest first, so that none is left alone at the end.
    parts: dict[str, Callable[[], Any]] = {
        "correlation over distance": partial(shattering.lines, config.shatter_width, config.shatter_lines, config.seed),
        "correlation over depth": partial(shattering.over_depth, config.shatter_depths, *drawn),
        **{f"{depth} blocks": partial(trained, depth, train, test, config) for depth in reversed(config.depths)},
        **{f"norm-free, branches of {n}": partial(normfree.measure, train, n, **options) for n in (1, 2)},
        "gradients": partial(profile.measure, train, config.depths[-1], config.width, config.seed),
    }
    found: dict[str, Any] = side_by_side(parts, "part")
    networks, by_path = zip(*(found[f"{depth} blocks"] for depth in config.depths), strict=True)
    by_depth = {name: dict(zip(config.depths, values, strict=True)) for name, values in _columns(networks).items()}

    def stacked(name: str) -> np.ndarray:
        return np.stack(list(by_depth[name].values()))

    return Results(
        depths=np.array(config.depths),
        training=Training(
            loss=stacked("loss"),
            training_error=stacked("training_error"),
            test_accuracy=stacked("test_accuracy"),
            responses=by_depth["responses"],
            deleted=by_depth["deleted"],
        ),
        paths=by_path[-1],
        profile=found["gradients"],
        along=found["correlation over distance"],
        over_depth=found["correlation over depth"],
        normfree_depth=config.normfree_depth,
        normfree=found["norm-free, branches of 1"] | found["norm-free, branches of 2"],
        cifar=cifar.measure(
            "cifar10", config.cifar_depths, config.cifar_plain, steps=config.cifar_steps, seed=config.seed
        ),
    )


def _columns(rows: Sequence[dict[str, np.ndarray]]) -> dict[str, list[np.ndarray]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def trained(
    depth: int, train: Images, test: Images, config: Config
) -> tuple[dict[str, np.ndarray], paths.Paths | None]:
    """Train the plain and the residual network of one depth; of the deepest, split the gradient by path length.

    Args:
        depth: number of blocks.
        train: training images.
        test: test images.
        config: settings.

    Returns:
        What `train_depth` returns but the parameters; and the paths of the deepest.
    """
    found, params = train_depth(depth, train, test, config)
    arrays = {name: np.asarray(value) for name, value in found.items()}
    if depth < config.depths[-1]:
        return arrays, None
    residual = jax.tree.map(lambda both: both[1], params)
    return arrays, split_paths(residual, test.first(256), config)


def train_depth(depth: int, train: Images, test: Images, config: Config) -> tuple[dict[str, Any], Params]:
    """Train the plain and the residual network of one depth, from the same start, as one program.

    Args:
        depth: number of blocks.
        train: training images.
        test: test images.
        config: settings.

    Returns:
        `loss` (2, records), `training_error`, `test_accuracy` (2,), `responses`, `deleted` (2, depth), the test
        accuracy without each block; and the trained parameters, stacked.
    """
    init_key, order_key = jax.random.split(jax.random.key(config.seed))
    kinds = network.Form(jnp.asarray([0.0, 1.0]), jnp.ones(2), jnp.ones(2))
    plan, pixels = network.Plan(config.steps, 64, config.rate), train.x.shape[1]

    # Images are arguments: captured, they would be copied into the program as constants.
    @partial(jax.jit, static_argnames="steps")
    def advance(states: Any, train: Images, steps: int) -> Any:
        def one(state: Any, kind: network.Form) -> Any:
            start = network.init(init_key, depth, config.width, pixels)
            return network.train(state, start, train, kind, order_key, plan, steps)

        return jax.vmap(one)(states, kinds)

    looks = jax.jit(jax.vmap(look, (0, 0, None, None)))
    (found, params), loss = in_stretches(
        f"{depth} blocks", lambda states, steps: advance(states, train, steps), steps=plan.steps, every=1, axis=1,
        work=12.0 * plan.batch * config.width * (pixels + depth * config.width), sums=True,
        end=lambda states: (looks(states.params, kinds, train.first(EVALUATED), test), states.params),
    )  # fmt: skip
    return {"loss": loss.reshape(2, network.RECORDS, -1).mean(-1), **found}, params


def look(params: Params, kind: network.Form, seen: Images, test: Images) -> dict[str, jax.Array]:
    """Evaluate a trained network, whole and without each of its blocks.

    Args:
        params: of the network.
        kind: of network.
        seen: training images.
        test: test images.

    Returns:
        What `train_depth` returns, but the loss, without the axis of networks.
    """
    depth = len(params["blocks"]["scale"])
    kept = jnp.concatenate([jnp.ones((1, depth)), 1 - jnp.eye(depth)])

    def accuracy(keep: jax.Array) -> jax.Array:
        return jnp.mean(jnp.argmax(network.forward(params, test.x, kind, keep)[0], -1) == test.y)

    logits, responses = network.forward(params, seen.x, kind)
    accuracies = jax.lax.map(accuracy, kept)
    return {
        "training_error": jnp.mean(jnp.argmax(logits, -1) != seen.y),
        "test_accuracy": accuracies[0],
        "responses": responses,
        "deleted": accuracies[1:],
    }


def split_paths(params: Params, batch: Images, config: Config) -> paths.Paths:
    """Split the gradient of a trained residual network by path length.

    Args:
        params: of the network.
        batch: images that the gradient is taken on.
        config: settings.
    """
    kind, blocks = network.form(skip=True, normalized=True), config.depths[-1]
    lengths = np.unique(np.linspace(0, min(blocks, 30), 11).astype(int))

    @jax.jit
    def split(params: Params, batch: Images, key: jax.Array) -> tuple[jax.Array, ...]:
        taken = paths.draw_paths(key, blocks, lengths, config.paths)
        return paths.by_length(params, batch, kind), paths.sampled(params, batch, kind, taken)

    parts, log_norms = split(params, batch, jax.random.key(config.seed))
    return paths.Paths(
        exact=np.asarray(jnp.sqrt(jnp.sum(jnp.square(parts), (1, 2)))),
        lengths=lengths,
        sampled=np.asarray(log_norms).reshape(len(lengths), -1),
    )


def claims(results: Results) -> list[Claim]:
    """Check a run.

    Args:
        results: from `run`.

    Returns:
        The claims.
    """
    return [
        *depth_claims(results), *profile.claims(results.profile), *path_claims(results),
        *shattering.claims(results.along, results.over_depth), *normfree_claims(results), *cifar.claims(results.cifar),
    ]  # fmt: skip


def depth_claims(results: Results) -> list[Claim]:
    """Degradation, responses, and deletion of blocks."""
    depths, training = results.depths, results.training
    plain, residual = training.training_error.T
    first, last = depths[0], depths[-1]
    responses = np.array([training.responses[depth].mean(1) for depth in depths])
    largest = (responses[:, 1] / responses[:, 0]).max()
    line = "response of a block: residual over plain, largest over depths"
    found = [Claim("responses", line, bands.responses(), largest)]
    if last < bands.PILOT_BLOCKS:
        return found
    shallow = depths[1] if len(depths) > 2 else depths[0]
    kept = dict(zip(depths.tolist(), training.test_accuracy, strict=True))
    lost = {depth: kept[depth][:, None] - training.deleted[depth] for depth in (shallow, last)}
    errors, veit = f"training error, {last} blocks minus {first}", "Veit et al. 2016, Fig. 3"
    return [
        *found,
        Claim("degradation-plain", f"plain: {errors}",
              at_least(bands.PLAIN_GROWTH, "He et al. 2016, Fig. 6: degrades"),
              plain[-1] - plain[0]),
        Claim("degradation-residual", f"residual: {errors}",
              at_most(bands.RESIDUAL_GROWTH, "He et al. 2016, Fig. 6: does not"),
              residual[-1] - residual[0]),
        Claim("deleted-residual", f"residual, {last} blocks: accuracy lost by deleting one, mean",
              at_most(bands.RESIDUAL_LOSS, f"{veit}: hardly any"), lost[last][1].mean()),
        Claim("deleted-plain", f"plain, {shallow} blocks: accuracy lost by deleting one, mean",
              goal(f"{veit}: nearly all; a threshold of ours", low=bands.PLAIN_LOSS), lost[shallow][0].mean()),
    ]  # fmt: skip


def path_claims(results: Results) -> list[Claim]:
    """Veit et al.: gradients come by short paths."""
    blocks, source = int(results.depths[-1]), "Veit et al. 2016, Fig. 6"
    if blocks < bands.PILOT_BLOCKS:
        return []
    factor, explained, weights = paths.decay(results.paths, blocks)
    low, high = paths.effective(weights)
    share = paths.binomial(blocks)[low : high + 1].sum()
    mean = np.arange(blocks + 1) @ weights / weights.sum()
    line = f"ln(gradient by a path) falls linearly with its length (factor {factor:.2f} a branch): R^2"
    return [
        Claim("path-decay", line, at_least(bands.LINEAR_FIT, f"{source}: exponential decay"), explained),
        Claim("path-length", f"mean length of the paths that carry the gradient, of {blocks} blocks",
              bands.path_length(blocks), mean),
        Claim("path-share", f"part of all paths that is as long as those with the middle 95 % ({low} to {high})",
              goal(f"{source}: .45 %; a threshold of ours", high=bands.PATH_SHARE), share),
    ]  # fmt: skip


def normfree_claims(results: Results) -> list[Claim]:
    """Quick from the start; twice the signal and gradient a block without."""
    networks, residual = results.normfree, results.normfree["residual"]
    signal, gradient = residual.signal, residual.gradient
    growth = {
        "signal": 2 * np.log2(signal[-1]) / (len(signal) - 1),
        "gradient": 2 * np.log2(gradient[0]) / len(gradient),
    }
    worst = max(growth, key=lambda name: abs(growth[name] - 1))
    line = f"residual without normalization: log2 of a square's growth a block, signal or gradient (worse: {worst})"
    found = [Claim("stream-doubles", line, bands.doubling(len(signal) - 1, normfree.WIDTH), growth[worst])]
    if results.depths[-1] < bands.PILOT_BLOCKS or not residual.loss.size:
        return found
    last = {name: network.loss[-20:].mean() for name, network in networks.items()}
    slowest = max(("ReZero", "SkipInit", "Fixup"), key=lambda name: last[name])
    return [
        *found,
        Claim("normfree-loss", f"ReZero, SkipInit, Fixup: loss at the end, worst of the three ({slowest})",
              at_most(bands.NORMFREE_LOSS, "Bachlechner et al. 2020; Zhang et al. 2019: train"),
              last[slowest]),
        Claim("vanilla-slower", "vanilla over the worst of these: loss at the end",
              at_least(bands.SLOWER, "Bachlechner et al. 2020: does not"), last["vanilla"] / last[slowest]),
        Claim("residual-burden", "residual without normalization over SkipInit: loss at the end",
              at_least(bands.BURDEN, "De & Smith 2020: the worse for it"),
              last["residual"] / last["SkipInit"]),
    ]  # fmt: skip


EXPERIMENT = Experiment("residual", package.__doc__ or "", PRESETS, run, claims, figures.draw)
