"""How the coordinates of a model are laid out for a per-coordinate network.

A *block* is a set of coordinates processed by one kernel: a large tensor in its own shape (so that it keeps its
sharding, and row or column statistics broadcast), or up to `TENSORS` small tensors side by side in one flat vector,
which costs a handful of kernels instead of a handful a tensor. Those of rank 0 and 1 and the others do not share one,
as their second moments differ. Statistics are per tensor in either case.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metaopt.types import PyTree

SMALL = 1024  # coordinates; a tensor below this goes into a flat block
TENSORS = 16  # of a flat block, at most
VECTOR = 1 << 14  # coordinates; a tensor below this may be taken as a vector where nothing is known along its axes
PIECE = 1 << 15  # coordinates, about, of a large tensor that are taken together
TILE = 1 << 9  # the same of a vector


class Block(NamedTuple):
    """leaves: indices into the model's list of leaves; shapes: theirs. One large leaf, or several small ones; flat:
    the coordinates are one vector."""

    leaves: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    flat: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the block's coordinates."""
        return (sum(map(math.prod, self.shapes)),) if self.flat else self.shapes[0]

    def gather(self, arrays: Sequence[jax.Array]) -> jax.Array:
        """The block's coordinates from the model's leaves, f32 [*shape]."""
        return self.spread([arrays[i].astype(jnp.float32)[None] for i in self.leaves])[0]

    @property
    def factored(self) -> bool:
        """Have the tensors two axes or more?"""
        return len(self.shapes[0]) > 1

    def spread(self, arrays: Sequence[jax.Array]) -> jax.Array:
        """Per tensor [k, *broadcastable to its shape] -> [k, *broadcastable to the block's shape]."""
        if not self.flat:
            return arrays[0]
        return jnp.concatenate([_expand(x, s) for x, s in zip(arrays, self.shapes, strict=True)], 1)

    def tensors(self, x: jax.Array) -> list[jax.Array]:
        """[k, *shape] -> per tensor [k, *its coordinates]: its own shape, or flat in a flat block."""
        if not self.flat:
            return [x]
        return jnp.split(x, np.cumsum([math.prod(s) for s in self.shapes])[:-1], axis=1)

    def means(self, x: jax.Array) -> jax.Array:
        """[k, *shape] -> [k, tensors], the mean over each tensor."""
        parts = self.tensors(x)
        return jnp.stack([jnp.mean(part, axis=tuple(range(1, part.ndim))) for part in parts], axis=1)

    def broadcast(self, x: jax.Array) -> jax.Array:
        """The way back from `means`: a number a tensor, [k, tensors] -> [k, *broadcastable to the block's shape]."""
        if not self.flat:
            return x.reshape(-1, *[1] * len(self.shape))
        tensors = np.repeat(np.eye(len(self.shapes), dtype=np.float32), [math.prod(s) for s in self.shapes], axis=1)
        return jnp.dot(x, tensors, precision=jax.lax.Precision.HIGHEST)

    def scatter(self, x: jax.Array) -> list[jax.Array]:
        """[*shape] -> the block's leaves, each in its own shape."""
        return [part.reshape(s) for part, s in zip(self.tensors(x[None]), self.shapes, strict=True)]


def _expand(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """[k, *broadcastable to shape] -> [k, coordinates], flat.

    A broadcast would be fused into the loop over coordinates, which its index arithmetic keeps from being vectorised;
    a product with a matrix of zeros and ones is not, and is as exact.
    """
    if x.shape[1:] != shape:
        source = np.broadcast_to(np.arange(x[0].size).reshape(x.shape[1:]), shape).ravel()
        selection = np.eye(x[0].size, dtype=np.float32)[:, source]
        return jnp.dot(x.reshape(x.shape[0], -1), selection, precision=jax.lax.Precision.HIGHEST)
    return x.reshape(x.shape[0], -1)


def blocks_of(tree: PyTree, vector: int = SMALL) -> list[Block]:
    """The blocks that cover all leaves that are not empty. A tensor of fewer than `vector` coordinates is a vector, for
    loops over a minor axis of a few tens are several times slower."""
    shapes = [x.shape for x in jax.tree.leaves(tree)]
    sizes = [math.prod(s) for s in shapes]
    groups: list[tuple[int, ...]] = []
    for factored in (False, True):
        small = [i for i, n in enumerate(sizes) if 0 < n < SMALL and (len(shapes[i]) > 1) == factored]
        groups += [tuple(small[k : k + TENSORS]) for k in range(0, len(small), TENSORS)]
    groups += [(i,) for i, n in enumerate(sizes) if n >= SMALL]
    return [Block(group, tuple(shapes[i] for i in group), sizes[group[0]] < max(SMALL, vector)) for group in groups]


def in_pieces(fn, block: Block, *arrays: jax.Array) -> tuple[PyTree, PyTree]:
    """(y, means) = fn(block, *arrays), of a large tensor piece by piece: what fn stores between its kernels stays in
    the cache, and takes no memory of the tensor's size. arrays [k, *block.shape]; y: arrays [*block.shape]; means:
    averages over the block's tensors.

    A piece is every n-th index of the longest axis but the last, so that each device has a share of every piece, along
    whichever axis the tensor is sharded.
    """
    *major, minor = block.shape
    if block.flat or not major:
        return fn(block, *arrays)
    axis = major.index(max(major))
    before, size, after = major[:axis], major[axis], (*major[axis + 1 :], minor)
    pieces = _pieces(size, math.prod(block.shape), PIECE)
    piece = block._replace(shapes=((*before, size // pieces, *after),))
    split = [x.reshape(x.shape[0], *before, size // pieces, pieces, *after) for x in arrays]

    def one(i):
        return fn(piece, *(jax.lax.dynamic_index_in_dim(x, i, axis + 2, keepdims=False) for x in split))

    y, means = jax.lax.map(one, jnp.arange(pieces))
    y = jax.tree.map(lambda x: jnp.moveaxis(x, 0, axis + 1).reshape(block.shape), y)
    return y, jax.tree.map(lambda x: jnp.mean(x, axis=0), means)


def in_tiles(fn, weights: PyTree, block: Block, *arrays: jax.Array) -> tuple[PyTree, PyTree]:
    """(y, means) = fn(weights, block, *arrays) as of `in_pieces`, whose pieces of a vector are side by side: each of a
    size that what a network reads of it stays in the fastest cache. Each has its own copy of the weights, or the
    products of all would be merged into one, and its result put in order again.
    """
    size = block.shape[0]
    tiles = _pieces(size, size, TILE)
    if tiles == 1 or not block.flat or len(block.shapes) > 1:
        return in_pieces(partial(fn, weights), block, *arrays)
    tile = block._replace(shapes=((size // tiles,),))
    copies = jax.tree.map(lambda w: jnp.broadcast_to(w, (tiles, *w.shape)), weights)
    split = [x.reshape(len(x), tiles, -1) for x in arrays]
    y, means = jax.vmap(lambda w, *parts: fn(w, tile, *parts), (0, *[1] * len(split)))(copies, *split)
    return jax.tree.map(lambda x: x.reshape(block.shape), y), jax.tree.map(lambda x: jnp.mean(x, axis=0), means)


def _pieces(size: int, coordinates: int, most: int) -> int:
    """The divisor of size that cuts coordinates into pieces of about `most`."""
    divisors = [n for n in range(1, size + 1) if size % n == 0]
    return min(divisors, key=lambda n: abs(math.log(coordinates / n / most)))


def map_blocks(fn, grads: PyTree, params: PyTree, *states: Sequence[PyTree], vector: int = SMALL) -> tuple[PyTree, ...]:
    """fn(block, grad leaves, param leaves, *state of the block) -> (step [*block.shape], *new state), block by block.

    -> (updates as of `assemble`; each new state, a list over the blocks)
    """
    blocks, gradients, leaves = blocks_of(params, vector), jax.tree.leaves(grads), jax.tree.leaves(params)
    rows = [fn(block, gradients, leaves, *state) for block, *state in zip(blocks, *states, strict=True)]
    updates = assemble(blocks, [row[0] for row in rows], params)
    return updates, *([row[i] for row in rows] for i in range(1, len(states) + 1))


def assemble(blocks: Sequence[Block], steps: Sequence[jax.Array], params: PyTree) -> PyTree:
    """Steps of the blocks, [*block.shape] each -> updates in the shapes and dtypes of the params, zero where empty.

    The flat ones go through one vector, which XLA does not see through: into a loop over a vector it would fuse what
    follows, in the tensors' own shapes, and a loop over a minor axis of ten is ten times slower. So there is one number
    more, where there would be nothing to put together.
    """
    leaves, treedef = jax.tree.flatten(params)
    updates = [jnp.zeros_like(p) for p in leaves]
    steps, flat = list(steps), [i for i, block in enumerate(blocks) if block.flat]
    if any(block.factored and block.flat for block in blocks):
        vectors = [steps[i] for i in flat]
        whole = jnp.concatenate([*vectors, vectors[0][:1]])[None]
        *parts, _ = jnp.split(whole, np.cumsum([x.size for x in vectors]), axis=1)
        steps = [parts[flat.index(i)][0] if i in flat else step for i, step in enumerate(steps)]
    for block, step in zip(blocks, steps, strict=True):
        for i, u in zip(block.leaves, block.scatter(step), strict=True):
            updates[i] = u.astype(leaves[i].dtype)
    return jax.tree.unflatten(treedef, updates)
