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
) -> jax.Array:
    """The ReLU network at every coordinate. -> [outputs, *shape] f32.

    layers: [(w [fan_in, fan_out], b [fan_out]), ...]; the groups' rows, concatenated, are the first layer's inputs.
    """
    (w, b), *rest = layers
    fused = w.shape[1] <= FUSED_WIDTH
    hidden = list(b) if fused else b.reshape(-1, *[1] * len(shape))
    row = 0
    # smallest groups first: their sums stay small until they meet a full-size group
    offsets = []
    for group in groups:
        offsets.append((group.size, row, group))
        row += group.shape[0]
    for size, row, group in sorted(offsets, key=lambda x: x[:2]):
        weights = w[row : row + group.shape[0]]
        if fused and size >= math.prod(shape):
            hidden = [h + sum(weights[k, j] * group[k] for k in range(group.shape[0])) for j, h in enumerate(hidden)]
        else:
            part = jnp.tensordot(weights, group, axes=(0, 0))
            hidden = [h + part[j] for j, h in enumerate(hidden)] if fused else hidden + part
    for w, b in rest:
        if fused:
            active = [jax.nn.relu(h) for h in hidden]
            hidden = [b[j] + sum(w[i, j] * x for i, x in enumerate(active)) for j in range(w.shape[1])]
        else:
            hidden = jnp.tensordot(w, jax.nn.relu(hidden), axes=(0, 0)) + b.reshape(-1, *[1] * len(shape))
    return hidden


def layers_of(theta: PyTree) -> list[tuple[jax.Array, jax.Array]]:
    """[(w0, b0), (w1, b1), ...] of a theta made by `init_mlp`."""
    depth = sum(name.startswith("w") for name in theta)
    return [(theta[f"w{i}"], theta[f"b{i}"]) for i in range(depth)]
