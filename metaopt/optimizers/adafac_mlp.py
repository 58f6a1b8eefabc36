"""AdafacMLP, the small fully connected learned optimizer of Metz et al. 2022 (arXiv 2203.11860, "small_fc_lopt").

Per tensor, with momenta m_b (b = .9, .99, .999), second moment v (.999) and Adafactor moments row_b, col_b (.9, .99,
.999), all decays learnable, 28 features per coordinate: g, p, m_b, v, m_b/sqrt(v), 1/sqrt(v), g·f_b, row_b, col_b,
1/sqrt(row_b), 1/sqrt(col_b), m_b·f_b, where f_b = row_factor·col_factor. Each is divided by its root mean square over
the tensor; 11 time features tanh(t/tau - 1) join. A network 39-4-4-2 (ReLU) gives (d, a) and

    p <- p - step_mult · d · exp(exp_mult · a)

For tensors of rank < 2 row_b and col_b are both the unfactored moment v_b, g·f_b = g/sqrt(v_b). The decays are
b = 1 - exp(10 (log(1 - b0)/10 + theta_b)). Differs from the paper: nothing; gradients beyond 1e8 are clipped.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metaopt.optimizers import _features as F
from metaopt.optimizers import _nets
from metaopt.optimizers._blocks import blocks_of, map_blocks
from metaopt.types import LearnedOptimizer, PyTree


class AdafacMLPState(NamedTuple):
    step: jax.Array  # i32 scalar
    moments: list[F.Moments]  # per block


def adafac_mlp(
    hidden: int = 4,
    depth: int = 2,
    step_mult: float = 1e-3,
    exp_mult: float = 1e-3,
    momentum_decays: tuple[float, ...] = (0.9, 0.99, 0.999),
    second_moment_decay: float = 0.999,
) -> LearnedOptimizer:
    """The architecture; 197 numbers by default. It uses neither the loss nor the horizon."""
    num_features = 8 * len(momentum_decays) + 4
    start = F.decays(momentum_decays, (second_moment_decay,), momentum_decays)

    def init(key: jax.Array) -> PyTree:
        sizes = (num_features + len(F.TIMESCALES), *[hidden] * depth, 2)
        return {"mlp": _nets.init_mlp(key, sizes), "decays": jax.tree.map(jnp.zeros_like, start)._asdict()}

    def build(theta: PyTree, num_steps: jax.Array | int) -> optax.GradientTransformationExtraArgs:
        del num_steps
        decays = F.offset_decays(start, theta["decays"])
        (w0, b0), *layers = _nets.layers_of(theta["mlp"])
        w0, w_time = jnp.split(w0, [num_features])

        def exp_a_b(d, a):
            return -step_mult * d * jnp.exp(exp_mult * a)

        def init_fn(params):
            moments = [F.moments_init(block, start) for block in blocks_of(params)]
            return AdafacMLPState(jnp.zeros((), jnp.int32), moments)

        def step(bias, block, grads, params, moments):
            moments = F.moments_update(decays, moments, block, grads)
            inputs = F.adafactor_features(block.gather(grads), block.gather(params), moments, block)
            nets = [[(w0, bias), *layers]] * len(block.leaves)
            return _nets.normalised_mlp(nets, inputs, block, exp_a_b), moments

        def update_fn(grads, state, params=None, **extra):
            del extra
            bias = b0 + F.time_features(state.step) @ w_time
            grads = jax.tree.map(F.clean, grads)
            updates, moments = map_blocks(partial(step, bias), grads, params, state.moments)
            return updates, AdafacMLPState(state.step + 1, moments)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return LearnedOptimizer(init, build)
