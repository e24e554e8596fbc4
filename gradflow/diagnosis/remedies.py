"""What helps against each finding, the most promising first."""

from __future__ import annotations

from gradflow.diagnosis.finding import Remedy

__all__ = [
    "AGAINST_BOUNDS",
    "AGAINST_COLLAPSE",
    "AGAINST_CONSTANT_NORMALIZATION",
    "AGAINST_CUTS",
    "AGAINST_DEATH",
    "AGAINST_EXPLODING",
    "AGAINST_FLUSHING",
    "AGAINST_LARGE_OUTPUTS",
    "AGAINST_LARGE_STEPS",
    "AGAINST_OUTLYING",
    "AGAINST_SATURATION",
    "AGAINST_SHATTERING",
    "AGAINST_SMALL_STEPS",
    "AGAINST_STALLING",
    "AGAINST_SYMMETRY",
    "AGAINST_ZEROS",
    "BY_LEAF",
    "against_vanishing",
]  # fmt: skip

_SKIP = Remedy("Let every block add to a stream, with normalization before it.", "x = x + block(norm(x))")
_NORMALIZE = Remedy("Normalize in front of every activation.", "x = nn.LayerNorm()(x)")
_RECTIFY = Remedy(
    "Replace saturating activations inside the network by rectifiers, with weights of variance 2 / fan_in.",
    "nn.Dense(width, kernel_init=jax.nn.initializers.he_normal()); x = nn.relu(x)",
)
_CRITICAL = Remedy(
    "Scale the initial weights so that every layer keeps the size of its signal on your batch.",
    "params, _ = gf.lsuv(loss_fn, params, *args)",
)
_GATES = Remedy(
    "Use gated cells that keep what they have, with an open forget gate.",
    'gf.models.Recurrent("lstm", hidden, classes, forget_bias=1.0)',
)
_CLIP = Remedy(
    "Clip gradients by their global norm; this bounds the step and leaves the cause.",
    "optimizer = optax.chain(optax.clip_by_global_norm(1.0), optimizer)",
)
_WARM_UP = Remedy("Warm the rate up.", "optax.warmup_cosine_decay_schedule(0.0, rate, 500, steps)")
BY_LEAF = Remedy(
    "Until that is mended: an optimizer that scales each weight's step by its own gradient.", "optax.adam(1e-3)"
)


def against_vanishing(cause: str, *, over_time: bool) -> tuple[Remedy, ...]:
    """Return remedies by what takes most of the signal.

    Args:
        cause: of a ledger's entries.
        over_time: whether it is lost from step to step.
    """
    if over_time:
        return (_GATES, Remedy("Start the recurrent matrix as the identity or orthogonal.",
                               "recurrent_kernel_init=jax.nn.initializers.orthogonal()"))  # fmt: skip
    first = {"activation": (_RECTIFY, _NORMALIZE, _SKIP), "weights": (_CRITICAL, _NORMALIZE, _SKIP)}
    return (*first.get(cause, (_SKIP, _NORMALIZE, _CRITICAL)), BY_LEAF)


AGAINST_EXPLODING = (_CRITICAL, _SKIP, _CLIP)
AGAINST_COLLAPSE = (_SKIP, _NORMALIZE, Remedy("Take fewer layers."))
AGAINST_SHATTERING = (_SKIP, _CRITICAL, Remedy("Take fewer layers."))
AGAINST_SATURATION = (
    Remedy("Scale the data to mean 0 and variance 1.", "x = (x - x.mean(0)) / x.std(0)"),
    _CRITICAL,
    _NORMALIZE,
)
AGAINST_BOUNDS = (
    Remedy("Leave it out: a loss of logits has its own softmax or sigmoid, and numbers need no activation.",
           "loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)"),
    Remedy("Bring the targets within its bounds.", "y = (y - y.mean()) / y.std()"),
)  # fmt: skip
AGAINST_LARGE_OUTPUTS = (
    Remedy("Scale the data to mean 0 and variance 1.", "x = (x - x.mean(0)) / x.std(0)"),
    _CRITICAL,
)
AGAINST_DEATH = (
    Remedy("Look at biases and at the mean of the data; both have to be near 0.", "x = x - x.mean(0)"),
    Remedy("Use an activation with a slope everywhere.", "x = nn.leaky_relu(x)"),
    Remedy("Take a smaller rate, if they died in training."),
)
AGAINST_SYMMETRY = (Remedy("Draw the weights at random.", "kernel_init=jax.nn.initializers.lecun_normal()"),)
AGAINST_ZEROS = (
    Remedy("Draw all but one of the factors at random; only one of a product may start at 0.",
           "kernel_init=jax.nn.initializers.lecun_normal()"),
)  # fmt: skip
AGAINST_FLUSHING = (
    Remedy("Scale the loss by a power of 2 and the gradients back.",
           "grads = jax.tree.map(lambda g: g / scale, jax.grad(lambda p: scale * loss_fn(p))(params))"),
    Remedy("Compute in bfloat16, whose range is that of float32.", "x = x.astype(jnp.bfloat16)"),
)  # fmt: skip
AGAINST_LARGE_STEPS = (Remedy("Take a smaller rate."), _WARM_UP, _CLIP)
AGAINST_OUTLYING = (
    Remedy("Draw this layer's weights at the scale of the others'.", "kernel_init=jax.nn.initializers.lecun_normal()"),
    _CRITICAL,
)
AGAINST_SMALL_STEPS = (Remedy("Take a larger rate."),)
AGAINST_CUTS = (
    Remedy("Replace it by something smooth, or pass its gradient straight through.",
           "y = soft + jax.lax.stop_gradient(hard - soft)"),
)  # fmt: skip
AGAINST_STALLING = (BY_LEAF, _CRITICAL)
AGAINST_CONSTANT_NORMALIZATION = (
    Remedy("Normalize over an axis along which the signal varies: over units, or over a batch of more than one.",
           "nn.LayerNorm(); nn.BatchNorm(use_running_average=not train)"),
)  # fmt: skip
