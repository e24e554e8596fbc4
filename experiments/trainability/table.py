"""The numbers that theory states for any run of `trainability`: tanh's table, asymptotes, tailored slopes, rates."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float

import gradflow as gf
from experiments.framework import claims as check
from experiments.framework.claims import Claim

BIAS_VARIANCE = 0.05
# sigma_w^2 with chi_1 and 6 xi_c to the digits given, worked out once by an independent script.
CHI_1 = {1.0: 0.759, 1.3: 0.880, 1.5: 0.939, 1.761: 1.0, 2.0: 1.048, 2.5: 1.134, 3.0: 1.209, 4.0: 1.342}
SIX_XI = {1.0: 22, 1.3: 47, 1.5: 95, 2.0: 151, 2.5: 71, 3.0: 54, 4.0: 42}
TAT_SLOPES = {50: 0.4305, 100: 0.5704, 1000: 0.8444}  # where the network's correlation map takes 0 to .9
RELU_DEPTH = 1000


@dataclasses.dataclass(frozen=True)
class Table:
    """What theory says of special cases.

    Attributes:
        chi: chi_1 at each weight variance of `CHI_1`.
        six_xi: 6 xi_c at each of `SIX_XI`.
        critical: critical weight variance of tanh.
        q_critical: q* there.
        relu: 1 - c_l of ReLU times 2 l^2 / 9 pi^2 for l = 1 to `RELU_DEPTH`.
        selu: mean, square and slope square at its fixed point.
        tat: slopes of the tailored ReLU at the depths of `TAT_SLOPES`.
        tat_reached: correlation that these reach.
        batchnorm: squared gradient a layer of ReLU with batch norm.
    """

    chi: Float[np.ndarray, " variances"]
    six_xi: Float[np.ndarray, " variances"]
    critical: Float[np.ndarray, ""]
    q_critical: Float[np.ndarray, ""]
    relu: Float[np.ndarray, " depth"]
    selu: Float[np.ndarray, "3"]
    tat: Float[np.ndarray, " depths"]
    tat_reached: Float[np.ndarray, " depths"]
    batchnorm: Float[np.ndarray, ""]


def compute() -> Table:
    """Compute the table."""
    points = {s: gf.theory.fixed_point("tanh", weight_variance=s, bias_variance=BIAS_VARIANCE) for s in CHI_1}
    critical = gf.theory.critical_weight_variance("tanh", bias_variance=BIAS_VARIANCE)
    at_critical = gf.theory.fixed_point("tanh", weight_variance=critical, bias_variance=BIAS_VARIANCE)
    selu = gf.theory.moments("selu", 1.0)
    return Table(
        chi=np.array([point.chi_1 for point in points.values()]),
        six_xi=np.array([6 * points[s].xi_c for s in SIX_XI]),
        critical=np.array(critical),
        q_critical=np.array(at_critical.q_star),
        relu=relu_approach(RELU_DEPTH),
        selu=np.array([float(selu.mean), float(selu.square), float(selu.slope_square)]),
        tat=np.array([gf.activations.tailored_leaky_relu_slope(depth) for depth in TAT_SLOPES]),
        tat_reached=np.array([_network_map(depth) for depth in TAT_SLOPES]),
        batchnorm=np.array(gf.theory.batchnorm_rate("relu")),
    )


def relu_approach(depth: int) -> np.ndarray:
    """(1 - c_l) 2 l^2 / (9 pi^2) of He-initialized ReLU for l = 1..depth, c_0 = 0; it approaches 1.

    Args:
        depth: layers.
    """
    values = [0.0]
    while len(values) <= depth:
        values.append(float(gf.theory.correlation_map("relu", 1.0, values[-1], 2.0, 0.0)))
    return (1 - np.array(values[1:])) * 2 * np.arange(1, depth + 1) ** 2 / (9 * math.pi**2)


def _network_map(depth: int) -> float:
    """Correlation after `depth` layers of the tailored leaky ReLU, from 0, by the general correlation map."""
    activation, c = gf.activations.tailored_leaky_relu(depth), 0.0
    for _ in range(depth):
        c = float(gf.theory.correlation_map(activation, 1.0, c, 1.0, 0.0))
    return c


def claims(results: Table) -> list[Claim]:
    """Check the table.

    Args:
        results: from `compute`.

    Returns:
        The claims.
    """
    source = "Schoenholz et al. 2017; computed independently"
    mean, square, slope_square = results.selu
    return [
        *(
            check.close(f"theory: chi_1, tanh, sigma_w^2 = {variance:g}", source, chi, value, absolute=5e-4)
            for (variance, chi), value in zip(CHI_1.items(), results.chi, strict=True)
        ),
        *(
            check.close(f"theory: 6 xi_c, tanh, sigma_w^2 = {variance:g}", source, depth, value, absolute=0.5)
            for (variance, depth), value in zip(SIX_XI.items(), results.six_xi, strict=True)
        ),
        check.close("theory: critical sigma_w^2, tanh", source, 1.761, float(results.critical), absolute=5e-4),
        check.close("theory: q* there", source, 0.570, float(results.q_critical), absolute=5e-4),
        check.close(
            f"theory: ReLU, (1 - c_l) 2 l^2 / 9 pi^2 at l = {RELU_DEPTH}", "expansion of the arc-cosine kernel",
            1.0, results.relu[-1], relative=0.05,
        ),
        check.close("theory: SELU, mean at its fixed point", "Klambauer et al. 2017", 0.0, mean, absolute=1e-4),
        check.close("theory: SELU, second moment there", "Klambauer et al. 2017", 1.0, square, absolute=1e-4),
        check.close("theory: SELU, chi_1", "Klambauer et al. 2017", 1.0714, slope_square, absolute=5e-3),
        *(
            check.close(f"theory: slope of the tailored ReLU, {depth} layers", "Zhang et al. 2022", slope, value,
                        absolute=1e-3)
            for (depth, slope), value in zip(TAT_SLOPES.items(), results.tat, strict=True)
        ),
        check.close(
            "theory: correlation 0 after the tailored ReLU's layers (worst depth)", "Zhang et al. 2022: .9",
            0.9, max(results.tat_reached, key=lambda c: abs(c - 0.9)), absolute=1e-3,
        ),
        check.close(
            "theory: squared gradient a layer, ReLU + batch norm", "Yang et al. 2019: pi / (pi - 1)",
            math.pi / (math.pi - 1), float(results.batchnorm), absolute=1e-6,
        ),
    ]  # fmt: skip
