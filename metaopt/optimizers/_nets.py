"""The small network that is applied to every coordinate of a tensor, in the layout that is fastest for its size.

Inputs are given as *groups*: arrays [k, *shape] whose trailing shape broadcasts against the tensor's. A feature that is
constant along an axis (a row statistic, say) comes with that axis of size 1, so its share of the first layer is
computed once per row and never for every coordinate; a feature that is constant over the tensor goes into the bias.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from metaopt.optimizers._blocks import Block
from metaopt.types import PyTree

FUSED_WIDTH = 8  # up to this width sums written out beat matrix products: XLA fuses the whole network into one loop


def init_mlp(key: jax.Array, sizes: Sequence[int]) -> dict[str, jax.Array]:
    """Weights w0, b0, w1, ... of an MLP; w ~ N(0, 1/fan_in), biases zero. sizes = (inputs, hidden..., outputs)."""
    theta = {}
    for i, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:], strict=False)):
        theta[f"w{i}"] = jax.random.normal(jax.random.fold_in(key, i), (fan_in, fan_out)) / math.sqrt(fan_in)
        theta[f"b{i}"] = jnp.zeros(fan_out)
    return theta


def normalised_mlp(
    layers: Sequence[tuple[jax.Array, jax.Array]], groups: Sequence[jax.Array], block: Block, eps: float = 1e-5
) -> Sequence[jax.Array]:
    """The ReLU network at every coordinate, each input divided by its root mean square over the coordinate's tensor:

        x_i -> x_i / sqrt(eps + mean over the tensor of x_i^2)

    layers: [(w [fan_in, fan_out], b [fan_out]), ...]; the groups' rows, concatenated, are the first layer's inputs.
    -> its outputs, each [*block.shape] f32
    """
    (w, b), *rest = layers
    if w.shape[1] > FUSED_WIDTH:
        return _matmul(_first_layer(w, b, groups, block, eps), rest)
    return _fused(_first_layer(w, b, groups, block, eps), rest)


def _first_layer(w, b, groups, block, eps):
    """b + w^T x over all normalised inputs: [fan_out, *shape], or a list of [*shape] to be fused with what follows."""
    if block.flat:
        x = jnp.concatenate(groups)
        return jnp.concatenate([_scaled(w, [part], eps).T @ part for part in block.tensors(x)], 1) + b[:, None]
    ends = np.cumsum([x.shape[0] for x in groups])
    inputs = list(zip(jnp.split(_scaled(w, groups, eps), ends[:-1]), groups, strict=True))
    if w.shape[1] > FUSED_WIDTH:
        return _column(b, len(block.shape)) + sum(jnp.tensordot(w, x, axes=(0, 0)) for w, x in inputs)
    partial: dict[tuple[int, ...], jax.Array] = {}  # what is constant along an axis, summed up before it meets the rest
    for w, x in inputs:
        if x.shape[1:] != block.shape:
            partial[x.shape[1:]] = partial.get(x.shape[1:], 0) + jnp.tensordot(w, x, axes=(0, 0))
    hidden = [h + sum(p[j] for p in partial.values()) for j, h in enumerate(b)]
    for w, x in inputs:
        if x.shape[1:] == block.shape:
            hidden = [h + sum(w[k, j] * row for k, row in enumerate(x)) for j, h in enumerate(hidden)]
    return hidden


def _scaled(w, groups, eps):
    """w [inputs, fan_out] with row i divided by the root mean square of input i."""
    means = [jnp.mean(x * x, axis=tuple(range(1, x.ndim))) for x in groups]
    return w * jax.lax.rsqrt(eps + jnp.concatenate(means))[:, None]


def _column(b, ndim):
    return b.reshape((-1,) + (1,) * ndim)


def _matmul(hidden, layers):
    """Matrix products with the coordinates on the minor axes."""
    for w, b in layers:
        hidden = jnp.tensordot(w, jax.nn.relu(hidden), axes=(0, 0)) + _column(b, hidden.ndim - 1)
    return hidden


def _fused(hidden, layers):
    """Every sum written out: one loop over the coordinates, no intermediate is stored."""
    for w, b in layers:
        active = [jax.nn.relu(h) for h in hidden]
        hidden = [b[j] + sum(w[i, j] * x for i, x in enumerate(active)) for j in range(w.shape[1])]
    return hidden


def layers_of(theta: PyTree) -> list[tuple[jax.Array, jax.Array]]:
    """[(w0, b0), (w1, b1), ...] of a theta made by `init_mlp`."""
    depth = sum(name.startswith("w") for name in theta)
    return [(theta[f"w{i}"], theta[f"b{i}"]) for i in range(depth)]
