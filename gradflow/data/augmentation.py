"""Augmentation of images inside the jitted step: pure functions of a key."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Num, PRNGKeyArray, Shaped

__all__ = ["Images", "Key", "crop_and_flip", "random_crop", "random_flip"]

Key = PRNGKeyArray | Shaped[Array, "2"]
Images = Num[Array, "batch height width channels"]


def random_flip(key: Key, images: Images) -> Images:
    """Mirror each image left to right with probability 1/2.

    Args:
        key: randomness.
        images: (batch, height, width, channels).
    """
    mirrored = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def random_crop(key: Key, images: Images, padding: int = 4) -> Images:
    """Pad each image by zeros on all four sides and cut a window of the first size out of it, at random.

    Every one of the (2 padding + 1)^2 positions is equally likely.

    Args:
        key: randomness.
        images: (batch, height, width, channels); normalized, so that 0 is the mean.
        padding: pixels on each side.
    """
    count, height, width, channels = images.shape
    corners = jax.random.randint(key, (count, 2), 0, 2 * padding + 1)
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))

    def window(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], jnp.int32(0)), (height, width, channels))

    return jax.vmap(window)(padded, corners)


def crop_and_flip(key: Key, images: Images) -> Images:
    """Pad by 4, crop at random, mirror at random: the augmentation of CIFAR in He et al. 2016, section 4.2.

    Args:
        key: randomness.
        images: normalized images (batch, height, width, channels).
    """
    crop_key, flip_key = jax.random.split(key)
    return random_flip(flip_key, random_crop(crop_key, images))
