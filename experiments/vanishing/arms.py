"""The arms of `vanishing`: one sick network, and what is changed in each of the others."""

from __future__ import annotations

import dataclasses

# n Var[W] of a square layer under each scheme; Glorot & Bengio 2010, He et al. 2015.
WEIGHT_VARIANCE = {
    "standard": 1 / 3,
    "xavier_normal": 1.0,
    "glorot_uniform": 1.0,
    "he_normal": 2.0,
}


@dataclasses.dataclass(frozen=True)
class Arm:
    """One network: the sick one with something changed.

    Attributes:
        name: as shown in figures and claims.
        group: which remedies it belongs to.
        activation: name in `gf.activations`.
        initializer: name in `gf.initializers`.
        residual: whether skip connections go around the hidden layers.
        batch_norm: whether pre-activations are normalized over the batch.
    """

    name: str
    group: str
    activation: str = "sigmoid"
    initializer: str = "standard"
    residual: bool = False
    batch_norm: bool = False

    @property
    def weight_variance(self) -> float:
        """sigma_w^2 = n Var[W] of its hidden layers, which have as many inputs as units."""
        return WEIGHT_VARIANCE[self.initializer]


INITIALIZATION, ACTIVATION = "initialization alone", "activation alone"
PAIR, ARCHITECTURE = "activation with its initialization", "architecture"
GROUPS = (INITIALIZATION, ACTIVATION, PAIR, ARCHITECTURE)

SICK = Arm("sigmoid, standard init", "sick")

ARMS = (
    SICK,
    Arm("Xavier normal", INITIALIZATION, initializer="xavier_normal"),
    Arm("Glorot uniform", INITIALIZATION, initializer="glorot_uniform"),
    Arm("He normal", INITIALIZATION, initializer="he_normal"),
    Arm("ReLU", ACTIVATION, "relu"),
    Arm("leaky ReLU", ACTIVATION, "leaky_relu"),
    Arm("PReLU", ACTIVATION, "prelu"),
    Arm("tanh + Xavier", PAIR, "tanh", "xavier_normal"),
    Arm("tanh + Glorot", PAIR, "tanh", "glorot_uniform"),
    Arm("ReLU + He", PAIR, "relu", "he_normal"),
    Arm("leaky ReLU + He", PAIR, "leaky_relu", "he_normal"),
    Arm("PReLU + He", PAIR, "prelu", "he_normal"),
    Arm("residual", ARCHITECTURE, residual=True),
    Arm("batch norm", ARCHITECTURE, batch_norm=True),
    Arm("all together", ARCHITECTURE, "relu", "he_normal", residual=True, batch_norm=True),
)

BY_NAME = {arm.name: arm for arm in ARMS}
