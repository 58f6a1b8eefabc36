"""The per-parameter MLP of Metz et al. 2019 (arXiv 1810.10180, "Understanding and correcting pathologies ...").

Per coordinate the gradient, the parameter and six momenta m_b (b = .1, .5, .9, .99, .999, .9999), each divided by its
root mean square over the tensor, and 11 time features tanh(t/tau - 1) go through a network 19-32-32-2 (ReLU) that gives
(d, a):

    p <- p - step_mult · d · exp(exp_mult · a)

Differs from the paper: nothing; gradients beyond 1e8 are clipped.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metaopt.optimizers import _features as F
from metaopt.optimizers import _nets
from metaopt.optimizers._blocks import VECTOR, blocks_of, map_blocks
from metaopt.types import LearnedOptimizer, PyTree


class MLPState(NamedTuple):
    step: jax.Array  # i32 scalar
    m: list[jax.Array]  # per block [momenta, *shape] f32


def mlp(
    hidden: int = 32,
    depth: int = 2,
    step_mult: float = 1e-3,
    exp_mult: float = 1e-3,
    decays: tuple[float, ...] = (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999),
) -> LearnedOptimizer:
    """The architecture; 1,762 numbers by default. It uses neither the loss nor the horizon."""
    num_features = 2 + len(decays)

    def init(key: jax.Array) -> PyTree:
        return _nets.init_mlp(key, (num_features + len(F.TIMESCALES), *[hidden] * depth, 2))

    def build(theta: PyTree, num_steps: jax.Array | int) -> optax.GradientTransformationExtraArgs:
        del num_steps
        (w0, b0), *layers = _nets.layers_of(theta)
        w0, w_time = jnp.split(w0, [num_features])

        def exp_a_b(d, a):
            return -step_mult * d * jnp.exp(exp_mult * a)

        def init_fn(params):
            m = [jnp.zeros((len(decays), *block.shape)) for block in blocks_of(params, VECTOR)]
            return MLPState(jnp.zeros((), jnp.int32), m)

        def step(bias, block, grads, params, m):
            g, p = block.gather(grads), block.gather(params)
            m = F.ema(jnp.array(decays), m, g)
            return _nets.wide_mlp([(w0, bias), *layers], [g[None], p[None], m], block, exp_a_b), m

        def update_fn(grads, state, params=None, **extra):
            del extra
            bias = b0 + F.time_features(state.step) @ w_time
            grads = jax.tree.map(F.clean, grads)
            updates, m = map_blocks(partial(step, bias), grads, params, state.m, vector=VECTOR)
            return updates, MLPState(state.step + 1, m)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return LearnedOptimizer(init, build)
