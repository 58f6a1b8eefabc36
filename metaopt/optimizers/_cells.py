"""Linear layers and recurrent cells, in the layout of the per-coordinate networks: features on the FIRST axis.

What a cell runs over lies on the minor axes: all coordinates of a tensor, [features, *shape], or all tensors of a
model, [features, tensors]. The same cell serves both.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metaopt.types import PyTree


class LSTMState(NamedTuple):
    hidden: jax.Array  # [hidden, *shape] f32
    cell: jax.Array  # [hidden, *shape] f32


def init_linear(key: jax.Array, fan_in: int, fan_out: int, scale: float = 1.0) -> dict[str, jax.Array]:
    """w ~ N(0, scale^2 / fan_in) [fan_in, fan_out], b = 0 [fan_out]."""
    return {"w": scale * jax.random.normal(key, (fan_in, fan_out)) / math.sqrt(fan_in), "b": jnp.zeros(fan_out)}


def linear(theta: PyTree, *xs: jax.Array) -> jax.Array:
    """w^T x + b over the features, x [fan_in, *shape] -> [fan_out, *shape]. Several xs are taken as concatenated."""
    out = jnp.reshape(theta["b"], (-1,) + (1,) * (xs[0].ndim - 1))
    start = 0
    for x in xs:
        out = out + jnp.tensordot(theta["w"][start : start + x.shape[0]], x, axes=(0, 0))
        start += x.shape[0]
    return out


def init_lstm(key: jax.Array, inputs: int, hidden: int) -> dict[str, jax.Array]:
    """One linear layer [inputs + hidden, 4 hidden] for the gates (i, g, f, o)."""
    return init_linear(key, inputs + hidden, 4 * hidden)


def lstm(theta: PyTree, state: LSTMState, x: jax.Array) -> LSTMState:
    """Hochreiter & Schmidhuber 1997 with a forget gate whose bias starts at one:

    (i, g, f, o) = W^T [x; h] + b,  c <- sigmoid(f + 1) c + sigmoid(i) tanh(g),  h <- sigmoid(o) tanh(c)
    """
    i, g, f, o = jnp.split(linear(theta, x, state.hidden), 4)
    cell = jax.nn.sigmoid(f + 1) * state.cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    return LSTMState(jax.nn.sigmoid(o) * jnp.tanh(cell), cell)


def init_gru(key: jax.Array, inputs: int, hidden: int) -> dict[str, PyTree]:
    """Linear layers [inputs + hidden, 2 hidden] for the gates (z, r), [inputs + hidden, hidden] for the candidate."""
    gates, candidate = jax.random.split(key)
    return {
        "gates": init_linear(gates, inputs + hidden, 2 * hidden),
        "candidate": init_linear(candidate, inputs + hidden, hidden),
    }


def gru(theta: PyTree, hidden: jax.Array, x: jax.Array) -> jax.Array:
    """Cho et al. 2014 (arXiv 1406.1078):

    (z, r) = sigmoid(W^T [x; h] + b),  n = tanh(V^T [x; r h] + c),  h <- (1 - z) h + z n
    """
    z, r = jnp.split(jax.nn.sigmoid(linear(theta["gates"], x, hidden)), 2)
    candidate = jnp.tanh(linear(theta["candidate"], x, r * hidden))
    return (1 - z) * hidden + z * candidate
