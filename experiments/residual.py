"""Skip connections: depth stops hurting, gradients come by short paths, and stay alike at inputs that are alike.

Paper:    He et al. 2016; Veit et al. 2016; Balduzzi et al. 2017; Zhang et al. 2019 (Fixup); De & Smith 2020
          (SkipInit); Bachlechner et al. 2020 (ReZero)
Figure:   He et al. Figs 6 and 7, gradient over blocks before training, Veit et al. Fig. 3; Veit et al. Fig. 6; Balduzzi
          et al. Figs 1 and 2 with and without batch normalization, and correlation over depth; signal, gradient and
          training without normalization
Command:  python -m experiments.residual
Minutes:  1 on two cores (smoke: 20 seconds; paper: also He et al.'s Table 6 on CIFAR-10)
Expected: a plain network's training error grows with depth, a residual one's does not; deleting one block of 54 costs
          nothing, deleting one of a plain network everything; before training the squared gradient grows by 1.49 a
          plain block toward the input, by 1.04 a residual one; the gradient comes by paths through about 5 to 17 of
          54 branches, 0.45 % of all paths; correlations of gradients fall as 2^-L (plain), (3/4)^L (residual) for
          unrelated inputs, about L^(-1/2) (residual + batch norm); along a line of inputs batch normalization shatters
          a plain network of 24 blocks (0 at the next point), a residual one of 50 less (.5; branches of .1: .8), and
          without it .88 is left in both; without normalization a residual stack doubles signal and gradient a block,
          one of 64 layers by ReZero, SkipInit or Fixup starts as the identity and trains.

Blocks are x -> x + W relu(batchnorm(x)), plain ones W relu(batchnorm(x)), 64 wide, on Fashion-MNIST: He et al.'s
comparison at a size that two cores train in minutes. Veit et al.'s sums over paths are exact here: one backward pass
splits the gradient by path length. Correlations are held against what the correlation map of ReLU predicts.
"""

from __future__ import annotations

import dataclasses
import sys
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

import gradflow as gf
from experiments import claims as check
from experiments import residual_cifar, residual_normfree, residual_paths, residual_profile, residual_shattering
from experiments import residual_network as network
from experiments.claims import Claim
from experiments.progress import side_by_side
from experiments.runner import Experiment, Results, main

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from experiments.residual_network import Images, Params

# Thresholds that depend on the data were fixed in pilot runs on seeds 10 and 11, not on those reported (0, 1, 2).
DEGRADED, STEADY = 0.2, 0.05  # growth of training error from the shallowest to the deepest network
UNHARMED, DESTROYED = 0.02, 0.2  # loss of accuracy by deleting one block; accuracy after it
SAME = 1e-3  # float32, two ways of adding up
LINEAR_FIT = 0.95  # R^2 of ln(gradient by a path) against its length
NORMFREE_LOSS = {"ReZero": 0.6, "SkipInit": 0.6, "Fixup": 0.75}
SLOWER, BURDENED = 2.5, 1.5  # loss of the vanilla over the worst of those, of the residual network over SkipInit's
EVALUATED = 2000


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one run."""

    data: str = "fashion_mnist_subset"
    """Name of the images."""
    depths: tuple[int, ...] = (5, 10, 20, 40, 54)
    """Blocks of the networks that are trained; paths are those of the deepest."""
    width: int = 64
    """Of the stream."""
    steps: int = 600
    """Training steps."""
    rate: float = 0.03
    """Learning rate, with momentum .9."""
    paths: int = 50
    """Paths drawn of each length."""
    shatter_depths: tuple[int, ...] = (1, 2, 3, 5, 10, 15, 20)
    """Blocks at which correlations of gradients are measured."""
    shatter_width: int = 200
    """Width of those networks."""
    shatter_networks: int = 256
    """How many of them are drawn."""
    shatter_lines: int = 32
    """How many networks the gradient is followed in along a line of inputs."""
    normfree_depth: int = 64
    """Layers of the networks without normalization, an even number."""
    normfree_steps: int = 180
    """Their training steps; 0 to leave their training out."""
    cifar_depths: tuple[int, ...] = ()
    """Layers of He et al.'s residual networks to train on CIFAR-10, 6n + 2."""
    cifar_plain: tuple[int, ...] = ()
    """Layers of their plain ones."""
    cifar_steps: int = residual_cifar.STEPS
    """Training steps of these; up to 64, or a multiple of it."""
    seed: int = 0
    """Of everything."""

    def __post_init__(self) -> None:
        """Reject settings that cannot be run."""
        if len(self.depths) < 2 or list(self.depths) != sorted(set(self.depths)) or self.depths[0] < 1:
            raise ValueError(f"depths must be two or more growing numbers from 1 on, got {self.depths}")
        if self.steps % network.RECORDS:
            raise ValueError(f"steps must be a multiple of {network.RECORDS}, got {self.steps}")
        if self.normfree_depth < 2 or self.normfree_depth % 2:
            raise ValueError(f"normfree_depth must be even and positive, got {self.normfree_depth}")
        if self.cifar_steps < 1 or (self.cifar_steps > 64 and self.cifar_steps % 64):
            raise ValueError(f"cifar_steps must be at most 64 or a multiple of it, got {self.cifar_steps}")


PRESETS = {
    "smoke": Config(
        depths=(5, 40), steps=200, paths=10, shatter_depths=(1, 5), shatter_networks=128, shatter_lines=16,
        normfree_steps=0,
    ),
    "laptop": Config(),
    "paper": Config(
        data="fashion_mnist", width=256, steps=20_000, paths=1000, cifar_depths=tuple(residual_cifar.PAPER),
        cifar_plain=(20, 56),
    ),
}  # fmt: skip


def run(config: Config) -> Results:
    """Train and measure.

    Args:
        config: settings.

    Returns:
        `depths` (depths,); `loss` (depths, 2, records), `training_error`, `test_accuracy` (depths, 2), plain first;
        `responses_D`, `deleted_D` (2, D) for each depth D; `path_*` of `paths`; what `residual_shattering.over_depth`
        and `lines`, `residual_profile.measure`, `residual_normfree.measure` and `together` return; and, where networks
        for CIFAR-10 are asked for, what `residual_cifar.measure` returns.
    """
    data = gf.data.load(config.data)
    train, test = network.images(data, data.train), network.images(data, data.test)
    options = {"depth": config.normfree_depth, "steps": config.normfree_steps, "seed": config.seed}
    drawn = (config.shatter_width, config.shatter_networks, config.seed)
    # The longest first, so that none is left alone at the end.
    parts: dict[str, Callable[[], Results]] = {
        "correlation over distance": partial(
            residual_shattering.lines, config.shatter_width, config.shatter_lines, config.seed
        ),
        "correlation over depth": partial(residual_shattering.over_depth, config.shatter_depths, *drawn),
        **{f"{depth} blocks": partial(trained, depth, train, test, config) for depth in reversed(config.depths)},
        **{f"norm-free, branches of {n}": partial(residual_normfree.measure, train, n, **options) for n in (1, 2)},
        "gradients": partial(residual_profile.measure, train, config.depths[-1], config.width, config.seed),
    }
    results: Results = {"depths": np.array(config.depths)}
    for found in side_by_side(parts, "part").values():
        results |= found
    for name in ("loss", "training_error", "test_accuracy"):
        results[name] = np.stack([results.pop(f"{name}_{depth}") for depth in config.depths])
    results |= residual_normfree.together(results, config.normfree_depth)
    cifar = {"steps": config.cifar_steps, "seed": config.seed}
    return results | residual_cifar.measure("cifar10", config.cifar_depths, config.cifar_plain, **cifar)


def trained(depth: int, train: Images, test: Images, config: Config) -> Results:
    """Train the plain and the residual network of one depth; of the deepest, split the gradient by path length.

    Args:
        depth: number of blocks.
        train: training images.
        test: test images.
        config: settings.

    Returns:
        What `train_depth` returns, each name with the depth behind it; and for the deepest what `paths` does.
    """
    found, params = train_depth(depth, train, test, config)
    results: Results = {f"{name}_{depth}": np.asarray(value) for name, value in found.items()}
    if depth < config.depths[-1]:
        return results
    residual = jax.tree.map(lambda both: both[1], params)
    return results | paths(residual, network.Images(test.x[:256], test.y[:256]), config)


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
        seen = network.Images(train.x[:EVALUATED], train.y[:EVALUATED])
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


def paths(params: Params, batch: Images, config: Config) -> Results:
    """Split the gradient of a trained residual network by path length.

    Args:
        params: of the network.
        batch: images that the gradient is taken on.
        config: settings.

    Returns:
        `path_exact` (blocks + 1,), norm of the gradient by all paths of each length; `path_lengths` (lengths,),
        `path_sampled` (lengths, paths), ln of the norm by single paths over that of the path through skips alone;
        `path_error` (), relative difference of the sum over lengths and the gradient by backpropagation.
    """
    kind, blocks = network.form(skip=True, normalized=True), config.depths[-1]
    lengths = np.unique(np.linspace(0, min(blocks, 30), 11).astype(int))

    def stem_gradient(params: Params, batch: Images) -> jax.Array:
        """Gradient with respect to the stem, which is that of its output times the images."""
        return jax.grad(network.loss)(params, batch, kind)["stem"]["kernel"]

    @jax.jit
    def split(params: Params, batch: Images, key: jax.Array) -> tuple[jax.Array, ...]:
        taken = residual_paths.draw_paths(key, blocks, lengths, config.paths)
        parts = residual_paths.by_length(params, batch, kind)
        return parts, stem_gradient(params, batch), residual_paths.sampled(params, batch, kind, taken)

    parts, whole, log_norms = split(params, batch, jax.random.key(config.seed))
    summed = batch.x.T @ parts.sum(0)
    return {
        "path_exact": np.asarray(jnp.sqrt(jnp.sum(jnp.square(parts), (1, 2)))),
        "path_lengths": lengths,
        "path_sampled": np.asarray(log_norms).reshape(len(lengths), -1),
        "path_error": np.asarray(jnp.linalg.norm(summed - whole) / jnp.linalg.norm(whole)),
    }


def by_length(results: Results) -> tuple[float, float, np.ndarray]:
    """Fit the decay of the gradient by a path with its length, and weigh lengths by their number of paths.

    Args:
        results: from `run`.

    Returns:
        Factor a branch; R^2 of the fit; gradient by all paths of each length, norms added up (Veit et al. Fig. 6).
    """
    lengths, blocks = results["path_lengths"], int(results["depths"][-1])
    logs = np.log(np.exp(results["path_sampled"].astype(np.float64)).mean(1))
    slope, start = np.polyfit(lengths, logs, 1)
    explained = np.corrcoef(lengths, logs)[0, 1] ** 2
    weights = residual_paths.binomial(blocks) * np.exp(start + slope * np.arange(blocks + 1))
    return float(np.exp(slope)), float(explained), weights


def claims(results: Results) -> list[Claim]:
    """Check a run.

    Args:
        results: from `run`.

    Returns:
        The claims.
    """
    return [
        *depth_claims(results), *residual_profile.claims(results), *path_claims(results),
        *residual_shattering.claims(results), *normfree_claims(results), *residual_cifar.claims(results),
    ]  # fmt: skip


def depth_claims(results: Results) -> list[Claim]:
    """Degradation, responses, and deletion of blocks."""
    depths, source = results["depths"], "He et al. 2016, Fig. 6"
    plain, residual = results["training_error"].T
    first, last = depths[0], depths[-1]
    shallow = depths[1] if len(depths) > 2 else depths[0]
    accuracy = results["test_accuracy"]
    deleted, kept = results[f"deleted_{last}"][1], accuracy[-1, 1]
    responses = np.array([results[f"responses_{depth}"].mean(1) for depth in depths])
    errors = f"training error, {last} blocks minus {first}"
    largest, gone = (responses[:, 1] / responses[:, 0]).max(), results[f"deleted_{shallow}"][0].mean()
    lost, veit = kept - deleted.mean(), "Veit et al. 2016, Fig. 3"
    return [
        check.above(f"plain: {errors}", source, DEGRADED, plain[-1] - plain[0]),
        check.below(f"residual: {errors}", source, STEADY, residual[-1] - residual[0]),
        check.below("response of a block: residual over plain, largest over depths", "He et al., Fig. 7", 1.0, largest),
        check.below(f"residual, {last} blocks: accuracy lost by deleting one, mean", veit, UNHARMED, lost),
        check.below(f"plain, {shallow} blocks: accuracy after deleting one, mean", veit, DESTROYED, gone),
        check.above(f"plain, {shallow} blocks: accuracy before", veit, 0.6, accuracy[list(depths).index(shallow), 0]),
    ]


def path_claims(results: Results) -> list[Claim]:
    """Veit et al.: gradients come by short paths."""
    blocks, source = int(results["depths"][-1]), "Veit et al. 2016, Fig. 6"
    factor, explained, weights = by_length(results)
    low, high = residual_paths.effective(weights)
    share = residual_paths.binomial(blocks)
    line = f"ln(gradient by a path) falls linearly with its length (factor {factor:.2f} a branch): R^2"
    longest = f"of {blocks} branches, the most that carry the middle 95 % of the gradient"
    error = float(results["path_error"])
    found = [
        check.below("sum over path lengths against backpropagation, relative", "exact", SAME, error),
        check.above(line, source, LINEAR_FIT, explained),
        check.below(longest, source, 0.4 * blocks, high),
        check.below("part of all paths that is as long as those", source, 0.05, share[low : high + 1].sum()),
    ]
    if blocks == 54:
        exact = residual_paths.binomial(54)[5:18].sum()
        found.append(check.close("part of 2^54 paths that is 5 to 17 long", source, 0.0045, exact, absolute=0.00005))
    return found


def normfree_claims(results: Results) -> list[Claim]:
    """The identity at first, and quick from then on; twice the signal and gradient a block without."""
    by_name = {str(name): index for index, name in enumerate(results["normfree_names"])}
    papers = {"ReZero": "Bachlechner et al. 2020", "SkipInit": "De & Smith 2020", "Fixup": "Zhang et al. 2019"}
    found = []
    for name, source in papers.items():
        jacobian = results["normfree_jacobian"][by_name[name]]
        largest = np.abs(jacobian - np.eye(len(jacobian))).max()
        found.append(check.below(f"{name}: stack's Jacobian minus I at first, largest entry", source, 0.0, largest))
    signal, gradient = (results[f"normfree_{key}_residual"] for key in ("signal", "gradient"))
    band = residual_normfree.doubling_band(len(gradient))
    for what, grown, blocks in (("signal", signal[-1], len(signal) - 1), ("gradient", gradient[0], len(gradient))):
        line = f"residual without normalization: log2 of the squared {what}'s growth a block"
        found.append(check.close(line, papers["SkipInit"], 1.0, 2 * np.log2(grown) / blocks, absolute=band))
    losses = results["normfree_loss"]
    if not losses.size:
        return found
    first, last = ({name: x[index].mean() for name, index in by_name.items()} for x in (losses[:, :1], losses[:, -20:]))
    worst = max(last[name] for name in papers)
    return [
        *found,
        *(check.below(f"{name}: loss at the end", papers[name], bound, last[name])
          for name, bound in NORMFREE_LOSS.items()),
        check.above("vanilla over the worst of these: loss at the end", papers["ReZero"], SLOWER,
                    last["vanilla"] / worst),
        check.above("residual without normalization over SkipInit: loss at the end", papers["SkipInit"], BURDENED,
                    last["residual"] / last["SkipInit"]),
        check.above("residual without normalization over SkipInit: loss at first", "2^(L/2)", 1e3,
                    first["residual"] / first["SkipInit"]),
    ]  # fmt: skip


def figures(results: Results) -> dict[str, Figure]:
    """Draw the figures.

    Args:
        results: from `run`.

    Returns:
        Name to figure.
    """
    from experiments import residual_figures

    return residual_figures.draw(results)


EXPERIMENT = Experiment("residual", __doc__ or "", PRESETS, run, claims, figures)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
