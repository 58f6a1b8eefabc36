"""Linear layers and recurrent cells, in the layout of the per-coordinate networks: features on the FIRST axis.

What a cell runs over lies on the minor axes: all coordinates of a tensor, [features, *shape], or all tensors of a
model, [features, tensors]. The same cell serves both.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metaopt.types import PyTree

FEW = 64  # tensors of a model, say, and not coordinates of one


class LSTMState(NamedTuple):
    hidden: jax.Array  # [hidden, *shape] f32
    cell: jax.Array  # [hidden, *shape] f32


def init_linear(key: jax.Array, fan_in: int, fan_out: int, scale: float = 1.0) -> dict[str, jax.Array]:
    """w ~ N(0, scale^2 / fan_in) [fan_in, fan_out], b = 0 [fan_out]."""
    return {"w": scale * jax.random.normal(key, (fan_in, fan_out)) / math.sqrt(fan_in), "b": jnp.zeros(fan_out)}


def linear(theta: PyTree, *xs: jax.Array) -> jax.Array:
    """w^T x + b over the features, x [fan_in, *shape] -> [fan_out, *shape]. Several xs are taken as concatenated."""
    ones = (1,) * (xs[0].ndim - 1)
    if xs[0][0].size <= FEW:  # a product with the wide side minor, bias and all, is some ten times faster
        rows = jnp.tensordot(jnp.concatenate(xs), theta["w"], axes=(0, 0)) + theta["b"].reshape(*ones, -1)
        return jnp.moveaxis(rows, -1, 0)
    out, start = theta["b"].reshape(-1, *ones), 0
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
    # one product: the sum of two is written and read once more, which over coordinates costs a sixth of the step
    i, g, f, o = jnp.split(linear(theta, jnp.concatenate([x, state.hidden])), 4)
    cell = jax.nn.sigmoid(f + 1) * state.cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    return LSTMState(jax.nn.sigmoid(o) * jnp.tanh(cell), cell)


def init_gru(key: jax.Array, inputs: int, hidden: int) -> dict[str, PyTree]:
    """Linear layers [inputs + hidden, 2 hidden] for the gates (z, r), [inputs + hidden, hidden] for the candidate."""
    gates, candidate = jax.random.split(key)
    return {
        "gates": init_linear(gates, inputs + hidden, 2 * hidden),
        "candidate": init_linear(candidate, inputs + hidden, hidden),
    }


def gru(theta: PyTree, hidden: jax.Array, x: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Cho et al. 2014 (arXiv 1406.1078):

    (z, r) = sigmoid(W^T [x; h] + b),  n = tanh(V^T [x; r h] + c),  h <- (1 - z) h + z n

    bias [3 hidden, *broadcastable] adds to (b, c): what another network has to say.
    """
    to_gates, to_candidate = (0.0, 0.0) if bias is None else jnp.split(bias, [2 * len(hidden)])
    z, r = jnp.split(jax.nn.sigmoid(linear(theta["gates"], x, hidden) + to_gates), 2)
    candidate = jnp.tanh(linear(theta["candidate"], x, r * hidden) + to_candidate)
    return (1 - z) * hidden + z * candidate


Stack = tuple[LSTMState, ...]  # the states of LSTMs on top of each other, the first one sees the inputs


def init_stack(key: jax.Array, inputs: int, hidden: int, depth: int) -> dict[str, PyTree]:
    """`depth` LSTMs on top of each other, lstm0, lstm1, ..., and a linear read-out of the last one, `out`, at a tenth
    of the usual scale, so that a fresh optimizer takes small steps."""
    *cells, out = jax.random.split(key, depth + 1)
    theta = {f"lstm{i}": init_lstm(k, hidden if i else inputs, hidden) for i, k in enumerate(cells)}
    return {**theta, "out": init_linear(out, hidden, 1, 0.1)}


def stack_zeros(hidden: int, depth: int, shape: tuple[int, ...]) -> Stack:
    return tuple(LSTMState(*(jnp.zeros((hidden, *shape)) for _ in LSTMState._fields)) for _ in range(depth))


def stack(theta: PyTree, states: Stack, x: jax.Array) -> tuple[jax.Array, Stack]:
    """x [inputs, *shape] -> (the read-out [*shape], the new states)."""
    new = []
    for i, state in enumerate(states):
        new.append(lstm(theta[f"lstm{i}"], state, x))
        x = new[-1].hidden
    return linear(theta["out"], x)[0], tuple(new)


def repeated(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A learned initial state x [k] at every coordinate, [k, *shape]."""
    return jnp.broadcast_to(x.reshape(-1, *[1] * len(shape)), (*x.shape, *shape))
