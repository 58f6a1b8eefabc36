"""The hierarchical learned optimizer of Metz et al. 2020 (arXiv 2009.11243, "Tasks, stability, architecture, ...").

An LSTM per tensor sees statistics of the tensor and steers a small network per coordinate, which reports back to it.
With momenta m_b and second moments v_b (b = .5, .9, .99, .999, .9999) of the clipped gradient g, for each tensor

    h, c <- LSTM(x; h, c)                     x: 52 numbers, 18 statistics of the tensor, s and r
    d, a, s' = network(y)                     y: 54 numbers at each coordinate; 54-32-32-18, ReLU
    p <- p - step_mult · d · exp(exp_mult · a)
    s <- mean of s' over the tensor, r <- mean of W h + w over all tensors

Statistics, with L(u) = clip(log(1e-8 + |u|), -5, 5): L and sign of the mean and L of the variance of all m_b, of all
v_b and of p; L of the norms of g and p; is it a scalar (1 or -1); log(size) - 1 of the first four axes, where missing
ones have size 1 and the fourth takes all that follow; a training and a validation loss.
At a coordinate: g, p, log(1e-8 + |p|), m_b, v_b, m_b/sqrt(v_b + 1e-6), 1/sqrt(v_b + 1e-6), each divided by its root
mean square over the tensor; and, the same for the whole tensor, sin(t / (pi tau)) for tau = 1, 3, 10, ..., 1e5,
log(number of tensors) - 1, log(1e-8 + norm of p), log(number of coordinates), 17 numbers linear in h.
Losses: from the EMAs mu (b = .9) of the training loss l and var of (l - mu)^2, both bias-corrected, come
clip((l - mu)/sqrt(var + 1e-8), -5, 5) and the same of nu instead of l, nu the corrected EMA (.95) of validation losses.
Clipping: |g| <= clip_multiple · C, C the corrected EMA (.99) of sqrt(1e-8 + mean over tensors of mean g^2), at first 1.

It uses the loss, `value`, and a validation loss where there is one: an update that is given `valid_value` takes it into
nu before all else; nu = 0 until the first. It does not use the horizon: beyond the length of the runs it was trained on
it goes on, with slow waves in its time features that it has not seen.
Differs from the paper: clip_multiple, step_mult and exp_mult are set by hand. Differs from the authors' code: there a
validation loss comes in an update of its own, which changes only nu and t.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metaopt.optimizers import _features as F
from metaopt.optimizers import _nets
from metaopt.optimizers._blocks import VECTOR, Block, assemble, blocks_of, in_tiles
from metaopt.optimizers._cells import LSTMState, init_linear, init_lstm, linear, lstm, repeated
from metaopt.types import LearnedOptimizer, PyTree

STATISTICS = 18  # inputs of the LSTM from the tensor and the losses
CONSTANTS = (
    len(F.TIMESCALES) + 3
)  # inputs of the network that are the same for the whole tensor, but those from the LSTM


class Losses(NamedTuple):
    """EMAs before their bias correction, f32 scalars."""

    mean: jax.Array
    var: jax.Array
    valid: jax.Array
    valid_count: jax.Array  # of validation losses


class RNNMLPState(NamedTuple):
    step: jax.Array  # i32 scalar
    clip: jax.Array  # f32 scalar, C before its bias correction
    losses: Losses
    m: list[jax.Array]  # per block [decays, *shape] f32
    v: list[jax.Array]  # per block [decays, *shape] f32
    lstm: LSTMState  # [lstm_hidden, tensors], tensors in the order of the blocks
    from_mlp: jax.Array  # s, [mlp_to_lstm, tensors] f32
    from_lstm: jax.Array  # r, [lstm_to_lstm] f32


def rnn_mlp(
    hidden: int = 32,
    depth: int = 2,
    lstm_hidden: int = 64,
    lstm_to_mlp: int = 17,
    lstm_to_lstm: int = 18,
    mlp_to_lstm: int = 16,
    step_mult: float = 1e-3,
    exp_mult: float = 1e-3,
    clip_multiple: float = 10.0,
    decays: tuple[float, ...] = (0.5, 0.9, 0.99, 0.999, 0.9999),
) -> LearnedOptimizer:
    """The architecture; 35,799 numbers by default. It uses the loss and not the horizon."""
    num_features = 3 + 4 * len(decays)

    def init(key: jax.Array) -> PyTree:
        keys = jax.random.split(key, 4)
        sizes = (num_features + CONSTANTS + lstm_to_mlp, *[hidden] * depth, 2 + mlp_to_lstm)
        start = {"hidden": lstm_hidden, "cell": lstm_hidden, "from_mlp": mlp_to_lstm, "from_lstm": lstm_to_lstm}
        return {
            "mlp": _nets.init_mlp(keys[0], sizes),
            "lstm": init_lstm(keys[1], STATISTICS + mlp_to_lstm + lstm_to_lstm, lstm_hidden),
            "to_mlp": init_linear(keys[2], lstm_hidden, lstm_to_mlp),
            "to_lstm": init_linear(keys[3], lstm_hidden, lstm_to_lstm),
            "start": {name: jnp.zeros(size) for name, size in start.items()},
        }

    def build(theta: PyTree, num_steps: jax.Array | int) -> optax.GradientTransformationExtraArgs:
        del num_steps
        (w0, b0), *body, (w_out, b_out) = _nets.layers_of(theta["mlp"])
        w0, w_constant = jnp.split(w0, [num_features])

        def recurrent(blocks, state, mean, square, loss_features):
            """The new state of the LSTM, and what the network's constant inputs add to its first layer, per tensor."""
            model = repeated(jnp.concatenate([loss_features, state.from_lstm]), mean[0].shape)
            x = jnp.concatenate([_statistics(blocks, mean, square), state.from_mlp, model])
            cells = lstm(theta["lstm"], state.lstm, x)
            constants = _constants(blocks, state.step, square), linear(theta["to_mlp"], cells.hidden)
            return cells, linear({"w": w_constant, "b": b0}, *constants)

        def network(weights, block, *inputs):
            """Steps, and means over each tensor of the last hidden layer: what is reported back is linear in them."""
            first, body, out = weights
            active = _nets.hidden_layers(first, body, _features(block, *inputs), block)
            d, a = _nets.read_out(out, active)
            return -step_mult * d * jnp.exp(exp_mult * a), block.means(active)

        def weights_of(scale, bias):
            """[inputs, tensors], [hidden, tensors] -> the network's layers: first, those of each tensor."""
            first = [[(w0 * s[:, None], b)] for s, b in zip(scale.T, bias.T, strict=True)]
            return first, body, (w_out[:, :2], b_out[:2])

        def update_fn(grads, state, params=None, *, value, valid_value=None, **extra):
            del extra
            blocks, leaves = blocks_of(params, VECTOR), jax.tree.leaves(params)
            if not blocks:  # a model without numbers
                return assemble(blocks, [], params), state
            limit = clip_multiple * state.clip / (1 - 0.99 ** (state.step + 1))
            grads = [jnp.clip(F.clean(g), -limit, limit) for g in jax.tree.leaves(grads)]
            inputs = list(map(partial(_accumulate, decays, grads, leaves), blocks, state.m, state.v))
            moments = [in_tiles(_moments, (), block, *x)[1] for block, x in zip(blocks, inputs, strict=True)]
            mean, square = (jnp.concatenate(x, axis=1) for x in zip(*moments, strict=True))
            clip = 0.99 * state.clip + 0.01 * jnp.sqrt(1e-8 + jnp.mean(square[0]))
            losses, loss_features = _losses(state, value, valid_value)
            cells, bias = recurrent(blocks, state, mean, square, loss_features)
            ends = np.cumsum([len(block.leaves) for block in blocks])[:-1]
            scales, biases = (jnp.split(x, ends, axis=1) for x in (jax.lax.rsqrt(1e-5 + square), bias))
            weights = map(weights_of, scales, biases)
            rows = [in_tiles(network, w, block, *x) for w, block, x in zip(weights, blocks, inputs, strict=True)]
            steps, active = zip(*rows, strict=True)
            from_mlp = linear({"w": w_out[:, 2:], "b": b_out[2:]}, jnp.concatenate(active, axis=1))
            from_lstm = linear(theta["to_lstm"], jnp.mean(cells.hidden, axis=1))
            _, _, m, v = map(list, zip(*inputs, strict=True))
            new = RNNMLPState(state.step + 1, clip, losses, m, v, cells, from_mlp, from_lstm)
            return assemble(blocks, steps, params), new

        return optax.GradientTransformationExtraArgs(partial(_init, theta["start"], len(decays)), update_fn)

    return LearnedOptimizer(init, build)


def _init(start: PyTree, num_decays: int, params: PyTree) -> RNNMLPState:
    blocks = blocks_of(params, VECTOR)
    tensors = (sum(len(block.leaves) for block in blocks),)
    start = {name: jnp.array(x, jnp.float32) for name, x in start.items()}  # copies, so that a state may be donated
    hidden, cell, from_mlp = (repeated(start[name], tensors) for name in ("hidden", "cell", "from_mlp"))
    m, v = ([jnp.zeros((num_decays, *block.shape)) for block in blocks] for _ in "mv")
    losses = Losses(*(jnp.zeros(()) for _ in Losses._fields))
    return RNNMLPState(
        jnp.zeros((), jnp.int32), jnp.float32(0.01), losses, m, v, LSTMState(hidden, cell), from_mlp, start["from_lstm"]
    )


def _accumulate(decays, grads, params, block, m, v):
    """g and p [1, *shape], the new m and v [decays, *shape]: all that the block's features are made of."""
    g, b = block.gather(grads), jnp.array(decays)
    return g[None], block.gather(params)[None], F.ema(b, m, g), F.ema(b, v, g * g)


def _features(block: Block, g, p, m, v) -> list[jax.Array]:
    """In one group where the coordinates are a vector: writing them once more costs less there than more products."""
    r = jax.lax.rsqrt(v + 1e-6)
    groups = [g, p, jnp.log(1e-8 + jnp.abs(p)), m, v, m * r, r]
    return [jnp.concatenate(groups)] if block.flat else groups


def _moments(weights: PyTree, block: Block, g, p, m, v):
    """Means over each tensor of p, m, v and of the square of each feature. In the same tiles as the network, so that
    the features are computed once."""
    features = _features(block, g, p, m, v)
    squares = jnp.concatenate([block.means(x * x) for x in features])
    if not block.flat:
        return (), (jnp.concatenate([block.means(x) for x in (p, m, v)]), squares)
    means = block.means(features[0])  # of all rows: to cut some out of their array would take longer
    return (), (jnp.concatenate([means[1:2], means[3 : 3 + 2 * len(m)]]), squares)


def _losses(state: RNNMLPState, value, valid_value) -> tuple[Losses, jax.Array]:
    """The new accumulators, the features [2]."""
    mean, var, valid, count = state.losses
    value = jnp.asarray(value, jnp.float32)
    mean = 0.9 * mean + 0.1 * value
    var = 0.9 * var + 0.1 * (value - mean) ** 2
    if valid_value is not None:
        valid, count = 0.95 * valid + 0.05 * jnp.asarray(valid_value, jnp.float32), count + 1
    correction = 1 / (1 - 0.9 ** (state.step + 1))
    current = jnp.stack([value, valid / jnp.maximum(1 - 0.95**count, 1e-8)])
    features = (current - mean * correction) * jax.lax.rsqrt(var * correction + 1e-8)
    return Losses(mean, var, valid, count), jnp.clip(features, -5, 5)


def _statistics(blocks: Sequence[Block], mean, square) -> jax.Array:
    """[16, tensors] of the means [p, m, v] and mean squares [g, p, log|p|, m, v, ...]."""
    k, shapes = len(mean) // 2, [shape for block in blocks for shape in block.shapes]

    def pooled(m, v, p):
        return jnp.stack([jnp.mean(m, axis=0), jnp.mean(v, axis=0), p])

    means = pooled(mean[1 : 1 + k], mean[1 + k :], mean[0])
    squares = pooled(square[3 : 3 + k], square[3 + k : 3 + 2 * k], square[1])
    magnitudes = F.clip_log_abs(jnp.concatenate([means, F.variance(means, squares), _norms(blocks, square[:2])]))
    scalar = np.array([[-1.0 if shape else 1.0 for shape in shapes]], np.float32)
    axes = np.array([[*(*shape, 1, 1, 1)[:3], math.prod(shape[3:])] for shape in shapes], np.float32)
    return jnp.concatenate([magnitudes, jnp.sign(means), scalar, np.log(axes.T) - 1])


def _constants(blocks: Sequence[Block], step, square) -> jax.Array:
    """[14, tensors], of the network's inputs those that are the same for the whole tensor."""
    sizes = _sizes(blocks)
    waves = repeated(jnp.sin(step / (np.pi * jnp.array(F.TIMESCALES))), sizes.shape)
    count = np.full((1, len(sizes)), np.log(len(sizes)) - 1, np.float32)
    return jnp.concatenate([waves, count, jnp.log(1e-8 + _norms(blocks, square[1:2])), np.log(sizes)[None]])


def _norms(blocks: Sequence[Block], square) -> jax.Array:
    """Of the mean squares [k, tensors]; the maximum keeps the derivative finite at zero."""
    return jnp.sqrt(jnp.maximum(_sizes(blocks)[None] * square, 1e-30))


def _sizes(blocks: Sequence[Block]) -> np.ndarray:
    return np.array([math.prod(shape) for block in blocks for shape in block.shapes], np.float32)
