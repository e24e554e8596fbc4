"""Data sets larger than memory, streamed through Grain with the interface of all other sources."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num

from gradflow.data.normalization import Normalization
from gradflow.data.pytree_dataclass import pytree
from gradflow.data.sources import Augmentation, Batch, Key, Step, normalize_and_augment

__all__ = ["PREFETCHED", "THREADS", "Examples", "Stream", "StreamWindow", "stream"]

THREADS = 4  # read and decode; more threads are no quicker, because Python's lock lets one of them work at a time
PREFETCHED = 8  # batches read ahead of the window


@runtime_checkable
class Examples(Protocol):
    """Anything with a length that gives example i as (input, target), two NumPy arrays: lists, memory maps, records."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, Any]: ...


@pytree("augment")
@dataclasses.dataclass(frozen=True, eq=False)
class StreamWindow:
    """A `Window` of a stream: the batches of some steps, on the device as stored.

    Attributes:
        first: the first of these steps.
        inputs: one batch a step.
        targets: one batch a step.
        normalization: applied to the inputs of a batch, before augmentation; None leaves them as they are.
        augment: `(key, inputs) -> inputs`, or None.
    """

    first: Int[Array, ""]
    inputs: Num[Array, "steps batch *shape"]
    targets: Num[Array, "steps batch *outputs"]
    normalization: Normalization | None
    augment: Augmentation | None

    def batch(self, key: Key, step: Step) -> Batch:
        """Pick the batch of a step, normalize and augment it: pure, jittable.

        Args:
            key: randomness of the augmentation, the same at every step; the order is the stream's.
            step: one of those that this window was fetched for; another one gives the nearest of these.
        """
        _, augment_key = jax.random.split(key)
        place = jnp.asarray(step).astype(jnp.int32) - self.first
        drawn = Batch(self.inputs[place], self.targets[place])
        return normalize_and_augment(drawn, jax.random.fold_in(augment_key, step), self.normalization, self.augment)


class Stream:
    """A `Source` that reads examples on the host, in threads, ahead of the device.

    Its position is the number of the step: `window(first, count)` of the same stream, or of another one made alike, in
    this process or the next, holds the same batches, whatever was asked for before. Asking for the next steps goes on
    with what is read ahead; asking for others starts reading there.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        *,
        seed: int = 0,
        shuffled: bool = True,
        normalization: Normalization | None = None,
        augment: Augmentation | None = None,
        process: tuple[int, int] = (0, 1),
        sharding: jax.sharding.Sharding | None = None,
    ) -> None:
        """See `stream`."""
        import grain

        index, count = process
        if not 1 <= batch_size <= len(examples) or batch_size % count:
            raise ValueError(
                f"expected a batch size of 1 ... {len(examples)} that {count} process(es) can share evenly, "
                f"got {batch_size}. Fix: a batch size that is a multiple of the number of processes"
            )
        endless = grain.MapDataset.source(examples)
        # Grain orders epoch e by seed + e: neighbouring seeds would share their orders.
        apart = int(np.random.SeedSequence(seed).generate_state(1)[0])
        endless = endless.shuffle(seed=apart) if shuffled else endless
        # Processes take turns, so that together they see what a single one would, step by step.
        self._batches = endless.repeat()[index::count].batch(batch_size // count)
        self._options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=PREFETCHED)
        self._ahead: Iterator[Any] = iter(())
        self._next = -1
        self._normalization, self._augment, self._sharding = normalization, augment, sharding
        self._batch_size, self.examples = batch_size, len(examples)

    @property
    def batch_size(self) -> int:
        """Examples a step, of all processes together."""
        return self._batch_size

    def window(self, first: int, count: int) -> StreamWindow:
        """Read the batches of the steps `first ... first + count - 1` and put them on the device.

        Args:
            first: first step, counted from 0 over the whole run.
            count: number of steps.
        """
        if first != self._next:
            self._ahead = iter(self._batches.slice(slice(first, None)).to_iter_dataset(self._options))
        read = [next(self._ahead) for _ in range(count)]
        self._next = first + count
        inputs, targets = (self._place(np.stack(column)) for column in zip(*read, strict=True))
        return StreamWindow(jnp.asarray(first, jnp.int32), inputs, targets, self._normalization, self._augment)

    def _place(self, rows: np.ndarray) -> Array:
        if self._sharding is None:
            return jnp.asarray(rows)
        return jax.make_array_from_process_local_data(self._sharding, rows)


def stream(
    data: str | Examples,
    batch_size: int,
    *,
    split: str = "train",
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
    seed: int = 0,
    shuffled: bool = True,
    normalization: Normalization | None = None,
    augment: Augmentation | None = None,
    folder: str | Path | None = None,
    process: tuple[int, int] = (0, 1),
    sharding: jax.sharding.Sharding | None = None,
) -> Stream:
    """Stream a data set that need not fit into memory, every example exactly once an epoch, epochs in fresh orders.

    Args:
        data: name of a TFDS image data set, or anything with a length whose element i is (input, target).
        batch_size: examples a step, of all processes together.
        split: of a TFDS data set, "train" or "train[:90%]".
        transform: of each image, on the host: what brings images to one size. Randomness is for `augment`.
        seed: of the orders.
        shuffled: False: the stored order.
        normalization: of the inputs, on the device.
        augment: such as `gf.data.crop_and_flip`, on the device.
        folder: where TFDS data sets are kept; None: $TFDS_DATA_DIR or ~/tensorflow_datasets.
        process: index of this process and how many there are; each reads its part of every batch.
        sharding: how arrays (steps, batch, ...) lie on the devices; None: on the default device.

    Raises:
        ValueError: for a batch size that does not fit, an unknown name or split.
        FileNotFoundError: if the data set is not there and cannot be downloaded.
    """
    if isinstance(data, str):
        examples: Examples = _Records(data, split, transform, None if folder is None else Path(folder))
    else:
        examples = data if transform is None else _Transformed(data, transform)
    return Stream(
        examples,
        batch_size,
        seed=seed,
        shuffled=shuffled,
        normalization=normalization,
        augment=augment,
        process=process,
        sharding=sharding,
    )


class _Transformed:
    """Examples whose inputs go through a function."""

    def __init__(self, examples: Examples, transform: Callable[[np.ndarray], np.ndarray]) -> None:
        self._examples, self._transform = examples, transform

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        value, target = self._examples[index]
        return self._transform(value), target


class _Records:
    """Images and labels of a TFDS data set, decoded one by one."""

    def __init__(
        self, name: str, split: str, transform: Callable[[np.ndarray], np.ndarray] | None, folder: Path | None
    ) -> None:
        from gradflow.data.images import download, prepared

        built = download.prepared_builder(name, folder)
        self._records = prepared.records(built, split)
        self._image, _ = prepared.image_and_labels(built)
        self._transform = transform
        with prepared.without_decoder_advice():
            self[0]  # says now, in this thread, what TFDS has to say about decoders

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        record = self._records[index]
        image = record[self._image]
        return (image if self._transform is None else self._transform(image)), np.asarray(record["label"], np.int32)
