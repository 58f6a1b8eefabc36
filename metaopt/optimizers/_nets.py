"""The small network that is applied to every coordinate of a tensor, in the layout that is fastest for its size.

Inputs are given as *groups*: arrays [k, *shape] whose trailing shape broadcasts against the tensor's. A feature that is
constant along an axis (a row statistic, say) comes with that axis of size 1, so its share of the first layer is
computed once per row and never for every coordinate; a feature that is constant over the tensor goes into the bias.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from metaopt.optimizers._blocks import Block, in_tiles
from metaopt.types import PyTree

Layers = Sequence[tuple[jax.Array, jax.Array]]
Head = Callable[..., jax.Array]

FEW = 8  # inputs of a layer, up to which a sum of outer products beats a matrix product on a vector
LANES = 16  # coordinates of a vector register
FEW_LANES = 4  # registers' worth of coordinates, below which a vector is filled up to whole ones
FUSED_WIDTH = 8  # up to this width sums written out beat matrix products: XLA fuses the whole network into one loop


def init_mlp(key: jax.Array, sizes: Sequence[int]) -> dict[str, jax.Array]:
    """Weights w0, b0, w1, ... of an MLP; sizes = (inputs, hidden..., outputs).

    w ~ N(0, 1/fan_in), in the last layer a tenth of that; biases zero. A fresh optimizer so takes small steps: one that
    drifts far in a random direction first has to be untaught that.
    """
    theta = {}
    for i, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:], strict=False)):
        scale = 0.1 if i == len(sizes) - 2 else 1.0
        theta[f"w{i}"] = scale * jax.random.normal(jax.random.fold_in(key, i), (fan_in, fan_out)) / math.sqrt(fan_in)
        theta[f"b{i}"] = jnp.zeros(fan_out)
    return theta


def normalised_mlp(
    layers: Sequence[Layers],
    groups: Sequence[jax.Array],
    block: Block,
    head: Head,
    eps: float = 1e-5,
    along: Sequence[jax.Array] = (),
    known: Mapping[int, jax.Array] = {},
) -> jax.Array:
    """head(*outputs, *along) of a ReLU network at every coordinate, [*block.shape] f32. The network's inputs are
    divided by their root mean square over the coordinate's tensor:

        x_i -> x_i / sqrt(eps + mean over the tensor of x_i^2)

    layers: for each tensor of the block [(w [fan_in, fan_out], b [fan_out]), ...]; the groups' rows, concatenated, are
    the first layer's inputs. along: arrays [*block.shape] that the head uses besides the outputs. known: of a block
    that is not flat, sums of squares by the index of the group.
    """

    def one(layers, groups, shape, *along):
        return at_coordinates(head, scale_inputs(layers, groups, eps, known), groups, shape, *along)

    return map_tensors(one, layers, groups, block, along)


def wide_mlp(layers: Layers, groups: Sequence[jax.Array], block: Block, head: Head, eps: float = 1e-5) -> jax.Array:
    """`normalised_mlp` for a network, the same for all tensors, whose hidden activations are many times the tensor:
    large tensors are taken in pieces. The groups have the block's shape, and the head treats every coordinate on its
    own."""
    (w, b), *rest = layers
    scales = jax.lax.rsqrt(eps + jnp.concatenate([block.means(x * x) for x in groups]))
    first = [[(w * scale[:, None], b)] for scale in scales.T]

    def one(layers, block, *groups):
        first, rest = layers
        if len(b) <= FUSED_WIDTH or not rest:
            return map_tensors(partial(at_coordinates, head), [own + rest for own in first], groups, block), ()
        *body, last = rest
        return head(*read_out(last, hidden_layers(first, body, groups, block))), ()

    return in_tiles(one, (first, rest), block, *groups)[0]


def at_coordinates(
    head: Head, layers: Layers, groups: Sequence[jax.Array], shape: tuple[int, ...], *along: jax.Array
) -> jax.Array:
    """head(*outputs of the network, *along) at every coordinate of a tensor, [*shape].

    A short vector is filled up with zeros to whole registers: coordinates that do not fill one are taken one by one,
    each as slowly as a register. They go by a product with zeros and ones, as a slice would become a part of the loop
    that makes them, and shorten it again.
    """

    def whole(groups, shape, *along):
        return head(*network(layers, groups, shape), *along)

    missing = -math.prod(shape) % LANES
    if len(shape) != 1 or not missing or shape[0] >= FEW_LANES * LANES:
        return whole(groups, shape, *along)
    filled = [jnp.pad(x, [*[(0, 0)] * (x.ndim - 1), (0, missing)]) for x in (*groups, *along)]
    step = whole(filled[: len(groups)], (shape[0] + missing,), *filled[len(groups) :])
    return jnp.dot(step, np.eye(len(step), shape[0], dtype=np.float32), precision=jax.lax.Precision.HIGHEST)


def map_tensors(
    fn, layers: Sequence[Layers], groups: Sequence[jax.Array], block: Block, along: Sequence[jax.Array] = ()
) -> jax.Array:
    """fn(layers of the tensor, its groups, its shape, *its part of along) -> [*shape], tensor by tensor;
    [*block.shape].

    The tensors of a flat block are flat, and have all their features in one group.
    """
    if not block.flat:
        return fn(layers[0], groups, block.shape, *along)
    parts = block.tensors(jnp.concatenate(groups))
    others = [block.tensors(x[None]) for x in along]
    steps = [
        fn(own, [part], part.shape[1:], *(other[i][0] for other in others))
        for i, (own, part) in enumerate(zip(layers, parts, strict=True))
    ]
    return jnp.concatenate(steps, axis=-1)


def hidden_layers(first: Sequence[Layers], rest: Layers, groups: Sequence[jax.Array], block: Block) -> jax.Array:
    """Activations of the last hidden layer, [width, *block.shape], of ReLU networks that share all but the first layer,
    which each tensor of the block has its own of."""

    def one(layers, groups, shape):
        return jnp.asarray(network(layers, groups, shape))

    return jax.nn.relu(_dense(map_tensors(one, first, groups, block), rest, block.shape))


def read_out(layer: tuple[jax.Array, jax.Array], hidden: jax.Array) -> list[jax.Array]:
    """The outputs [*shape] of the last layer; hidden [width, *shape]. A product with a vector for each: one with the
    few together takes twice as long."""
    w, b = layer
    return [jnp.tensordot(row, hidden, axes=(0, 0)) + bias for row, bias in zip(w.T, b, strict=True)]


def scale_inputs(
    layers: Layers, groups: Sequence[jax.Array], eps: float, known: Mapping[int, jax.Array] = {}
) -> Layers:
    """The layers with each input's scale, 1 / root mean square, put into the first weights. known: sums of squares, by
    the index of the group; those of groups smaller than the tensor are computed together."""
    (w, b), *rest = layers
    size, sums = max(x[0].size for x in groups), dict(known)
    alike: dict[int | tuple[int, ...], list[int]] = {}
    for i, x in enumerate(groups):
        if i not in sums:
            alike.setdefault(i if x[0].size == size else x.shape[1:], []).append(i)
    for indices in alike.values():
        x = jnp.concatenate([groups[i] for i in indices])
        parts = jnp.split(jnp.sum(x * x, tuple(range(1, x.ndim))), np.cumsum([len(groups[i]) for i in indices])[:-1])
        sums.update(zip(indices, parts, strict=True))
    counts = np.repeat([float(x[0].size) for x in groups], [len(x) for x in groups]).astype(np.float32)
    means = jnp.concatenate([sums[i] for i in range(len(groups))]) / counts
    return [(w * jax.lax.rsqrt(eps + means)[:, None], b), *rest]


def network(layers: Layers, groups: Sequence[jax.Array], shape: tuple[int, ...]) -> Sequence[jax.Array]:
    """The outputs, [*shape] each, of the ReLU network at every coordinate of a tensor."""
    return (_fused if layers[0][1].size <= FUSED_WIDTH else _matmul)(layers, groups, shape)


def _matmul(layers, groups, shape):
    """Matrix products with the coordinates on the minor axes. On a vector, few inputs are cheaper as a sum of outer
    products, fused with what follows; a single row is anywhere."""
    (w, b), *rest = layers
    hidden = _column(b, shape)
    for rows, x in _inputs(w, groups):
        if len(x) == 1 or (len(shape) == 1 and len(w) <= FEW):
            hidden = hidden + sum(_column(row, shape) * feature[None] for row, feature in zip(rows, x, strict=True))
        else:
            hidden = hidden + jnp.tensordot(rows, x, axes=(0, 0))
    return _dense(hidden, rest, shape)


def _dense(hidden, layers, shape):
    for w, b in layers:
        hidden = jnp.tensordot(w, jax.nn.relu(hidden), axes=(0, 0)) + _column(b, shape)
    return hidden


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _fused(layers, groups, shape):
    """Every sum written out: one loop over the coordinates, no intermediate is stored. What is smaller than the tensor
    is summed up by small products before."""
    (w, b), *rest = layers
    inputs = _inputs(w, groups)
    partial: dict[tuple[int, ...], jax.Array] = {}
    for w, x in inputs:
        if x.shape[1:] != shape:
            partial[x.shape[1:]] = partial.get(x.shape[1:], 0) + jnp.tensordot(w, x, axes=(0, 0))
    hidden = [h + sum(p[j] for p in partial.values()) for j, h in enumerate(b)]
    for w, x in inputs:
        if x.shape[1:] == shape:
            hidden = [h + sum(w[k, j] * row for k, row in enumerate(x)) for j, h in enumerate(hidden)]
    for w, b in rest:
        active = [jax.nn.relu(h) for h in hidden]
        hidden = [b[j] + sum(w[i, j] * x for i, x in enumerate(active)) for j in range(w.shape[1])]
    return hidden


def _fused_forward(layers, groups, shape):
    """Where it is differentiated, matrix products: they store what the derivative needs, once, and the derivative by a
    weight is a product as well and not a reduction of its own."""
    (w, b), *rest = layers
    inputs = _by_shape(w, groups)
    rows, x = inputs.pop(shape)
    if inputs:  # what is smaller than the tensor adds up to inputs of weight one: so the product gives the whole sum
        sums = _column(b, shape) + sum(jnp.tensordot(w, y, axes=(0, 0)) for w, y in inputs.values())
        rows, x = jnp.concatenate([rows, jnp.eye(len(b))]), jnp.concatenate([x, sums])
        hidden = [jnp.tensordot(rows, x, axes=(0, 0))]
    else:
        hidden = [jnp.tensordot(rows, x, axes=(0, 0)) + _column(b, shape)]
    for w, b in rest:
        hidden.append(jnp.tensordot(w, jax.nn.relu(hidden[-1]), axes=(0, 0)) + _column(b, shape))
    return list(hidden.pop()), (layers, groups, {**inputs, shape: (rows, x)}, hidden)


def _fused_backward(shape, saved, cotangents):
    """The derivatives by layers and groups, every array as it was stored: no product is of transposed copies."""
    layers, groups, inputs, hidden = saved
    _, *rest = layers
    d = jnp.stack(cotangents)
    by_layer = []
    for (w, _), h in zip(reversed(rest), reversed(hidden), strict=True):
        by_layer.append((_outer(jax.nn.relu(h), d), _total(d)))
        d = jnp.where(h > 0, _back(w, d), 0.0)
    by_shape = {}
    for s, (rows, x) in inputs.items():
        shared = tuple(axis for axis, (n, m) in enumerate(zip(s, shape, strict=True), 1) if n != m)
        d_shared = jnp.sum(d, shared, keepdims=True) if shared else d
        by_shape[s] = (_outer(x, d_shared), _back(rows, d_shared))
    used = dict.fromkeys(by_shape, 0)
    by_group = []
    for x in groups:
        s = x.shape[1:]
        part = slice(used[s], used[s] + len(x))
        by_group.append(tuple(d[part] for d in by_shape[s]))
        used[s] = part.stop
    d_first, d_groups = zip(*by_group, strict=True)
    return [(jnp.concatenate(d_first), _total(d)), *reversed(by_layer)], list(d_groups)


_fused.defvjp(_fused_forward, _fused_backward)


def _by_shape(w, groups):
    """{shape: (rows of w, groups)}, both concatenated over the groups of that shape."""
    parts: dict[tuple[int, ...], list] = {}
    for rows, x in _inputs(w, groups):
        parts.setdefault(x.shape[1:], []).append((rows, x))
    return {s: tuple(map(jnp.concatenate, zip(*pairs, strict=True))) for s, pairs in parts.items()}


def _outer(x, d):
    """[k, *shape], [j, *shape] -> [k, j], the sum of products over all coordinates."""
    return jax.lax.dot_general(x.reshape(len(x), -1), d.reshape(len(d), -1), (((1,), (1,)), ((), ())))


def _back(w, d):
    """w d over the coordinates, [k, j], [j, *shape] -> [k, *shape], written out to be fused with what follows."""
    return sum(_column(w[:, j], d.shape[1:]) * row[None] for j, row in enumerate(d))


def _total(d):
    return jnp.sum(d, tuple(range(1, d.ndim)))


def _inputs(w, groups):
    """[(w of the group's rows, group), ...]"""
    ends = np.cumsum([x.shape[0] for x in groups])
    return list(zip(jnp.split(w, ends[:-1]), groups, strict=True))


def _column(b, shape):
    return b.reshape((-1,) + (1,) * len(shape))


def layers_of(theta: PyTree) -> list[tuple[jax.Array, jax.Array]]:
    """[(w0, b0), (w1, b1), ...] of a theta made by `init_mlp`."""
    depth = sum(name.startswith("w") for name in theta)
    return [(theta[f"w{i}"], theta[f"b{i}"]) for i in range(depth)]
