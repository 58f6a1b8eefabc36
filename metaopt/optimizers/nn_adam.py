"""NN-Adam: an LSTM per tensor sets Adam's hyper-parameters (`nn_adam` of google/learned_optimization; it has no paper).

Each tensor has its own lr, b1, b2, eps, kept as u = (0.1 log lr, 0.1 log(1 - b1), 0.1 log(1 - b2), 0.1 log eps):

    m <- b1 m + (1 - b1) g,    v <- b2 v + (1 - b2) g^2
    p <- p - lr (1 + eps) m / (eps + sqrt(v + 1e-10))
    h, c <- LSTM(x; h, c),     u <- u + output_mult (W h + w)

(1 + eps) lets a large eps turn the rule into momentum SGD at the same lr. x are 19 numbers of the tensor, with
L(n) = clip(log(1e-8 + |n|), -5, 5)/2: L of the means and of the variances of m, v, p, g, L of the mean of |g|, the
signs of the means; is it a scalar, is it a vector (1 or -1); clip(u, -5, 5)/5. p and u are those before the step, so
what the LSTM says counts from the next step on; the u of a first step are learned.

It uses neither the loss nor the horizon and has no clock: beyond the length of the runs it was trained on it goes on.
Decided: no bias correction, as in that code (u can make up for it). Gradients are clipped to +-1000. In use, not in u,
lr stays within 1e-8 and 1e3, eps within 1e-11 and 1e4, 1 - b within e^-10 and 1. A fresh W is a hundredth of the usual
size; there it is zero, which leaves the LSTM without a gradient.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metaopt.optimizers import _features as F
from metaopt.optimizers._blocks import VECTOR, Block, assemble, blocks_of, in_pieces, map_blocks
from metaopt.optimizers._cells import LSTMState, init_linear, init_lstm, linear, lstm, repeated
from metaopt.types import LearnedOptimizer, PyTree

FEATURES = 19
BOUNDS = np.log([[1e-8, math.exp(-10), math.exp(-10), 1e-11], [1e3, 1.0, 1.0, 1e4]]).astype(np.float32)[..., None]


class NNAdamState(NamedTuple):
    m: list[jax.Array]  # per block [*shape] f32
    v: list[jax.Array]  # per block [*shape] f32
    hyper: jax.Array  # u, [4, tensors] f32, tensors in the order of the blocks
    lstm: LSTMState  # [lstm_hidden, tensors] f32


def nn_adam(
    lstm_hidden: int = 32,
    output_mult: float = 0.01,
    learning_rate: float = 1e-4,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> LearnedOptimizer:
    """The architecture; 6,856 numbers by default. learning_rate, b1, b2, eps: where theta starts."""

    def init(key: jax.Array) -> PyTree:
        cell, out = jax.random.split(key)
        return {
            "lstm": init_lstm(cell, FEATURES, lstm_hidden),
            "out": init_linear(out, lstm_hidden, 4, 0.01),
            "start": {
                "hyper": 0.1 * jnp.log(jnp.array([learning_rate, 1 - b1, 1 - b2, eps])),
                "hidden": jnp.zeros(lstm_hidden),
                "cell": jnp.zeros(lstm_hidden),
            },
        }

    def build(theta: PyTree, num_steps: jax.Array | int) -> optax.GradientTransformationExtraArgs:
        del num_steps

        def init_fn(params):
            blocks = blocks_of(params, VECTOR)
            tensors = (sum(len(block.leaves) for block in blocks),)
            names = ("hyper", "hidden", "cell")
            hyper, h, c = (repeated(theta["start"][name].astype(jnp.float32), tensors) for name in names)
            m, v = ([jnp.zeros(block.shape) for block in blocks] for _ in "mv")
            return NNAdamState(m, v, hyper, LSTMState(h, c))

        def update_fn(grads, state, params=None, **extra):
            del extra
            blocks = blocks_of(params, VECTOR)
            if not blocks:  # a model without numbers
                return assemble(blocks, [], params), state
            grads = jax.tree.map(lambda g: F.clean(g, 1000.0), grads)
            ends = np.cumsum([len(block.leaves) for block in blocks])[:-1]
            rates = jnp.split(jnp.exp(jnp.clip(10 * state.hyper, *BOUNDS)), ends, axis=1)
            updates, moments, m, v = map_blocks(_adam, grads, params, rates, state.m, state.v, vector=VECTOR)
            mean, square = (jnp.concatenate(x, axis=1) for x in zip(*moments, strict=True))
            cells = lstm(theta["lstm"], state.lstm, _tensor_features(blocks, mean, square, state.hyper))
            hyper = state.hyper + output_mult * linear(theta["out"], cells.hidden)
            return updates, NNAdamState(m, v, hyper, cells)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return LearnedOptimizer(init, build)


def _adam(block: Block, grads, params, rates, m, v):
    """A block's step with the rates (lr, 1 - b1, 1 - b2, eps) [4, tensors]; its moments for the LSTM; m; v."""
    g, p = block.gather(grads), block.gather(params)
    lr, a1, a2, eps = block.broadcast(rates)
    m, v = (1 - a1) * m + a1 * g, (1 - a2) * v + a2 * g * g
    step = -lr * (1 + eps) * m / (eps + jnp.sqrt(v + 1e-10))
    return step, in_pieces(_moments, block, m[None], v[None], p[None], g[None])[1], m, v


def _moments(block: Block, m, v, p, g):
    """Means over each tensor of m, v, p, g, |g| [5, tensors], and of the squares of the first four [4, tensors]."""
    means = block.means(jnp.concatenate([m, v, p, g, jnp.abs(g)]))
    return (), (means, block.means(jnp.concatenate([m * m, v * v, p * p, g * g])))


def _tensor_features(blocks: Sequence[Block], mean, square, hyper) -> jax.Array:
    """[19, tensors]"""
    ranks = np.array([len(shape) for block in blocks for shape in block.shapes])
    flags = np.where(ranks == np.arange(2)[:, None], 1.0, -1.0).astype(np.float32)
    sizes = F.clip_log_abs(jnp.concatenate([mean, F.variance(mean[:4], square)]), scale=0.5)
    return jnp.concatenate([sizes, jnp.sign(mean[:4]), flags, jnp.clip(hyper, -5, 5) / 5])
