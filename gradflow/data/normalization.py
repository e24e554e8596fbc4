"""Normalization of images as papers state it, from the training images alone, as a function to be jitted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, UInt8

from gradflow import _lookup
from gradflow.data.pytree_dataclass import pytree

__all__ = ["KINDS", "Images", "Normalization", "grey_level_statistics", "normalization"]

Images = UInt8[np.ndarray, "examples *shape"]


@pytree()
@dataclasses.dataclass(frozen=True, eq=False)
class Normalization:
    """(images / 255 - mean) / std, with whatever axes mean and std have.

    Attributes:
        mean: in units of the largest grey level, 255; broadcasts against one image.
        std: likewise.
    """

    mean: Float[Array, "..."]
    std: Float[Array, "..."]

    def __call__(self, images: Num[Array, "batch *image"]) -> Float[Array, "batch *image"]:
        """Normalize images: pure, jittable.

        Args:
            images: grey levels 0 ... 255.

        Returns:
            float32, without unit.

        Raises:
            TypeError: if the images are not uint8 (already normalized, most likely).
        """
        if images.dtype != jnp.uint8:
            raise TypeError(
                f"expected uint8 grey levels 0 ... 255, got {images.dtype}. Likely cause: images that were normalized "
                "before. Fix: pass them as loaded"
            )
        return (images.astype(jnp.float32) / 255 - self.mean) / self.std


def grey_level_statistics(images: UInt8[np.ndarray, "..."]) -> tuple[float, float]:
    """Mean and standard deviation of images / 255, exactly, from the histogram of the 256 grey levels.

    Args:
        images: grey levels 0 ... 255.
    """
    frequency = np.bincount(images.ravel(), minlength=256) / images.size
    levels = np.arange(256) / 255
    mean = float(frequency @ levels)
    return mean, float(np.sqrt(frequency @ (levels - mean) ** 2))


def _global(images: Images) -> tuple[Num[np.ndarray, "..."], Num[np.ndarray, "..."]]:
    mean, std = grey_level_statistics(images)
    return np.array(mean), np.array(std)


def _channel(images: Images) -> tuple[Num[np.ndarray, "..."], Num[np.ndarray, "..."]]:
    each = [grey_level_statistics(images[..., channel]) for channel in range(images.shape[-1])]
    return np.array([mean for mean, _ in each]), np.array([std for _, std in each])


def _pixel_mean(images: Images) -> tuple[Num[np.ndarray, "..."], Num[np.ndarray, "..."]]:
    return images.mean(0, dtype=np.float64) / 255, np.array(1.0)


def _unit(images: Images) -> tuple[Num[np.ndarray, "..."], Num[np.ndarray, "..."]]:
    return np.array(0.0), np.array(1.0)


KINDS: dict[str, Callable[[Images], tuple[Num[np.ndarray, "..."], Num[np.ndarray, "..."]]]] = {
    "global": _global,
    "channel": _channel,
    "pixel_mean": _pixel_mean,
    "unit": _unit,
}


def normalization(images: Images, kind: str = "global") -> Normalization:
    """Measure the normalization of a training split.

    - "global": one mean and one standard deviation for all pixels, so that a constant background stays constant.
    - "channel": one mean and one standard deviation a colour channel.
    - "pixel_mean": the mean image is subtracted, nothing is divided but the 255 of the grey levels (He et al. 2016,
      section 4.2: "the per-pixel mean subtracted"; Krizhevsky 2012).
    - "unit": grey levels scaled to [0, 1].

    Args:
        images: training images, of the training split alone.
        kind: one of the above.

    Raises:
        ValueError: for an unknown kind, or where images do not vary, so that nothing can be divided by.
    """
    mean, std = _lookup.find("normalization", kind, KINDS)(images)
    if not np.all(std > 0):
        raise ValueError(
            f"expected images that vary, got a standard deviation of {std.min()} for {kind!r}. "
            "Likely cause: an empty channel. Fix: 'pixel_mean' or 'unit', which do not divide"
        )
    return Normalization(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))
