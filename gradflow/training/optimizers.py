"""Clipping, and weight decay as a term of the gradient, before the step of an optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
from jaxtyping import Array, Float

if TYPE_CHECKING:
    import optax

__all__ = ["DECAYED", "decay_mask", "stacked_layers", "with_clipping_and_decay"]

DECAYED = ("kernel", "embedding")


def decay_mask(params: Any) -> Any:
    """Tell which parameters weight decay is for: kernels and embeddings.

    Not for biases, scales and offsets of normalization, slopes of PReLU (He et al. 2015, section 2.1) and scales of
    residual branches.

    Args:
        params: pytree whose leaves have Flax's names.

    Returns:
        The same pytree with a bool at every leaf.

    Raises:
        ValueError: if no parameter has one of these names.
    """

    def decayed(path: tuple[Any, ...], _: Any) -> bool:
        return jax.tree_util.keystr(path[-1:], simple=True) in DECAYED

    mask = jax.tree_util.tree_map_with_path(decayed, params)
    if not any(jax.tree.leaves(mask)):
        raise ValueError(
            f"weight decay: expected parameters named {' or '.join(DECAYED)}, found none. Likely cause: a model that "
            "is not Flax Linen. Fix: pass decayed=, a function from parameters to a pytree of bools"
        )
    return mask


def stacked_layers(model: Any) -> Callable[[Any], Any]:
    """Return a function that tells which parameters hold many layers, stacked along their first axis.

    Args:
        model: of `gf.models`, whose attribute `stacked` names the submodules that are a scan over layers; any other
            model has none.

    Returns:
        A function from parameters to the same pytree with a bool at every leaf.
    """
    names = frozenset(getattr(model, "stacked", ()))

    def mask(params: Any) -> Any:
        def stacked(path: tuple[Any, ...], _: Any) -> bool:
            return jax.tree_util.keystr(path[:1], simple=True) in names

        return jax.tree_util.tree_map_with_path(stacked, params)

    return mask


def _no_stack(params: Any) -> Any:
    return jax.tree.map(lambda _: False, params)


def with_clipping_and_decay(
    optimizer: optax.GradientTransformation,
    *,
    weight_decay: float | Float[Array, ""] | None = None,
    decayed: Any = decay_mask,
    clip_norm: float | Float[Array, ""] | None = None,
    adaptive_clip: float | Float[Array, ""] | None = None,
    stacked: Callable[[Any], Any] = _no_stack,
) -> optax.GradientTransformation:
    """Apply clipping and weight decay before an optimizer: g <- clip(g) + weight_decay w.

    Clipped is the gradient of the loss; weight decay is the gradient of weight_decay ||w||^2 / 2, added before momentum
    and learning rate (He et al. 2016a and the other papers of this library; AdamW decays elsewhere). Numbers may be
    traced, so that a grid runs over them.

    Args:
        optimizer: any of optax, `optax.sgd(0.1, momentum=0.9)`.
        weight_decay: factor of the L2 term; 1e-4 in He et al. 2016a. None: none.
        decayed: which parameters, a function from them to a pytree of bools.
        clip_norm: largest norm of the whole gradient, g <- g clip_norm / ||g|| above it (Pascanu, Mikolov & Bengio
            2013, algorithm 1). None: no clipping.
        adaptive_clip: largest ||g|| / max(||w||, 1e-3) of each unit, the weights that enter it; a vector, such as
            biases, is taken as one (Brock et al. 2021). None: no clipping.
        stacked: which parameters hold the layers of a scan, each with units of its own; likewise a function, for a
            model of `gf.models` with `scan=True` this one: `stacked_layers(model)`. By default none do.
    """
    import optax

    before: list[optax.GradientTransformation] = []
    if clip_norm is not None:
        before.append(optax.clip_by_global_norm(clip_norm))
    if adaptive_clip is not None:
        before.append(_unit_clip(adaptive_clip, stacked))
    if weight_decay is not None:
        before.append(optax.add_decayed_weights(weight_decay, mask=decayed))
    return optax.chain(*before, optimizer)


def _unit_clip(limit: float | Float[Array, ""], stacked: Callable[[Any], Any]) -> optax.GradientTransformation:
    import optax

    inner = optax.adaptive_grad_clip(limit)

    def alone(grad: Array, weight: Array) -> Array:
        return inner.update(grad, inner.init(weight), weight)[0]

    def clip(many: bool, grad: Array, weight: Array) -> Array:
        return jax.vmap(alone)(grad, weight) if many else alone(grad, weight)

    return optax.stateless(lambda grads, params: jax.tree.map(clip, stacked(params), grads, params))
