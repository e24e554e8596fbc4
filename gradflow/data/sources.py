"""Where training gets its batches: one interface for data on the device, generated data and streams.

A training loop knows two things. On the host, before it dispatches steps `first ... first + count - 1` as one program,
it takes `window = source.window(first, count)`, a pytree of arrays that it hands to that program. Inside the program,
each step takes `window.batch(key, step)`, a pure function. For data that live on the device, or are made from
the key, the window is the source itself and the host has no work at all. The position of every source is the number of
the step and nothing else: a run that continues from step n with the same key gets the very batches it would have got.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num, PRNGKeyArray, Shaped

from gradflow.data.normalization import Normalization
from gradflow.data.pytree_dataclass import pytree
from gradflow.data.shuffling import epoch_order

__all__ = ["Augmentation", "Batch", "Key", "OnDevice", "Source", "Step", "Window", "normalize_and_augment", "on_device"]

Key = PRNGKeyArray | Shaped[Array, "2"]
Step = int | Int[Array, ""]
Augmentation = Callable[[Any, Array], Array]


class Batch(NamedTuple):
    """Examples of one step.

    Attributes:
        inputs: images (batch, height, width, channels) or sequences (batch, steps, features).
        targets: classes (batch,), real targets (batch, outputs), or one class a step (batch, steps).
        lengths: how many steps of each sequence count, (batch,); None where all do.
    """

    inputs: Num[Array, "batch *shape"]
    targets: Num[Array, "batch *outputs"]
    lengths: Int[Array, " batch"] | None = None


@runtime_checkable
class Window(Protocol):
    """The data of consecutive steps: a pytree that yields the batch of any of them."""

    def batch(self, key: Key, step: Step) -> Batch:
        """Return the batch of a step: pure, of static shape, to be called inside `jit`, `scan`, `vmap`.

        Args:
            key: randomness of the whole run, the same at every step.
            step: counted from 0 over the whole run, one of those that the window was made for.
        """
        ...


@runtime_checkable
class Source(Protocol):
    """An endless row of batches, addressed by step."""

    @property
    def batch_size(self) -> int:
        """Examples a step."""
        ...

    def window(self, first: int, count: int) -> Window:
        """Prepare on the host what the steps `first ... first + count - 1` need on the device.

        Args:
            first: first step, counted from 0 over the whole run.
            count: number of steps; windows of the same count have the same shapes, so nothing is recompiled.
        """
        ...


@pytree("batch_size", "augment", "shuffled")
@dataclasses.dataclass(frozen=True, eq=False)
class OnDevice:
    """Examples that live on the device, uint8 as stored; shuffled, normalized and augmented inside the step.

    Made by `on_device`, which checks what it is given.

    Attributes:
        inputs: one example a row.
        targets: one a row.
        normalization: applied to the inputs of a batch, before augmentation; None leaves them as they are.
        batch_size: examples a step.
        augment: `(key, inputs) -> inputs` of the same shape, with a fresh key every step; None for none.
        shuffled: a fresh random order every epoch; False: the stored order, for tests of a model.
    """

    inputs: Num[Array, "examples *shape"]
    targets: Num[Array, "examples *outputs"]
    normalization: Normalization | None
    batch_size: int
    augment: Augmentation | None
    shuffled: bool

    @property
    def examples(self) -> int:
        """Number of examples, one epoch's."""
        return len(self.inputs)

    def window(self, first: int, count: int) -> OnDevice:
        """Return itself: nothing has to be fetched.

        Args:
            first: first step.
            count: number of steps.
        """
        return self

    def batch(self, key: Key, step: Step) -> Batch:
        """Draw the batch of a step: pure, jittable.

        Every example comes exactly once an epoch, in an order that the key and the epoch determine (`epoch_order`); a
        batch that an epoch's end falls into goes on with the next epoch.

        Args:
            key: randomness of the whole run, the same at every step.
            step: counted from 0; step x batch size must stay below 2^32.

        Returns:
            Inputs, float32 if there is a normalization, and their targets.
        """
        order_key, augment_key = jax.random.split(key)
        if self.shuffled:
            chosen = epoch_order(order_key, self.examples, self.batch_size, step)
        else:
            start = jnp.asarray(step).astype(jnp.uint32) * jnp.uint32(self.batch_size)
            rows = start + jnp.arange(self.batch_size, dtype=jnp.uint32)
            chosen = (rows % jnp.uint32(self.examples)).astype(jnp.int32)
        drawn = Batch(self.inputs[chosen], self.targets[chosen])
        return normalize_and_augment(drawn, jax.random.fold_in(augment_key, step), self.normalization, self.augment)


def normalize_and_augment(
    batch: Batch, key: Key, normalization: Normalization | None, augment: Augmentation | None
) -> Batch:
    """Normalize a batch of stored examples, then augment it.

    In this order, so that what a crop pads with 0 is the mean, as in He et al. 2016.

    Args:
        batch: as stored.
        key: randomness of the augmentation in this step.
        normalization: of the inputs, or None.
        augment: `(key, inputs) -> inputs`, or None.
    """
    inputs = batch.inputs if normalization is None else normalization(batch.inputs)
    inputs = inputs if augment is None else augment(key, inputs)
    return batch._replace(inputs=inputs)


def on_device(
    inputs: Num[Array | np.ndarray, "inputs *shape"],
    targets: Num[Array | np.ndarray, "targets *outputs"],
    batch_size: int,
    *,
    normalization: Normalization | None = None,
    augment: Augmentation | None = None,
    shuffled: bool = True,
) -> OnDevice:
    """Put examples on the device once, and draw batches from them inside the step.

    Args:
        inputs: images (examples, height, width, channels) or sequences (examples, steps, features), best uint8.
        targets: classes (examples,), or anything with one row an example.
        batch_size: examples a step, 1 ... examples.
        normalization: of the inputs, as `ImageDataset.normalization` gives it.
        augment: such as `gf.data.crop_and_flip`.
        shuffled: a fresh random order every epoch; False: the stored order.

    Raises:
        ValueError: if inputs and targets differ in number, or the batch size does not fit.

    Examples:
        >>> import numpy as np
        >>> source = on_device(np.arange(6)[:, None], np.arange(6), batch_size=2)
        >>> epoch = [source.batch(jax.random.key(0), step).targets.tolist() for step in range(3)]
        >>> sorted(sum(epoch, []))
        [0, 1, 2, 3, 4, 5]
    """
    if len(inputs) != len(targets):
        raise ValueError(
            f"expected one target an input, got {len(inputs)} inputs and {len(targets)} targets. "
            "Likely cause: they were cut, or come from different splits. Fix: pass both from one split"
        )
    if not 1 <= batch_size <= len(inputs):
        raise ValueError(
            f"expected a batch size of 1 ... {len(inputs)}, the number of examples, got {batch_size}. "
            "Fix: a smaller batch or more examples"
        )
    return OnDevice(jnp.asarray(inputs), jnp.asarray(targets), normalization, batch_size, augment, shuffled)
