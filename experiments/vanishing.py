"""A gradient dies in a deep sigmoid network, and each classical remedy is held against it.

Paper:    Glorot & Bengio 2010; He et al. 2015; Ioffe & Szegedy 2015; He et al. 2016; Schoenholz et al. 2017
Figure:   gradient over layers as in Glorot & Bengio Figs 7-9; chi_1 of Schoenholz et al.; learning curves
Command:  python -m experiments.vanishing
Minutes:  1 on two cores, compilation included (smoke: 20 seconds; paper: not timed)
Expected: squared gradient of the sick network times 0.020 a layer (chi_1), first/last ratio of its rms 7e-17;
          its test accuracy stays at .10 while that of every cured network passes .5; rates of the tanh table
          .759/.880/1.000/1.134/1.342.

The sick network: 20 hidden layers of 100 sigmoid units, weights from U(+-1/sqrt(fan_in)), biases 0, plain
gradient descent on the cross-entropy of Fashion-MNIST images. Each arm changes what its name says and
nothing else: same images in the same order, same rate, same number of steps.

Backpropagation multiplies the squared gradient by chi = sigma_w^2 E[phi'(z)^2] a layer, sigma_w^2 = n
Var[W]. The sick network has sigma_w^2 = 1/3 and phi' <= 1/4. Better initialization alone cannot cure it
(chi <= 2/16), and neither can ReLU alone (chi = 1/6); together they can (chi = 1). Skip connections and
batch norm cure it as it stands. Theory predicts the ratio of first to last gradient for each of them, and
that is what the claims hold the measured ratio against.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from typing import TYPE_CHECKING

import numpy as np

import gradflow as gf
from experiments import claims as check
from experiments import vanishing_tanh, vanishing_training
from experiments.claims import Claim
from experiments.commandline import unknown
from experiments.runner import Experiment, Results, main
from experiments.vanishing_arms import ARMS, SICK, Arm
from experiments.vanishing_theory import gradient_profile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMOKE_ARMS = (SICK.name, "ReLU", "ReLU + He")

# The bands follow from theory, not from runs. One layer of width n changes the squared gradient by chi (1
# +- sqrt(2 / n)), so a mean over m layers has standard deviation sqrt(2 / (n m)); for the product over m
# layers, ln of the squared norm has variance 5 m / n (Hanin & Nica 2018: ReLU, the widest of the
# activations used). Three of them make the band.
DEVIATIONS = 3.0
LAYER_VARIANCE = 2.0
PRODUCT_VARIANCE = 5.0
CURED = (0.1, 10.0)  # of the first/last ratio
AT_CHANCE, LEARNS = 0.2, 0.5  # test accuracy; chance is 0.1
TANH_BAND = 0.04


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one run."""

    data: str = "fashion_mnist_subset"
    """Data set, one of gradflow.data.DATASETS."""
    arms: tuple[str, ...] = tuple(arm.name for arm in ARMS)
    """Networks to train, by name; the sick one is always among them."""
    depth: int = 20
    """Hidden layers."""
    width: int = 100
    """Units a hidden layer."""
    batch: int = 128
    """Images a step."""
    learning_rate: float = 0.02
    """Of plain gradient descent, the same for every network."""
    steps: int = 1000
    """Training steps."""
    record_every: int = 50
    """Steps between two records of flow, accuracy and movement; divides steps."""
    tanh_depth: int = 60
    """Hidden layers of the tanh table."""
    tanh_width: int = 300
    """Units a layer of the tanh table."""
    tanh_seeds: int = 5
    """Networks for each weight variance of the tanh table."""
    seed: int = 0
    """Of initialization and of the order of images."""

    def __post_init__(self) -> None:
        """Reject settings that cannot be run."""
        known = [arm.name for arm in ARMS]
        for name in self.arms:
            if name not in known:
                raise ValueError(unknown("network", name, known))
        if self.data not in gf.data.DATASETS:
            raise ValueError(unknown("data set", self.data, gf.data.DATASETS))
        for field, least in (("depth", 3), ("width", 2), ("batch", 2), ("tanh_depth", 3), ("tanh_width", 2)):
            if getattr(self, field) < least:
                raise ValueError(f"{field} must be at least {least}, got {getattr(self, field)}")
        for field in ("steps", "record_every", "tanh_seeds", "learning_rate"):
            if getattr(self, field) <= 0:
                raise ValueError(f"{field} must be positive, got {getattr(self, field)}")
        if self.steps % self.record_every:
            raise ValueError(f"record_every must divide steps; got {self.record_every} and {self.steps}")

    @property
    def chosen(self) -> tuple[Arm, ...]:
        """The networks, the sick one first."""
        return tuple(arm for arm in ARMS if arm is SICK or arm.name in self.arms)

    @property
    def setup(self) -> vanishing_training.Setup:
        """What training reads of this."""
        fields = vanishing_training.Setup._fields
        return vanishing_training.Setup(**{field: getattr(self, field) for field in fields})


PRESETS = {
    "smoke": Config(arms=SMOKE_ARMS, depth=10, steps=300, record_every=30, tanh_seeds=2),
    "laptop": Config(),
    "paper": Config(width=256, steps=10_000, record_every=100, tanh_seeds=20),
}


def run(config: Config) -> Results:
    """Measure the tanh table and train every network.

    Args:
        config: settings.

    Returns:
        What `vanishing_tanh.measure` and `vanishing_training.measure` return; `arms`, `groups` (arms,) names;
        `theory_profile` (arms, depth), the gradient relative to the last hidden layer; `theory_rate`;
        `depth`, `width`.
    """
    data = gf.data.load(config.data)
    arms, depth, width = config.chosen, config.depth, config.width
    images = vanishing_training.flat(data, data.train).x
    pixels, pixel_variance = images.shape[1], float(images.var(0).mean())
    sick = gf.theory.fixed_point(SICK.activation, weight_variance=SICK.weight_variance, bias_variance=0.0)
    profiles = [gradient_profile(arm, depth, width, pixels, pixel_variance) for arm in arms]
    return {
        "arms": np.array([arm.name for arm in arms]),
        "groups": np.array([arm.group for arm in arms]),
        "depth": np.array(depth),
        "width": np.array(width),
        "theory_rate": np.array(float(sick.chi_1)),
        "theory_profile": np.stack(profiles),
        **vanishing_tanh.measure(data, config.tanh_depth, config.tanh_width, config.tanh_seeds, config.seed),
        **vanishing_training.measure(data, arms, config.setup),
    }


def claims(results: Results) -> list[Claim]:
    """Check the results against theory.

    Args:
        results: from `run`.

    Returns:
        The claims.
    """
    return [
        *sick_claims(results),
        *ratio_claims(results),
        *learning_claims(results),
        *tanh_claims(results),
    ]


def sick_claims(results: Results) -> list[Claim]:
    """The sick network: how fast its gradient dies, and that its first layer stands still."""
    depth, width = int(results["depth"]), int(results["width"])
    at_init = results["gradient"][0, :1, 1:]  # the first layer's inputs are images, not sigmoids
    movement = results["movement"][0, -1]
    return [
        check.close(
            "sick network: factor of the squared gradient per layer",
            "mean field: chi_1 = sigma_w^2 E[phi'^2]",
            float(results["theory_rate"]),
            float(vanishing_tanh.fitted_rates(at_init)[0]),
            relative=DEVIATIONS * math.sqrt(LAYER_VARIANCE / (width * (depth - 2))),
        ),
        check.below(
            "sick network: movement of the first layer relative to the last",
            "chain rule; Glorot & Bengio 2010",
            1e-6,
            movement[0] / movement[-1],
        ),
        check.below(
            "sick network: test accuracy never leaves chance (0.1)",
            "Glorot & Bengio 2010",
            AT_CHANCE,
            results["test_accuracy"][0].max(),
        ),
    ]


def ratio_claims(results: Results) -> list[Claim]:
    """First to last gradient at initialization: as theory predicts, and near 1 in every cured network."""
    depth, width = int(results["depth"]), int(results["width"])
    decades = DEVIATIONS * math.sqrt(PRODUCT_VARIANCE * (depth - 1) / width) / (2 * math.log(10))
    ratios = results["gradient"][:, 0, 0] / results["gradient"][:, 0, -1]
    by_theory = [
        check.close(
            f"{name}: log10 of first/last gradient",
            "mean field: product of sigma_w^2 E[phi'^2]",
            math.log10(predicted),
            math.log10(ratio),
            absolute=decades,
        )
        for name, ratio, predicted in zip(results["arms"], ratios, results["theory_profile"][:, 0], strict=True)
    ]
    return [
        *by_theory,
        check.above(
            "smallest first/last gradient of a cured network",
            "the remedy restores the gradient",
            CURED[0],
            ratios[cured(results)].min(),
        ),
        check.below(
            "largest first/last gradient of a cured network, residual + batch norm aside",
            "there theory has a power of depth, see above",
            CURED[1],
            ratios[cured(results) & (results["arms"] != "all together")].max(),
        ),
    ]


def cured(results: Results) -> np.ndarray:
    """Which networks theory calls cured: those whose predicted first/last gradient is at least 0.1."""
    return results["theory_profile"][:, 0] >= CURED[0]


def learning_claims(results: Results) -> list[Claim]:
    """Who learns, who does not, and whose first layer moves."""
    healthy = cured(results)
    names, accuracy, movement = results["arms"], results["test_accuracy"], results["movement"][:, -1, 0]
    slowest = np.argmin(np.where(healthy, accuracy[:, -1], np.inf))
    best_ill = np.argmax(np.where(healthy, -np.inf, accuracy.max(1)))
    found = [
        check.above(
            f"lowest test accuracy of the {healthy.sum()} cured networks ({names[slowest]})",
            "the same steps in which the sick one stays at chance",
            LEARNS,
            accuracy[slowest, -1],
        ),
        check.below(
            f"highest test accuracy of the {(~healthy).sum()} uncured networks ({names[best_ill]})",
            "theory: gradient gone at the first layers",
            AT_CHANCE,
            accuracy[best_ill].max(),
        ),
        check.above(
            "smallest relative movement of a cured network's first layer",
            "chain rule",
            1e-2,
            movement[healthy].min(),
        ),
    ]
    leaky = names == "leaky ReLU + He"
    if leaky.any():
        found.append(
            check.below(
                "leaky ReLU + He: dead units at any layer and record",
                "Maas et al. 2013",
                0.0,
                results["dead"][leaky].max(),
            )
        )
    return found


def tanh_claims(results: Results) -> list[Claim]:
    """The tanh table: fitted rate of the squared gradient, mean over seeds, against chi_1."""
    return [
        check.close(
            f"tanh, sigma_w^2 = {variance:g}: squared gradient per layer, {rates.size} seeds",
            "Schoenholz et al. 2017: chi_1",
            chi,
            rates.mean(),
            relative=TANH_BAND,
        )
        for variance, chi, rates in zip(
            results["tanh_variance"], results["tanh_theory"], results["tanh_rate"], strict=True
        )
    ]


def figures(results: Results) -> dict[str, Figure]:
    """Draw the figures.

    Args:
        results: from `run`.

    Returns:
        Name to figure.
    """
    from experiments import vanishing_figures

    return vanishing_figures.draw(results)


EXPERIMENT = Experiment("vanishing", __doc__ or "", PRESETS, run, claims, figures)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
