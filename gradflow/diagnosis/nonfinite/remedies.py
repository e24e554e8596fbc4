"""What mends a non-finite value, in sentences."""

from __future__ import annotations

__all__ = ["REMEDIES", "UNUSED_BRANCH"]

UNUSED_BRANCH = (
    "Use `where` twice, so that the unused branch gets a harmless argument too: "
    "jnp.where(ok, f(jnp.where(ok, x, 1.0)), 0.0)."
)

REMEDIES = {
    "sqrt": "Put a small number under the root: jnp.sqrt(x + eps).",
    "norm": "Use optax.safe_norm(x, eps), or jnp.sqrt(jnp.sum(x**2) + eps).",
    "variance": "Add eps to the variance, jax.lax.rsqrt(variance + eps), or leave constant signals out.",
    "negative_variance": "Compute the variance as mean((x - mean)**2), or clip it at 0, and add eps.",
    "log": "Keep the argument positive, jnp.log(jnp.maximum(x, eps)); log_softmax never forms the log of 0.",
    "division": "Keep the divisor away from 0: x / jnp.where(d == 0, 1.0, d), or x / (d + eps) where d >= 0.",
    "exp": (
        "Subtract the maximum before exp, or use logsumexp, softmax, log_softmax, softplus or sigmoid, which do so; "
        "else bound the argument."
    ),
    "softmax": (
        "Mask with a large finite number, jnp.finfo(x.dtype).min, or let every row keep an entry; "
        "jax.nn.softmax(x, where=mask, initial=0.0) leaves masked entries out."
    ),
    "cast": "Keep this part in float32, or use bfloat16, whose range is that of float32; else scale the values down.",
    "gradient_cast": "Use a smaller loss scale (a dynamic one halves itself), bfloat16, or a smaller loss.",
    "power": "Keep the base positive, (x + eps) ** p, or use x * x for a whole exponent.",
    "domain": "Clip the argument inside its limits: jnp.clip(x, -1 + eps, 1 - eps).",
    "product": "Choose with jnp.where in place of a factor of 0, and find what makes the infinity.",
    "difference": "Use a large finite number in place of infinity, jnp.finfo(x.dtype).max.",
    "gather": "Look at the indices: labels or tokens beyond the table, or a table too short; clip or mask them.",
    "matrix": "Add eps * I to the matrix; for equal eigenvalues use another decomposition.",
    "overflow": "Scale the inputs or the initial weights down, normalize, take a smaller rate, or use a wider type.",
    "explosion": "Scale the initial weights down, normalize or gate; clipping comes too late for what has overflowed.",
    "reduction": "Give the reduction something finite: a finite initial value, or no row in which all is masked.",
    "parameter": "Look at how it was initialized, loaded or updated; call find_nonfinite on the state before.",
    "data": "Repair or leave out these values, or mask them before the first operation.",
    "constant": "Look at how that constant is computed.",
    "rule": "Mend the rule: its result has to be finite wherever the function is.",
    "closed": "Call find_nonfinite on the function inside, on one device with that device's part of the data.",
    "other": "Keep its argument away from that point, by jnp.where on the argument or by clipping.",
}
