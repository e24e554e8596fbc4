"""Named initialization schemes, each with its reference; `jax.nn.initializers` underneath.

Each function returns an initializer in JAX's sense, `(key, shape, dtype) -> array`, that fits Flax, Haiku and bare JAX.

Normal distributions are plain here. Those of `jax.nn.initializers` (`he_normal`, `lecun_normal`, `glorot_normal`) are
truncated at two standard deviations and widened to the same variance: their second moment agrees with the schemes
below, their fourth does not, and theory of signal propagation assumes the plain ones.

`fan_in` and `fan_out` count what a unit sees and what an input feeds; `fan_avg` is their mean (`fans`). Every scheme
that divides by a fan takes the kernel's layout as options: `he_normal(groups=4)` for a grouped convolution,
`he_normal(stacked=1)` for kernels stacked along a leading axis, as a scan over layers has them (a Flax `nn.scan` draws
each slice by itself and needs nothing), `transposed`, `upsampling`, or axes by number (`Layout`).

Examples:
    >>> import jax
    >>> kernel = he_normal(activation="gelu", stacked=1)(jax.random.key(0), (50, 100, 100))
    >>> point = critical("tanh", bias_variance=0.05)
    >>> kernel, bias = point.kernel(jax.random.key(1), (100, 100)), point.bias(jax.random.key(2), (100,))
    >>> round(point.weight_variance, 3)
    1.761
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax.nn.initializers import Initializer

from gradflow import _lookup
from gradflow.initializers.layout import Fans, Layout, fans
from gradflow.initializers.scaling import (
    Critical,
    Distribution,
    Fan,
    critical,
    gaussian,
    glorot_uniform,
    he_normal,
    he_uniform,
    lecun_normal,
    scaled,
    small_gaussian,
    standard,
    xavier_normal,
    zeros,
)
from gradflow.initializers.structured import delta_orthogonal, orthogonal, scaled_identity, smart_tanh, sparse

SCHEMES: dict[str, Callable[..., Initializer]] = {
    scheme.__name__: scheme
    for scheme in (
        xavier_normal,
        glorot_uniform,
        standard,
        he_normal,
        he_uniform,
        lecun_normal,
        gaussian,
        small_gaussian,
        orthogonal,
        delta_orthogonal,
        scaled_identity,
        sparse,
        smart_tanh,
        zeros,
    )
}

ALIASES = {
    "kaiming_normal": "he_normal",
    "kaiming_uniform": "he_uniform",
    "glorot_normal": "xavier_normal",
    "xavier_uniform": "glorot_uniform",
}
# Names from papers that do not stand for an initializer of one kernel, and what to do instead.
_ELSEWHERE = {
    "critical": "it sets kernel and bias together: point = initializers.critical('tanh', bias_variance=0.05), then "
    "initializer=point.kernel, bias=point.bias",
    "lsuv": "it looks at data: params, report = gradflow.lsuv(fn, params, batch) after initialization",
}


def get(scheme: str | Initializer, **options: Any) -> Initializer:
    """Return an initializer by the name of its scheme; an initializer comes back as it is.

    Args:
        scheme: a name in `SCHEMES` or `ALIASES`, or a function `(key, shape, dtype) -> array`.
        options: arguments of the scheme, for a name only.

    Raises:
        ValueError: for an unknown name, with the nearest known one, or one that is no initializer by itself.
        TypeError: for anything that is neither name nor function, or options beside a function.

    Examples:
        >>> import jax
        >>> get("gaussian", weight_variance=1.5)(jax.random.key(0), (3, 2)).shape
        (3, 2)
    """
    if isinstance(scheme, str):
        if scheme in _ELSEWHERE:
            raise ValueError(f"{scheme!r} is no initializer of a single kernel; {_ELSEWHERE[scheme]}")
        known = SCHEMES | {alias: SCHEMES[name] for alias, name in ALIASES.items()}
        return _lookup.find("initializer", scheme, known)(**options)
    if not callable(scheme):
        raise TypeError(
            f"expected the name of a scheme or a function (key, shape, dtype) -> array, got {scheme!r}. "
            "Fix: a name such as 'he_normal', or initializers.he_normal()"
        )
    if any(id(scheme) == id(known) for known in SCHEMES.values()):
        raise TypeError(
            f"expected an initializer, got the scheme {scheme.__name__} itself. "  # type: ignore[attr-defined]
            "Fix: call it first, he_normal()"
        )
    if options:
        raise TypeError(
            f"options {sorted(options)} belong to a scheme given by name, got a function. "
            "Fix: give them to the function that made it"
        )
    return scheme


__all__ = [
    "ALIASES",
    "SCHEMES",
    "Critical",
    "Distribution",
    "Fan",
    "Fans",
    "Layout",
    "critical",
    "delta_orthogonal",
    "fans",
    "gaussian",
    "get",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "orthogonal",
    "scaled",
    "scaled_identity",
    "small_gaussian",
    "smart_tanh",
    "sparse",
    "standard",
    "xavier_normal",
    "zeros",
]
