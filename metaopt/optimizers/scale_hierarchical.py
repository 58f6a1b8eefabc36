"""The hierarchical GRU of Wichrowska et al. 2017 (arXiv 1703.04813, "Learned optimizers that scale and generalize").

A small GRU a coordinate (10 units, state h), a larger one a tensor (20, H) and one for the model (20, G). What is above
speaks to what is below through the biases of its gates; what is below is averaged for what is above. Per coordinate,
with its own decays b and c (zero at the start) and log learning rate e:

    m_s <- b^(2^-s) m_s + (1 - b^(2^-s)) g          s = 0 ... 3: each twice as slow as the one before
    v_s <- c v_s + (1 - c) (m_s^2 + 1e-12),         u_s = asinh(m_s / sqrt(v_s))
    x   = (u_s,  u_s u_(s+1),  log v_s - mean over s,  e - mean over the model)          12 inputs
    h   <- GRU(x, h, bias P^T H + Q^T G)
    d   = w^T [h; u],    d <- d / sqrt(1e-16 + mean over the tensor of d^2)
    e'  = clip(e + linear(h), -33, 33),  b <- sigmoid(linear(h)),  c <- sigmoid(linear(h))
    p   <- p - exp(e' + o) d,            e <- r e + (1 - r) e'            o and r = sigmoid(.) learned
    H   <- GRU(mean over the tensor of [h; x], H, bias R^T G),  then  G <- GRU(mean over the tensors of H, G)

with H and G of the step before in the biases; it goes on alike for ever. The equations are the published code's in
its published setting, which also fixes what the paper leaves open. Differs from them: no attention (the gradient taken
away from the parameters; off in that setting too); e starts at log init_lr, since an optax optimizer has no randomness
to draw it log-uniform from 1e-6 to 1e-2; G hears all tensors (the code: the last one); no straight-through derivative
of the clip; a fresh theta is near RMSprop on the mean of the u_s; gradients beyond 1e8 are clipped.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metaopt.optimizers import _cells
from metaopt.optimizers import _features as F
from metaopt.optimizers._blocks import Block, blocks_of, map_blocks
from metaopt.types import LearnedOptimizer, PyTree

LOG_ZERO = -1e30  # of a decay that is zero; its roots are zero too, and their derivatives finite
MAX_LOG_LR = 33.0


class Coordinates(NamedTuple):
    """State of a block's coordinates."""

    hidden: jax.Array  # [units, *shape] f32
    m: jax.Array  # [scales, *shape]
    v: jax.Array  # [scales, *shape]
    log_decays: jax.Array  # log b, log c, [2, *shape]
    log_lr: jax.Array  # [*shape]


class ScaleHierarchicalState(NamedTuple):
    coordinates: list[Coordinates]  # per block
    tensors: jax.Array  # [units, tensors] f32, in the order of the blocks
    model: jax.Array  # [units, 1] f32


def scale_hierarchical(
    units: tuple[int, int, int] = (10, 20, 20), scales: int = 4, init_lr: float = 1e-3
) -> LearnedOptimizer:
    """The architecture; `units` of the GRUs of coordinate, tensor and model; 8,229 numbers by default. It uses neither
    the loss nor the horizon."""

    def build(theta: PyTree, num_steps: jax.Array | int) -> optax.GradientTransformationExtraArgs:
        del num_steps
        start, to = theta["start"], theta["biases"]

        def init_fn(params):
            blocks = blocks_of(params)
            tensors = _cells.repeated(start["tensor"], (sum(len(block.leaves) for block in blocks),))
            coordinates = [_fresh(start["coordinate"], block.shape, scales, init_lr) for block in blocks]
            return ScaleHierarchicalState(coordinates, tensors, start["model"][:, None])

        def update_fn(grads, state, params=None, **extra):
            del extra
            blocks = blocks_of(params)
            if not blocks:
                return jax.tree.map(jnp.zeros_like, params), state
            biases = to["coordinate_tensor"].T @ state.tensors + to["coordinate_model"].T @ state.model
            biases = jnp.split(biases, np.cumsum([len(block.leaves) for block in blocks])[:-1], axis=1)
            count = sum(math.prod(block.shape) for block in blocks)
            mean_log_lr = jnp.stack([jnp.sum(old.log_lr) for old in state.coordinates]).sum() / count
            step = partial(_coordinates, theta, mean_log_lr)
            grads = jax.tree.map(F.clean, grads)
            updates, coordinates, inputs = map_blocks(step, grads, params, state.coordinates, biases)
            bias = to["tensor_model"].T @ state.model
            tensors = _cells.gru(theta["tensor"], state.tensors, jnp.concatenate(inputs, 1), bias)
            model = _cells.gru(theta["model"], state.model, jnp.mean(tensors, 1, keepdims=True))
            return updates, ScaleHierarchicalState(coordinates, tensors, model)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return LearnedOptimizer(partial(_init, units, scales), build)


def _init(units: tuple[int, int, int], scales: int, key: jax.Array) -> PyTree:
    keys = iter(jax.random.split(key, 11))
    coordinate, tensor, model = units
    inputs = 3 * scales

    def weights(fan_in, fan_out, scale=1.0):
        return _cells.init_linear(next(keys), fan_in, fan_out, scale)["w"]

    return {
        "coordinate": _cells.init_gru(next(keys), inputs, coordinate),
        "tensor": _cells.init_gru(next(keys), coordinate + inputs, tensor),
        "model": _cells.init_gru(next(keys), tensor, model),
        "biases": {
            "coordinate_tensor": weights(tensor, 3 * coordinate),
            "coordinate_model": weights(model, 3 * coordinate),
            "tensor_model": weights(model, 3 * tensor),
        },
        "start": {
            name: jax.random.uniform(next(keys), (n,), minval=-1.0)
            for name, n in zip(("coordinate", "tensor", "model"), units, strict=True)
        },
        "direction": jnp.concatenate([weights(coordinate, 1, 0.1)[:, 0], jnp.full(scales, 1 / scales)]),
        # change of the log learning rate, logits of b and c: at first none, 0.9, 0.96
        "heads": {"w": weights(coordinate, 3, 0.1), "b": jnp.array([0.0, 2.2, 3.2])},
        "log_lr_decay": jnp.array(3.2),
        "log_lr_offset": jnp.array(0.0),
    }


def _fresh(hidden: jax.Array, shape: tuple[int, ...], scales: int, lr: float) -> Coordinates:
    m, v = (jnp.zeros((scales, *shape)) for _ in range(2))
    log_decays, log_lr = jnp.full((2, *shape), LOG_ZERO), jnp.full(shape, math.log(lr))
    return Coordinates(_cells.repeated(hidden, shape), m, v, log_decays, log_lr)


def _coordinates(
    theta: PyTree,
    mean_log_lr: jax.Array,
    block: Block,
    grads: list[jax.Array],
    params: list[jax.Array],
    old: Coordinates,
    bias: jax.Array,
) -> tuple[jax.Array, Coordinates, jax.Array]:
    """bias [3 units, tensors] -> (the step [*shape], the new state, inputs of the tensors' GRU [k, tensors])"""
    del params
    m, v = _accumulate(old, block.gather(grads))
    u, log_v = jnp.arcsinh(m * jax.lax.rsqrt(v)), jnp.log(v)
    relative = log_v - jnp.mean(log_v, 0, keepdims=True)
    x = jnp.concatenate([u, u[:-1] * u[1:], relative, (old.log_lr - mean_log_lr)[None]])
    hidden = _cells.gru(theta["coordinate"], old.hidden, x, block.broadcast(bias))

    d = jnp.tensordot(theta["direction"], jnp.concatenate([hidden, u]), axes=(0, 0))
    d = d * block.broadcast(jax.lax.rsqrt(1e-16 + block.means(d[None] ** 2)))[0]
    change, *logits = _cells.linear(theta["heads"], hidden)
    log_lr = jnp.clip(old.log_lr + change, -MAX_LOG_LR, MAX_LOG_LR)
    step = -jnp.exp(log_lr + theta["log_lr_offset"]) * d

    r = jax.nn.sigmoid(theta["log_lr_decay"])
    new = Coordinates(hidden, m, v, jax.nn.log_sigmoid(jnp.stack(logits)), r * old.log_lr + (1 - r) * log_lr)
    return step, new, block.means(jnp.concatenate([hidden, x]))


def _accumulate(old: Coordinates, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    """m, v with the gradient in them; 1 - decay without cancellation."""
    log_b = F.column(jnp.exp2(-jnp.arange(len(old.m))), g) * old.log_decays[:1]
    m = jnp.exp(log_b) * old.m - jnp.expm1(log_b) * g[None]
    log_c = old.log_decays[1:]
    return m, jnp.exp(log_c) * old.v - jnp.expm1(log_c) * (m * m + 1e-12)
