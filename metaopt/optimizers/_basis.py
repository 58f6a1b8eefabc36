"""Eigenbases of the covariance of gradients: the coordinates in which an optimizer for single coordinates does best.

A tensor as a matrix G [rows, columns] (the last axis against all others; a vector is one row) has two sides:

    C_rows <- b C_rows + (1 - b) G G^T        C_columns <- b C_columns + (1 - b) G^T G
    Q      <- qr(C Q / mean(diag C) + 1e-5 Q)  for each side, every so many steps: one step of subspace iteration
    G' = Q_rows^T G Q_columns                  and back, G = Q_rows G' Q_columns^T

qr is the orthogonal factor, with R's diagonal >= 0, so that columns do not change signs. A side of one, or of more
than `limit`, is left as it is, Q = I. What is turned keeps its norm. A coordinate that never has a gradient stays one
of its own. Adam in these coordinates is SOAP (Vyas et al. 2024, arXiv 2409.11321, algorithm 3), which descends from
Shampoo (Gupta, Koren & Singer 2018, arXiv 1802.09568).

Bases are constants to whoever differentiates: derivatives of eigenvectors explode where eigenvalues are close.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from metaopt import linalg
from metaopt.optimizers._blocks import Block

MEMORY = 0.95  # b
RIDGE = 1e-5  # keeps the columns that have no gradient yet
TINY = 1e-30
EXACT = jax.lax.Precision.HIGHEST


class Side(NamedTuple):
    covariance: jax.Array  # C, f32 [n, n]
    vectors: jax.Array  # Q, f32 [n, n]


Basis = tuple[Side | None, Side | None]  # of rows and of columns; None is left as it is


def start(shape: tuple[int, ...], limit: int) -> Basis:
    """Q = I and C = 0 for the sides that have from 2 to `limit` numbers."""
    size = math.prod(shape)
    rows, columns = (Side(jnp.zeros((n, n)), jnp.eye(n)) if size and 1 < n <= limit else None for n in _matrix(shape))
    return rows, columns


def follow(basis: Basis, g: jax.Array, due: jax.Array) -> Basis:
    """The basis after the gradient g, f32 of the tensor's shape; due, a bool scalar: is Q to be renewed?"""
    basis, m = jax.lax.stop_gradient((basis, g.reshape(_matrix(g.shape))))
    rows, columns = (side and _follow(side, x, due) for side, x in zip(basis, (m, m.T), strict=True))
    return rows, columns


def turn(bases: Sequence[Basis], block: Block, arrays: Sequence[jax.Array], back: bool = False) -> list[jax.Array]:
    """Arrays [*block.shape] in the coordinates of the bases (of the model's leaves), or from them back."""
    if not any(side for i in block.leaves for side in bases[i]):
        return list(arrays)
    if not block.flat:  # a large tensor: without a copy of all arrays side by side
        return [_turn(bases[block.leaves[0]], x[None], block.shapes[0], back)[0] for x in arrays]
    parts = zip(block.leaves, block.tensors(jnp.stack(arrays)), block.shapes, strict=True)
    return list(jnp.concatenate([_turn(bases[i], x, shape, back) for i, x, shape in parts], axis=1))


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    return (math.prod(shape[:-1]), math.prod(shape[-1:]))


def _turn(basis: Basis, x: jax.Array, shape: tuple[int, ...], back: bool) -> jax.Array:
    """x [k, *coordinates of one tensor, in its shape or flat]"""
    (rows, columns), given = basis, x.shape
    if columns:
        x = x.reshape(-1, *shape)
        x = jnp.matmul(x, columns.vectors.T if back else columns.vectors, precision=EXACT)
    if rows:
        x = x.reshape(-1, *_matrix(shape)).swapaxes(1, 2)
        x = jnp.matmul(x, rows.vectors.T if back else rows.vectors, precision=EXACT).swapaxes(1, 2)
    return x.reshape(given)


def _follow(side: Side, x: jax.Array, due: jax.Array) -> Side:
    """x [n, the other side]"""
    x = x.astype(side.covariance.dtype)
    covariance = side.covariance + (1 - MEMORY) * (jnp.matmul(x, x.T, precision=EXACT) - side.covariance)
    return Side(covariance, _renewed(due, covariance, side.vectors))


@custom_vmap
def _renewed(due: jax.Array, covariance: jax.Array, vectors: jax.Array) -> jax.Array:
    """Q; for arrays of any leading axes, those of `due`. Nothing is computed where none is due.

    Under `vmap` a `cond` computes both branches for all. So that runs that go in step renew their bases in step, the
    rule for `vmap` is the function itself, with one more leading axis.
    """

    def renew():
        diagonal = jnp.diagonal(covariance, axis1=-2, axis2=-1)
        scale = 1 / (diagonal.mean(-1)[..., None, None] + TINY)
        q, r = linalg.qr(jnp.matmul(covariance * scale, vectors, precision=EXACT) + RIDGE * vectors)
        signs = jnp.where(jnp.diagonal(r, axis1=-2, axis2=-1) < 0, -1.0, 1.0)
        return jnp.where(due[..., None, None], q * signs[..., None, :], vectors)

    return jax.lax.cond(jnp.any(due), renew, lambda: vectors)


@_renewed.def_vmap
def _(size, batched, *args):
    whole = (x if has else jnp.broadcast_to(x, (size, *x.shape)) for has, x in zip(batched, args, strict=True))
    return _renewed(*whole), True
