"""What VeLO, Celo and Celo-Adam share: a recurrent network that follows the training, and a network per tensor.

The recurrent network (Metz et al. 2022, arXiv 2211.09760) has a column per tensor, or one column for the model where
the inputs x are the same for all tensors. Columns mix through a maximum; the output h gives a learning-rate multiplier:

    h, c <- LSTM(U x + max over columns of relu(V x);  h, c),    lr = w h + b

The first 18 inputs follow the training; t counts steps from 0 and N is the horizon:

- 9 of the fraction done: tanh(10 (t/N - c)), c = .03, .1, .2, .4, .6, .8, .9, 1, 1.1. Beyond the horizon they saturate,
  all within 1e-3 of one from t = 1.5 N on: an optimizer goes on as it ended.
- 9 of the loss: of ten bias-corrected EMAs e_i with decays exp(-1/T), T log-spaced from 10 to N steps, and the lowest
  value l_i that each has had, clip((e_i - l_i) / max(1e-8, e_{i+1} - l_i) - 1, -1, 1) for i = 1 .. 9; zero in the first
  two steps. From the second step on a loss counts at most as 2 max_i |e_i|, where the e_i are, as in the authors' code,
  somewhat low: corrected as if the new loss were in them already. A horizon below 10 counts as 10 here, which makes all
  averages the same.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metaopt.optimizers import _features as F
from metaopt.optimizers import _nets
from metaopt.optimizers._blocks import map_blocks
from metaopt.optimizers._cells import LSTMState, init_linear, init_lstm, linear, lstm
from metaopt.types import PyTree

GRADIENT_LIMIT = 1e3  # gradients are clipped to it
DECAYS = F.decays((0.9, 0.99, 0.999), (0.999,), (0.9, 0.99, 0.999))  # of the moments that a network per tensor sees
FEATURES = 30  # per coordinate, of these moments
FRACTIONS = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)
AVERAGES = 10  # of the loss
INPUTS = len(FRACTIONS) + AVERAGES - 1  # of the recurrent network, those that follow the training


class Losses(NamedTuple):
    """Kept corrected: the inputs are small differences, which the rounding of a correction would drown."""

    means: jax.Array  # bias-corrected EMAs of the loss, [AVERAGES] f32
    lowest: jax.Array  # of these so far, [AVERAGES] f32


class Recurrent(NamedTuple):
    """State of the recurrent network."""

    step: jax.Array  # i32 scalar
    losses: Losses
    lstm: LSTMState  # [lstm_hidden, columns]


def init_recurrent(key: jax.Array, inputs: int, hidden: int, lr_bias: float) -> PyTree:
    """Its share of theta. A fresh one keeps lr near lr_bias."""
    keys = jax.random.split(key, 4)
    return {
        "start": {"hidden": jnp.zeros(hidden), "cell": jnp.zeros(hidden)},
        "own": init_linear(keys[0], inputs, hidden),
        "pooled": init_linear(keys[1], inputs, hidden),
        "lstm": init_lstm(keys[2], hidden, hidden),
        "lr": {**init_linear(keys[3], hidden, 1, 0.1), "b": jnp.full(1, lr_bias)},
    }


def start(theta: PyTree, columns: int) -> Recurrent:
    """The state before the first step; the LSTM's is a part of theta."""
    losses = Losses(jnp.zeros(AVERAGES), jnp.full(AVERAGES, np.finfo(np.float32).max))
    hidden, cell = (
        jnp.tile(jnp.asarray(theta["start"][name], jnp.float32)[:, None], columns) for name in ("hidden", "cell")
    )
    return Recurrent(jnp.zeros((), jnp.int32), losses, LSTMState(hidden, cell))


def advance(
    theta: PyTree, num_steps: jax.Array | int, state: Recurrent, value: jax.Array, *others: jax.Array
) -> tuple[Recurrent, jax.Array]:
    """One step; others are further inputs [k, columns]. -> (the state, its `lstm.hidden` the output; lr [columns])"""
    losses, loss_inputs = follow(state.losses, state.step, num_steps, value)
    fraction_inputs = jnp.tanh(10 * (state.step / num_steps - np.array(FRACTIONS, np.float32)))
    shared = jnp.concatenate([fraction_inputs, loss_inputs])[:, None]
    inputs = jnp.concatenate([jnp.tile(shared, state.lstm.hidden.shape[1]), *others])
    pooled = jnp.max(jax.nn.relu(linear(theta["pooled"], inputs)), axis=1, keepdims=True)
    cells = lstm(theta["lstm"], state.lstm, linear(theta["own"], inputs) + pooled)
    return Recurrent(state.step + 1, losses, cells), linear(theta["lr"], cells.hidden)[0]


def init_scheduler(key: jax.Array, hidden: int) -> PyTree:
    """Its share of theta: a recurrent network of one column. A fresh one keeps its multiplier near one."""
    return init_recurrent(key, INPUTS, hidden, math.log(10))


def schedule(
    theta: PyTree, num_steps: jax.Array | int, state: Recurrent, value: jax.Array
) -> tuple[Recurrent, jax.Array]:
    """One step of the recurrent network with one column. -> (the state; the multiplier for the model, exp(lr)/10)"""
    state, lr = advance(theta, num_steps, state, value)
    return state, 0.1 * jnp.exp(lr[0])


def follow(old: Losses, step: jax.Array, num_steps: jax.Array | int, value: jax.Array) -> tuple[Losses, jax.Array]:
    """The averages with the loss of this step in them, and the inputs made of them [AVERAGES - 1]."""
    horizon = jnp.maximum(jnp.asarray(num_steps, jnp.float32), 10.0)
    rate = 0.1 * (horizon / 10) ** (-np.arange(AVERAGES, dtype=np.float32) / (AVERAGES - 1))  # 1/T
    weight = jnp.expm1(-rate) / jnp.expm1(-rate * (step + 1))  # of this loss; the others make up the rest
    value = jnp.asarray(value, jnp.float32)
    limit = jnp.where(step == 0, value, jnp.max((1 - weight) * jnp.exp(rate) * old.means))
    means = old.means + weight * (jnp.minimum(value, 2 * jnp.abs(limit)) - old.means)
    lowest = jnp.minimum(old.lowest, means)
    ratio = (means - lowest)[:-1] / jnp.maximum(means[1:] - lowest[:-1], 1e-8)
    return Losses(means, lowest), jnp.where(step < 2, 0.0, jnp.clip(ratio - 1, -1, 1))


def scale_direction(layers: _nets.Layers, scale: jax.Array) -> _nets.Layers:
    """The layers of a network that gives (d, a), with d times scale; that costs nothing per coordinate."""
    *first, (w, b) = layers
    scales = jnp.stack([scale, jnp.ones_like(scale)])
    return [*first, (w * scales[None], b * scales)]


def exp_a_b(
    networks: Mapping[int, _nets.Layers], exp_mult: float, grads: PyTree, params: PyTree, moments: Sequence[F.Moments]
) -> tuple[PyTree, list[F.Moments]]:
    """Updates -RMS(p) · d · exp(exp_mult · a), where RMS(p)^2 = 1e-9 + mean over the tensor of p^2, and new moments.

    networks: by leaf, the layers of a ReLU network from VeLO's 30 features to (d, a), scaled by `scale_direction`.
    grads: within GRADIENT_LIMIT. moments: per block, of DECAYS.
    """

    def head(d, a):
        return -d * jnp.exp(exp_mult * a)

    def step(block, grads, params, moments):
        g, p = block.gather(grads), block.gather(params)
        moments = F.moments_update(DECAYS, moments, block, grads)
        sizes = jnp.sqrt(block.means(jnp.square(p)[None])[0] + 1e-9)
        layers = [scale_direction(networks[i], size) for i, size in zip(block.leaves, sizes, strict=True)]
        features, known = F.velo_features(g, p, moments, block), F.known_squares(g, moments, block)
        return _nets.normalised_mlp(layers, features, block, head, known=known), moments

    return map_blocks(step, grads, params, moments)
