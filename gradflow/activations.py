"""Activation functions by name, each with what is known of it; `jax.nn` underneath where it has one.

Examples:
    >>> import jax.numpy as jnp
    >>> tanh = get("tanh")
    >>> float(tanh(jnp.float32(0.0))), float(tanh.derivative(jnp.float32(0.0)))
    (0.0, 1.0)
    >>> get("relu").can_die
    True
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gradflow import _lookup, gaussian
from gradflow.gaussian import Moments

__all__ = [
    "ACTIVATIONS",
    "ALIASES",
    "FAMILIES",
    "SATURATED",
    "Activation",
    "Function",
    "Phi",
    "get",
    "moments",
    "prelu",
    "tailored_leaky_relu",
    "tailored_leaky_relu_slope",
]

Function = Callable[..., Array]

SATURATED = 0.1  # part of the largest |phi'| below which a unit counts as saturated
_REACH = 20.0  # pre-activations beyond this are not looked at when a function is described
_GRID = 8001


@dataclasses.dataclass(frozen=True)
class Activation:
    """An elementwise function, and what theory and diagnosis have to know of it.

    A call applies the function: `get("relu")(x)`. A call of one with a learned parameter uses the parameter's starting
    value; `fn(x, parameter)` takes any value.

    Attributes:
        name: its name here, or the `__name__` of a user's function.
        fn: the function, of arrays of any shape; of `(x, parameter)` if it has a parameter.
        reference: where it comes from; empty for a user's function.
        kinks: points where it is not continuously differentiable; quadrature breaks there.
        can_die: whether phi' is exactly 0 on an unbounded interval, so that a unit may never learn again.
        parameter: starting value of the learned parameter, or None.
    """

    name: str
    fn: Function
    reference: str = ""
    kinks: tuple[float, ...] = ()
    can_die: bool = False
    parameter: float | None = None

    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """phi(x), elementwise.

        Args:
            x: pre-activations, of any shape and floating-point dtype.
        """
        return self.fn(x) if self.parameter is None else self.fn(x, self.parameter)

    def derivative(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """phi'(x), elementwise; at a kink, what JAX's differentiation gives there.

        Args:
            x: pre-activations, of any shape and floating-point dtype.
        """
        return jax.jvp(self, (x,), (jnp.ones_like(x),))[1]

    @property
    def learnable(self) -> bool:
        """Whether it has a parameter to learn."""
        return self.parameter is not None

    @functools.cached_property
    def saturates_at(self) -> tuple[float, float] | None:
        """Pre-activations (low, high) beyond which |phi'| stays below a tenth of its largest value.

        -inf or inf on a side where that never happens; None if on neither. Found on a grid over [-20, 20] and refined
        by bisection to 1e-6.
        """
        return _saturation(self)

    def moments(self, variance: float = 1.0) -> Moments:
        """E[phi], E[phi^2], E[phi'] and E[phi'^2] over z ~ N(0, variance), in double precision whatever the user's own.

        By quadrature on the host, 1e-6 or better; compiled once. `activations.moments` is the same inside a jitted
        function.

        Args:
            variance: q, not negative.

        Returns:
            Four floats.

        Raises:
            ValueError: for a variance that is negative or not finite.
            ArithmeticError: where an average is not finite (phi overflows).

        Examples:
            >>> round(get("relu").moments(2.0).square, 12)
            1.0
        """
        if not 0 <= variance < math.inf:
            raise ValueError(f"expected a finite variance of at least 0, got {variance}. Fix: q of the pre-activations")
        return Moments(*_host_moments(self)(variance))

    @functools.cached_property
    def gain(self) -> float:
        """1 / sqrt(E[phi(z)^2]), z ~ N(0, 1): weights of std gain / sqrt(fan_in) keep a unit variance.

        He's sqrt(2) generalised: ReLU sqrt(2), leaky sqrt(2 / (1 + a^2)), identity and SELU 1, tanh 1.593, GELU 1.534
        (He et al. 2015, equation 10, whose 1/2 E[z^2] stands for E[phi(z)^2]). For a phi that is not homogeneous it
        holds at variance 1 only.

        `torch.nn.init.calculate_gain` agrees for ReLU, leaky ReLU and the identity; its tanh (5/3), SELU (3/4) and
        sigmoid (1) are chosen by other means. The scale of `jax.nn.initializers.variance_scaling` is gain^2.

        Raises:
            ValueError: for a phi that is 0 all over N(0, 1).
        """
        return _inverse_root(self.name, float(self.moments().square))

    @functools.cached_property
    def backward_gain(self) -> float:
        """1 / sqrt(E[phi'(z)^2]), z ~ N(0, 1): weights of std backward_gain / sqrt(fan_out) keep the gradient's size.

        Equal to `gain` for the rectifiers; no single weight variance keeps both for another phi. He et al. 2015,
        section 2.2, equation 14.

        Raises:
            ValueError: for a phi that is flat all over N(0, 1).
        """
        return _inverse_root(self.name, float(self.moments().slope_square))


Phi = str | Activation | Function


def moments(activation: Phi, variance: gaussian.Scalar = 1.0) -> Moments:
    """Averages of phi and phi' over z ~ N(0, variance), jittable and differentiable by the variance.

    Args:
        activation: name, record or elementwise function.
        variance: q, scalar, not negative. Its dtype is that of the computation.

    Returns:
        E[phi], E[phi^2], E[phi'], E[phi'^2].

    Examples:
        >>> relu = moments("relu", 2.0)
        >>> round(float(relu.square), 5), round(float(relu.slope_square), 5)
        (1.0, 0.5)
    """
    phi = get(activation)

    def all_four(z: Array) -> Array:
        value, slope = phi(z), phi.derivative(z)
        return jnp.stack([value, value**2, slope, slope**2])

    return Moments(*gaussian.expectation(all_four, variance, kinks=phi.kinks))


@functools.lru_cache(maxsize=128)
def _host_moments(record: Activation) -> Callable[[float], tuple[float, ...]]:
    return gaussian.on_host(record.name, lambda q: jnp.stack(moments(record, q)))


def _inverse_root(name: str, square: float) -> float:
    if square <= 0:
        raise ValueError(
            f"{name} has no gain: it is 0 all over N(0, 1). Fix: an activation that lets something through"
        )
    return 1 / math.sqrt(square)


def prelu(x: Array, slope: Array | float) -> Array:
    """Identity where x >= 0, slope * x elsewhere.

    He et al. 2015, "Delving Deep into Rectifiers".

    Args:
        x: pre-activations.
        slope: learned; a scalar, or one for each entry of the last axis.
    """
    return jnp.where(x >= 0, x, jnp.asarray(slope, x.dtype) * x)


def tailored_leaky_relu(depth: int, similarity: float = 0.9) -> Activation:
    """Leaky ReLU whose slope is solved from the depth, so that a deep plain network neither collapses nor shatters.

    With phi(x) = sqrt(2 / (1 + a^2)) (max(x, 0) + a min(x, 0)), which keeps E[z^2] at weight variance 1, one layer maps
    the cosine similarity c of two inputs to C(c) = c + (1 - a)^2 / (pi (1 + a^2)) (sqrt(1 - c^2) - c arccos c). The
    slope a is that for which `depth` layers map 0 to `similarity`.

    Zhang et al. 2022, "Deep Learning without Shortcuts: Shaping the Kernel with Tailored Rectifiers" (TAT).

    Args:
        depth: number of layers with this activation.
        similarity: what two orthogonal inputs are mapped to, between 0 and 1.

    Raises:
        ValueError: for a depth below 1, or a similarity that no slope in [0, 1] reaches at this depth.

    Examples:
        >>> round(tailored_leaky_relu_slope(50), 4)
        0.4305
    """
    slope = tailored_leaky_relu_slope(depth, similarity)
    scale = math.sqrt(2 / (1 + slope**2))

    def fn(x: Array) -> Array:
        return scale * jax.nn.leaky_relu(x, slope)

    return Activation(f"tailored_leaky_relu({depth})", fn, "Zhang et al. 2022", kinks=(0.0,), can_die=slope == 0)


@functools.lru_cache(maxsize=128)
def tailored_leaky_relu_slope(depth: int, similarity: float = 0.9) -> float:
    """The negative slope of `tailored_leaky_relu`, by bisection.

    Args:
        depth: number of layers.
        similarity: what two orthogonal inputs are mapped to.

    Raises:
        ValueError: as `tailored_leaky_relu`.
    """
    if depth < 1 or not 0 < similarity < 1:
        raise ValueError(f"expected depth >= 1 and 0 < similarity < 1, got depth {depth}, similarity {similarity}")

    def reached(slope: float) -> float:
        c, rate = 0.0, (1 - slope) ** 2 / (math.pi * (1 + slope**2))
        for _ in range(depth):
            c = min(1.0, c + rate * (math.sqrt(1 - c * c) - c * math.acos(c)))
        return c

    if reached(0.0) < similarity:
        raise ValueError(
            f"{depth} layers of ReLU bring orthogonal inputs to similarity {reached(0.0):.3f} only, below the "
            f"{similarity} asked for, and every other slope to less. Fix: more layers, or a smaller similarity"
        )
    low, high = 0.0, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if reached(middle) > similarity else (low, middle)
    return (low + high) / 2


ACTIVATIONS: dict[str, Activation] = {
    record.name: record
    for record in (
        Activation("identity", jax.nn.identity, "phi(x) = x"),
        Activation("sigmoid", jax.nn.sigmoid, "logistic function"),
        Activation(
            "hard_sigmoid", jax.nn.hard_sigmoid, "min(max(x + 3, 0), 6) / 6: Howard et al. 2019", (-3.0, 3.0), True
        ),
        Activation("tanh", jax.nn.tanh, "LeCun et al. 1998, Efficient BackProp"),
        Activation("hard_tanh", jax.nn.hard_tanh, "Collobert 2004", (-1.0, 1.0), True),
        Activation("softsign", jax.nn.soft_sign, "x / (1 + |x|): Bergstra et al. 2009"),
        Activation("softplus", jax.nn.softplus, "ln(1 + e^x): Dugas et al. 2001"),
        Activation("relu", jax.nn.relu, "Nair & Hinton 2010; Glorot et al. 2011", (0.0,), True),
        Activation("leaky_relu", jax.nn.leaky_relu, "slope 0.01 below 0: Maas et al. 2013", (0.0,)),
        Activation("prelu", prelu, "learned slope, 0.25 at first: He et al. 2015", (0.0,), parameter=0.25),
        Activation("elu", jax.nn.elu, "e^x - 1 below 0: Clevert et al. 2016"),
        Activation("selu", jax.nn.selu, "Klambauer et al. 2017", (0.0,)),
        Activation("gelu", functools.partial(jax.nn.gelu, approximate=False), "x Phi(x): Hendrycks & Gimpel 2016"),
        Activation(
            "gelu_tanh",
            functools.partial(jax.nn.gelu, approximate=True),
            "x Phi(x) with Phi approximated by tanh: Hendrycks & Gimpel 2016",
        ),
        Activation("silu", jax.nn.silu, "x sigmoid(x), Swish: Elfwing et al. 2018; Ramachandran et al. 2017"),
        Activation("mish", jax.nn.mish, "x tanh(softplus(x)): Misra 2020"),
        Activation("erf", jax.lax.erf, "error function: Williams 1996"),
    )
}


# Families of activations whose parameter is solved for: name -> function from options to a record.
FAMILIES: dict[str, Callable[..., Activation]] = {"tailored_leaky_relu": tailored_leaky_relu}
ALIASES = {"swish": "silu", "linear": "identity", "parametric_relu": "prelu"}


def get(activation: str | Activation | Function, **options: Any) -> Activation:
    """Return the record of an activation, by name or of any elementwise function.

    The kinks of a user's function, and whether it can die, are found numerically: on a grid over [-20, 20], its kinks
    as jumps of phi or phi' that stand out from their neighbours; it counts as one that can die where phi' is exactly 0
    all over [4, 6] or [-6, -4].

    Args:
        activation: a name in `ACTIVATIONS`, `ALIASES` or `FAMILIES`, a record, or a function of one array, elementwise
            and differentiable.
        options: of a member of `FAMILIES`: "tailored_leaky_relu" needs `depth`.

    Raises:
        ValueError: for an unknown name, with the nearest known one, or a function that does not keep shapes.
        TypeError: for anything else, or options that the name does not take.

    Examples:
        >>> get("swish").name, get("tailored_leaky_relu", depth=50).name
        ('silu', 'tailored_leaky_relu(50)')
    """
    if isinstance(activation, str) and activation in FAMILIES:
        if "depth" not in options:
            raise TypeError(f"{activation} is solved for a depth. Fix: activations.get({activation!r}, depth=50)")
        return FAMILIES[activation](**options)
    if options:
        raise TypeError(f"options {sorted(options)} belong to {', '.join(FAMILIES)}, got {activation!r}")
    if isinstance(activation, Activation):
        return activation
    if isinstance(activation, str):
        known = ACTIVATIONS | {alias: ACTIVATIONS[name] for alias, name in ALIASES.items()}
        return _lookup.find("activation", activation, known)
    if not callable(activation):
        raise TypeError(f"expected the name of an activation or a function of one array, got {activation!r}")
    return _described(activation)


@functools.lru_cache(maxsize=128)
def _described(fn: Function) -> Activation:
    """Make the record of a user's function."""
    shape = jax.eval_shape(fn, jax.ShapeDtypeStruct((2, 3), jnp.float32)).shape
    if shape != (2, 3):
        raise ValueError(
            f"expected an elementwise function, got one that maps shape (2, 3) to {shape}. Likely cause: a layer or a "
            "reduction (softmax, norm) given as activation. Fix: put it into the model itself"
        )
    name = getattr(fn, "__name__", type(fn).__name__)
    plain = Activation(name, fn)
    flat = [np.all(_evaluate(plain.derivative, np.linspace(low, low + 2, 50)) == 0) for low in (-6.0, 4.0)]
    return Activation(name, fn, kinks=_find_kinks(plain), can_die=any(flat))


def _evaluate(fn: Function, x: np.ndarray) -> np.ndarray:
    """fn(x) in double precision, whatever the user's setting and also while something else is being traced."""
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        return np.asarray(fn(jnp.asarray(x, jnp.float64)), np.float64)


def _find_kinks(record: Activation) -> tuple[float, ...]:
    """Jumps of phi or phi' within [-20, 20]."""
    grid = np.linspace(-_REACH, _REACH, _GRID) + 1e-3 * math.pi / _GRID  # no kink at a round number falls on the grid
    found: list[float] = []
    for fn in (record, record.derivative):
        steps = np.abs(np.diff(_evaluate(fn, grid)))
        padded = np.pad(steps, 2)
        around = np.maximum(padded[:-4], padded[4:])
        for index in np.flatnonzero((steps > 1e-6) & (steps > 8 * around)):
            found.append(_bisect_jump(fn, grid[index], grid[index + 1]))
    return tuple(sorted({round(kink, 6) + 0.0 for kink in found}))


def _bisect_jump(fn: Function, low: float, high: float) -> float:
    """Narrow the interval over which fn jumps, to 1e-9."""
    while high - low > 1e-9:
        points = np.linspace(low, high, 9)
        index = int(np.argmax(np.abs(np.diff(_evaluate(fn, points)))))
        low, high = points[index], points[index + 1]
    return float((low + high) / 2)


def _saturation(record: Activation) -> tuple[float, float] | None:
    grid = np.linspace(-_REACH, _REACH, _GRID)
    slopes = np.abs(_evaluate(record.derivative, grid))
    bound = SATURATED * slopes.max()
    alive = np.flatnonzero(slopes >= bound)
    edges = []
    for index, outward in ((alive[0], -1), (alive[-1], 1)):
        if not 0 < index < len(grid) - 1:
            edges.append(outward * math.inf)
            continue
        inside, outside = grid[index], grid[index + outward]
        while abs(outside - inside) > 1e-7:
            middle = (inside + outside) / 2
            keeps = abs(_evaluate(record.derivative, np.array([middle]))[0]) >= bound
            inside, outside = (middle, outside) if keeps else (inside, middle)
        edges.append(round(float(inside + outside) / 2, 6) + 0.0)
    low, high = edges
    return None if math.isinf(low) and math.isinf(high) else (low, high)
