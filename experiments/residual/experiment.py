"""Run and claims of `residual`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import experiments.residual as package
from experiments.framework import claims as check
from experiments.framework.claims import Claim
from experiments.framework.images import Images, load, rows
from experiments.framework.progress import side_by_side
from experiments.framework.runner import Experiment
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


def train_depth(depth: int, train: Images, test: Images, config: Config) -> tuple[dict[str, jax.Array], Params]:
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
    kept = jnp.concatenate([jnp.ones((1, depth)), 1 - jnp.eye(depth)])

    # Images are arguments: captured, they would be copied into the program as constants.
    @jax.jit
    @partial(jax.vmap, in_axes=(0, None, None, None))
    def both(kind: network.Form, keys: jax.Array, train: Images, test: Images) -> tuple[dict[str, jax.Array], Params]:
        init_key, order_key = keys
        seen = train.first(EVALUATED)
        start = network.init(init_key, depth, config.width, train.x.shape[1])
        params, loss = network.train(start, train, kind, order_key, steps=config.steps, batch=64, rate=config.rate)

        def accuracy(keep: jax.Array) -> jax.Array:
            return jnp.mean(jnp.argmax(network.forward(params, test.x, kind, keep)[0], -1) == test.y)

        logits, responses = network.forward(params, seen.x, kind)
        accuracies = jax.lax.map(accuracy, kept)
        found = {
            "loss": loss,
            "training_error": jnp.mean(jnp.argmax(logits, -1) != seen.y),
            "test_accuracy": accuracies[0],
            "responses": responses,
            "deleted": accuracies[1:],
        }
        return found, params

    kinds = network.Form(jnp.asarray([0.0, 1.0]), jnp.ones(2), jnp.ones(2))
    return both(kinds, jax.random.split(jax.random.key(config.seed)), train, test)


def split_paths(params: Params, batch: Images, config: Config) -> paths.Paths:
    """Split the gradient of a trained residual network by path length.

    Args:
        params: of the network.
        batch: images that the gradient is taken on.
        config: settings.
    """
    kind, blocks = network.form(skip=True, normalized=True), config.depths[-1]
    lengths = np.unique(np.linspace(0, min(blocks, 30), 11).astype(int))

    def stem_gradient(params: Params, batch: Images) -> jax.Array:
        """Gradient with respect to the stem, which is that of its output times the images."""
        return jax.grad(network.loss)(params, batch, kind)["stem"]["kernel"]

    @jax.jit
    def split(params: Params, batch: Images, key: jax.Array) -> tuple[jax.Array, ...]:
        taken = paths.draw_paths(key, blocks, lengths, config.paths)
        parts = paths.by_length(params, batch, kind)
        return parts, stem_gradient(params, batch), paths.sampled(params, batch, kind, taken)

    parts, whole, log_norms = split(params, batch, jax.random.key(config.seed))
    summed = batch.x.T @ parts.sum(0)
    return paths.Paths(
        exact=np.asarray(jnp.sqrt(jnp.sum(jnp.square(parts), (1, 2)))),
        lengths=lengths,
        sampled=np.asarray(log_norms).reshape(len(lengths), -1),
        error=np.asarray(jnp.linalg.norm(summed - whole) / jnp.linalg.norm(whole)),
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
    depths, source = results.depths, "He et al. 2016, Fig. 6"
    plain, residual = results.training.training_error.T
    first, last = depths[0], depths[-1]
    shallow = depths[1] if len(depths) > 2 else depths[0]
    accuracy = results.training.test_accuracy
    deleted, kept = results.training.deleted[last][1], accuracy[-1, 1]
    responses = np.array([results.training.responses[depth].mean(1) for depth in depths])
    errors = f"training error, {last} blocks minus {first}"
    largest, gone = (responses[:, 1] / responses[:, 0]).max(), results.training.deleted[shallow][0].mean()
    lost, veit = kept - deleted.mean(), "Veit et al. 2016, Fig. 3"
    return [
        check.above(f"plain: {errors}", source, bands.DEGRADED, plain[-1] - plain[0]),
        check.below(f"residual: {errors}", source, bands.STEADY, residual[-1] - residual[0]),
        check.below("response of a block: residual over plain, largest over depths", "He et al., Fig. 7", 1.0, largest),
        check.below(f"residual, {last} blocks: accuracy lost by deleting one, mean", veit, bands.UNHARMED, lost),
        check.below(f"plain, {shallow} blocks: accuracy after deleting one, mean", veit, bands.DESTROYED, gone),
        check.above(f"plain, {shallow} blocks: accuracy before", veit, 0.6, accuracy[list(depths).index(shallow), 0]),
    ]


def path_claims(results: Results) -> list[Claim]:
    """Veit et al.: gradients come by short paths."""
    blocks, source = int(results.depths[-1]), "Veit et al. 2016, Fig. 6"
    factor, explained, weights = paths.decay(results.paths, blocks)
    low, high = paths.effective(weights)
    share = paths.binomial(blocks)
    line = f"ln(gradient by a path) falls linearly with its length (factor {factor:.2f} a branch): R^2"
    longest = f"of {blocks} branches, the most that carry the middle 95 % of the gradient"
    error = float(results.paths.error)
    found = [
        check.below("sum over path lengths against backpropagation, relative", "exact", bands.SAME, error),
        check.above(line, source, bands.LINEAR_FIT, explained),
        check.below(longest, source, 0.4 * blocks, high),
        check.below("part of all paths that is as long as those", source, 0.05, share[low : high + 1].sum()),
    ]
    if blocks == 54:
        exact = paths.binomial(54)[5:18].sum()
        found.append(check.close("part of 2^54 paths that is 5 to 17 long", source, 0.0045, exact, absolute=0.00005))
    return found


def normfree_claims(results: Results) -> list[Claim]:
    """The identity at first, and quick from then on; twice the signal and gradient a block without."""
    networks, residual = results.normfree, results.normfree["residual"]
    papers = {"ReZero": "Bachlechner et al. 2020", "SkipInit": "De & Smith 2020", "Fixup": "Zhang et al. 2019"}
    found = []
    for name, source in papers.items():
        jacobian = networks[name].jacobian
        largest = np.abs(jacobian - np.eye(len(jacobian))).max()
        found.append(check.below(f"{name}: stack's Jacobian minus I at first, largest entry", source, 0.0, largest))
    signal, gradient = residual.signal, residual.gradient
    band = normfree.doubling_band(len(gradient))
    for what, grown, blocks in (("signal", signal[-1], len(signal) - 1), ("gradient", gradient[0], len(gradient))):
        line = f"residual without normalization: log2 of the squared {what}'s growth a block"
        found.append(check.close(line, papers["SkipInit"], 1.0, 2 * np.log2(grown) / blocks, absolute=band))
    if not residual.loss.size:
        return found
    first = {name: network.loss[:1].mean() for name, network in networks.items()}
    last = {name: network.loss[-20:].mean() for name, network in networks.items()}
    worst = max(last[name] for name in papers)
    return [
        *found,
        *(check.below(f"{name}: loss at the end", papers[name], bound, last[name])
          for name, bound in bands.NORMFREE_LOSS.items()),
        check.above("vanilla over the worst of these: loss at the end", papers["ReZero"], bands.SLOWER,
                    last["vanilla"] / worst),
        check.above("residual without normalization over SkipInit: loss at the end", papers["SkipInit"], bands.BURDENED,
                    last["residual"] / last["SkipInit"]),
        check.above("residual without normalization over SkipInit: loss at first", "2^(L/2)", 1e3,
                    first["residual"] / first["SkipInit"]),
    ]  # fmt: skip


EXPERIMENT = Experiment("residual", package.__doc__ or "", PRESETS, run, claims, figures.draw)
