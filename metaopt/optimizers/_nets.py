"""The small network that is applied to every coordinate of a tensor, in the layout that is fastest for its size.

Inputs are given as *groups*: arrays [k, *shape] whose trailing shape broadcasts against the tensor's. A feature that is
constant along an axis (a row statistic, say) comes with that axis of size 1, so its share of the first layer is
computed once per row and never for every coordinate; a feature that is constant over the tensor goes into the bias.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from metaopt.types import PyTree

FUSED_WIDTH = 8  # up to this width sums written out beat matrix products: XLA fuses the whole network into one loop


def init_mlp(key: jax.Array, sizes: Sequence[int]) -> dict[str, jax.Array]:
    """Weights w0, b0, w1, ... of an MLP; w ~ N(0, 1/fan_in), biases zero. sizes = (inputs, hidden..., outputs)."""
    theta = {}
    for i, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:], strict=False)):
        theta[f"w{i}"] = jax.random.normal(jax.random.fold_in(key, i), (fan_in, fan_out)) / math.sqrt(fan_in)
        theta[f"b{i}"] = jnp.zeros(fan_out)
    return theta


def coordinate_mlp(
    layers: Sequence[tuple[jax.Array, jax.Array]], groups: Sequence[jax.Array], shape: tuple[int, ...]
) -> jax.Array | list[jax.Array]:
    """The ReLU network at every coordinate. -> its outputs, [outputs, *shape] or a list of [*shape], f32.

    layers: [(w [fan_in, fan_out], b [fan_out]), ...]; the groups' rows, concatenated, are the first layer's inputs.
    """
    (w, b), *rest = layers
    inputs, row = [], 0
    for group in groups:
        inputs.append((w[row : row + group.shape[0]], group))
        row += group.shape[0]
    inputs.sort(key=lambda pair: pair[1].size)  # what is constant along an axis is summed up before it meets the rest
    network = _fused if w.shape[1] <= FUSED_WIDTH else _matmul
    return network(b, inputs, rest, shape)


def _fused(b, inputs, layers, shape):
    """Every sum written out: one loop over the coordinates, no intermediate is stored."""
    hidden = list(b)
    for w, group in inputs:
        if group.size < math.prod(shape):
            hidden = [h + part for h, part in zip(hidden, jnp.tensordot(w, group, axes=(0, 0)), strict=True)]
        else:
            hidden = [h + sum(w[k, j] * x for k, x in enumerate(group)) for j, h in enumerate(hidden)]
    for w, b in layers:
        active = [jax.nn.relu(h) for h in hidden]
        hidden = [b[j] + sum(w[i, j] * x for i, x in enumerate(active)) for j in range(w.shape[1])]
    return hidden


def _matmul(b, inputs, layers, shape):
    """Matrix products with the coordinates on the minor axes."""
    column = (-1,) + (1,) * len(shape)
    hidden = b.reshape(column) + sum(jnp.tensordot(w, group, axes=(0, 0)) for w, group in inputs)
    for w, b in layers:
        hidden = jnp.tensordot(w, jax.nn.relu(hidden), axes=(0, 0)) + b.reshape(column)
    return hidden


def layers_of(theta: PyTree) -> list[tuple[jax.Array, jax.Array]]:
    """[(w0, b0), (w1, b1), ...] of a theta made by `init_mlp`."""
    depth = sum(name.startswith("w") for name in theta)
    return [(theta[f"w{i}"], theta[f"b{i}"]) for i in range(depth)]
