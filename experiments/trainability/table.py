"""The numbers that theory states for any run of `trainability`: tanh's table, asymptotes, tailored slopes, rates."""

from __future__ import annotations

import math

import numpy as np

import gradflow as gf
from experiments.framework import claims as check
from experiments.framework.claims import Claim
from experiments.framework.runner import Results

BIAS_VARIANCE = 0.05
# sigma_w^2 with chi_1 and 6 xi_c to the digits given, worked out once by an independent script.
CHI_1 = {1.0: 0.759, 1.3: 0.880, 1.5: 0.939, 1.761: 1.0, 2.0: 1.048, 2.5: 1.134, 3.0: 1.209, 4.0: 1.342}
SIX_XI = {1.0: 22, 1.3: 47, 1.5: 95, 2.0: 151, 2.5: 71, 3.0: 54, 4.0: 42}
TAT_SLOPES = {50: 0.4305, 100: 0.5704, 1000: 0.8444}  # where the network's correlation map takes 0 to .9
RELU_DEPTH = 1000


def compute() -> Results:
    """Compute the table.

    Returns:
        `table_chi` (CHI_1,), `table_six_xi` (SIX_XI,), `table_critical`, `table_q_critical`, `table_relu`,
        1 - c_l of ReLU times 2 l^2 / 9 pi^2 for l = 1..RELU_DEPTH, `table_selu` (mean, square, slope square),
        `table_tat` (TAT_SLOPES,), `table_batchnorm`.
    """
    points = {s: gf.theory.fixed_point("tanh", weight_variance=s, bias_variance=BIAS_VARIANCE) for s in CHI_1}
    critical = gf.theory.critical_weight_variance("tanh", bias_variance=BIAS_VARIANCE)
    at_critical = gf.theory.fixed_point("tanh", weight_variance=critical, bias_variance=BIAS_VARIANCE)
    selu = gf.theory.moments("selu", 1.0)
    return {
        "table_chi": np.array([point.chi_1 for point in points.values()]),
        "table_six_xi": np.array([6 * points[s].xi_c for s in SIX_XI]),
        "table_critical": np.array(critical),
        "table_q_critical": np.array(at_critical.q_star),
        "table_relu": relu_approach(RELU_DEPTH),
        "table_selu": np.array([float(selu.mean), float(selu.square), float(selu.slope_square)]),
        "table_tat": np.array([gf.activations.tailored_leaky_relu_slope(depth) for depth in TAT_SLOPES]),
        "table_tat_reached": np.array([_network_map(depth) for depth in TAT_SLOPES]),
        "table_batchnorm": np.array(gf.theory.batchnorm_rate("relu")),
    }


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


def claims(results: Results) -> list[Claim]:
    """Check the table.

    Args:
        results: from `compute`.

    Returns:
        The claims.
    """
    source = "Schoenholz et al. 2017; computed independently"
    mean, square, slope_square = results["table_selu"]
    return [
        *(
            check.close(f"theory: chi_1, tanh, sigma_w^2 = {variance:g}", source, chi, value, absolute=5e-4)
            for (variance, chi), value in zip(CHI_1.items(), results["table_chi"], strict=True)
        ),
        *(
            check.close(f"theory: 6 xi_c, tanh, sigma_w^2 = {variance:g}", source, depth, value, absolute=0.5)
            for (variance, depth), value in zip(SIX_XI.items(), results["table_six_xi"], strict=True)
        ),
        check.close("theory: critical sigma_w^2, tanh", source, 1.761, float(results["table_critical"]), absolute=5e-4),
        check.close("theory: q* there", source, 0.570, float(results["table_q_critical"]), absolute=5e-4),
        check.close(
            f"theory: ReLU, (1 - c_l) 2 l^2 / 9 pi^2 at l = {RELU_DEPTH}", "expansion of the arc-cosine kernel",
            1.0, results["table_relu"][-1], relative=0.05,
        ),
        check.close("theory: SELU, mean at its fixed point", "Klambauer et al. 2017", 0.0, mean, absolute=1e-4),
        check.close("theory: SELU, second moment there", "Klambauer et al. 2017", 1.0, square, absolute=1e-4),
        check.close("theory: SELU, chi_1", "Klambauer et al. 2017", 1.0714, slope_square, absolute=5e-3),
        *(
            check.close(f"theory: slope of the tailored ReLU, {depth} layers", "Zhang et al. 2022", slope, value,
                        absolute=1e-3)
            for (depth, slope), value in zip(TAT_SLOPES.items(), results["table_tat"], strict=True)
        ),
        check.close(
            "theory: correlation 0 after the tailored ReLU's layers (worst depth)", "Zhang et al. 2022: .9",
            0.9, max(results["table_tat_reached"], key=lambda c: abs(c - 0.9)), absolute=1e-3,
        ),
        check.close(
            "theory: squared gradient a layer, ReLU + batch norm", "Yang et al. 2019: pi / (pi - 1)",
            math.pi / (math.pi - 1), float(results["table_batchnorm"]), absolute=1e-6,
        ),
    ]  # fmt: skip
