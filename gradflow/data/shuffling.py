"""A random order whose entries can be computed one by one, without sorting the whole."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, Shaped, UInt32

__all__ = ["ROUNDS", "SMALL", "Key", "epoch_order", "permuted"]

ROUNDS = 4  # pairs of Feistel rounds; Luby and Rackoff need two
SMALL = 1024  # up to here a cipher is measurably not uniform (and sorting is cheap), so the whole order is drawn

Key = PRNGKeyArray | Shaped[Array, "2"]


def permuted(key: Key, size: int, places: Int[Array, " places"]) -> Int[Array, " places"]:
    """Which of 0 ... size - 1 stand at some places of a random permutation.

    Beyond 1024 by a Feistel cipher on the grid rows x columns, the smallest near-square one with at least `size`
    cells: write a place as (l, r) and repeat l <- l + F(r) mod rows, r <- r + G(l) mod columns, F and G tables drawn
    from the key. Each round is a bijection, so the whole is; a cell beyond `size` is sent round again until it falls
    inside, which leaves a bijection of 0 ... size - 1. It costs O(places + sqrt(size)), where
    `jax.random.permutation` sorts all `size` numbers for every batch.

    Luby & Rackoff 1988, "How to construct pseudorandom permutations from pseudorandom functions"; Black & Rogaway
    2002, "Ciphers with arbitrary finite domains", section 4 (cycle walking) and section 5 (uneven grid).

    Args:
        key: the permutation.
        size: how many are permuted.
        places: places in the order, 0 ... size - 1.

    Returns:
        int32, distinct for distinct places; all of 0 ... size - 1 for all places.

    Examples:
        >>> sorted(permuted(jax.random.key(0), 5, jnp.arange(5)).tolist())
        [0, 1, 2, 3, 4]
    """
    if size <= SMALL:
        return jax.random.permutation(key, size)[places]
    rows = math.isqrt(size - 1) + 1
    columns = -(-size // rows)
    row_key, column_key = jax.random.split(key)
    row_shifts = jax.random.randint(row_key, (ROUNDS, columns), 0, rows)
    column_shifts = jax.random.randint(column_key, (ROUNDS, rows), 0, columns)

    def shuffle(cells: Int[Array, " places"]) -> Int[Array, " places"]:
        row, column = jnp.divmod(cells, columns)
        for pair in range(ROUNDS):
            row = (row + row_shifts[pair, column]) % rows
            column = (column + column_shifts[pair, row]) % columns
        return row * columns + column

    def outside(cells: Int[Array, " places"]) -> Array:
        return jnp.any(cells >= size)

    def again(cells: Int[Array, " places"]) -> Int[Array, " places"]:
        return jnp.where(cells >= size, shuffle(cells), cells)

    return jax.lax.while_loop(outside, again, shuffle(places.astype(jnp.int32)))


def epoch_order(key: Key, size: int, batch_size: int, step: int | Int[Array, ""]) -> Int[Array, " batch"]:
    """Which examples make up the batch of one step, epoch after epoch in fresh random orders.

    Batches follow each other through one endless row of epochs: the batch that ends one epoch begins the next, so
    every epoch holds every example exactly once and no example is left out, whether or not the batch size divides
    the number of examples.

    Args:
        key: epoch e is ordered by `fold_in(key, e)`.
        size: examples an epoch.
        batch_size: examples a step, at most `size`.
        step: counted from 0; step x batch size must stay below 2^32.

    Returns:
        int32 indices 0 ... size - 1.
    """
    first = jnp.asarray(step).astype(jnp.uint32) * jnp.uint32(batch_size)
    places: UInt32[Array, " batch"] = first + jnp.arange(batch_size, dtype=jnp.uint32)
    epochs, places = jnp.divmod(places, jnp.uint32(size))

    def ordered(epoch: Array) -> Int[Array, " batch"]:
        return permuted(jax.random.fold_in(key, epoch), size, places.astype(jnp.int32))

    if size % batch_size == 0:
        return ordered(epochs[0])
    begun, next_ = jax.vmap(ordered)(jnp.stack([epochs[0], epochs[0] + 1]))
    return jnp.where(epochs == epochs[0], begun, next_)
