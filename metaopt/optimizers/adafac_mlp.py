"""AdafacMLP, the small fully connected learned optimizer of Metz et al. 2022 (arXiv 2203.11860, "small_fc_lopt").

Per tensor, with momenta m_b (b = .9, .99, .999), second moment v (.999) and Adafactor moments row_b, col_b (.9, .99,
.999), all decays learnable, 28 features per coordinate: g, p, m_b, v, m_b/sqrt(v), 1/sqrt(v), g·f_b, row_b, col_b,
1/sqrt(row_b), 1/sqrt(col_b), m_b·f_b, where f_b = row_factor·col_factor. Each is divided by its root mean square over
the tensor; 11 time features tanh(t/tau - 1) join. A network 39-4-4-2 (ReLU) gives (d, a) and

    p <- p - step_mult · d · exp(exp_mult · a)

For tensors of rank < 2 row_b and col_b are both the unfactored moment v_b, g·f_b = g/sqrt(v_b). The decays are
b = 1 - exp(10 (log(1 - b0)/10 + theta_b)). Differs from the paper: nothing; gradients beyond 1e8 are clipped.
"""

from collections.abc import Sequence
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
    m: list[jax.Array]  # per block [momenta, *shape] f32
    v: list[jax.Array]  # per block [1, *shape] f32
    factored: list[list[F.Factored]]  # per block, per tensor


def adafac_mlp(
    hidden: int = 4,
    depth: int = 2,
    step_mult: float = 1e-3,
    exp_mult: float = 1e-3,
    momentum_decays: tuple[float, ...] = (0.9, 0.99, 0.999),
    second_moment_decay: float = 0.999,
) -> LearnedOptimizer:
    """The architecture; 197 numbers by default. It uses neither the loss nor the horizon."""
    k = len(momentum_decays)
    num_features = 8 * k + 4
    start = {
        "momentum_decays": momentum_decays,
        "rms_decays": (second_moment_decay,),
        "adafactor_decays": momentum_decays,
    }

    def init(key: jax.Array) -> PyTree:
        sizes = (num_features + len(F.TIMESCALES), *[hidden] * depth, 2)
        return {"mlp": _nets.init_mlp(key, sizes), **{name: jnp.zeros(len(b)) for name, b in start.items()}}

    def build(theta: PyTree, num_steps: jax.Array | int) -> optax.GradientTransformationExtraArgs:
        del num_steps
        decays = {name: 1 - jnp.exp(jnp.log1p(-jnp.array(b)) + 10 * theta[name]) for name, b in start.items()}
        (w0, b0), *layers = _nets.layers_of(theta["mlp"])
        w0, w_time = jnp.split(w0, [num_features])

        def exp_a_b(d, a):
            return -step_mult * d * jnp.exp(exp_mult * a)

        def init_fn(params):
            blocks = blocks_of(params)
            m, v = ([jnp.zeros((n, *block.shape)) for block in blocks] for n in (k, 1))
            factored = [[F.factored_init(shape, k) for shape in block.shapes] for block in blocks]
            return AdafacMLPState(jnp.zeros((), jnp.int32), m, v, factored)

        def step(bias, block, grads, params, m, v, factored):
            g, p = F.clean(block.gather(grads)), block.gather(params)
            m, v = F.ema(decays["momentum_decays"], m, g), F.ema(decays["rms_decays"], v, g * g)
            leaves = zip(block.leaves, factored, strict=True)
            factored = [F.factored_update(decays["adafactor_decays"], old, F.clean(grads[i])) for i, old in leaves]
            inputs = features(g, p, m, v, factored, block)
            return _nets.normalised_mlp([(w0, bias), *layers], inputs, block, exp_a_b), m, v, factored

        def update_fn(grads, state, params=None, **extra):
            del extra
            bias = b0 + F.time_features(state.step) @ w_time
            updates, *state_ = map_blocks(partial(step, bias), grads, params, state.m, state.v, state.factored)
            return updates, AdafacMLPState(state.step + 1, *state_)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return LearnedOptimizer(init, build)


def features(g, p, m, v, factored, block) -> Sequence[jax.Array]:
    """The 28 features of a block's coordinates in the published order, as groups [k, *shape] before normalisation."""
    r = jax.lax.rsqrt(v + 1e-6)
    row = block.spread([f.row for f in factored])
    col = block.spread([f.row if f.col is None else f.col for f in factored])
    factors = [F.rsqrt_factors(f, 1e-9) for f in factored]
    col_factor = block.spread([c for _, c in factors])
    f_g = block.spread([r for r, _ in factors]) * col_factor
    f_m = block.spread([F.rsqrt_factors(f, 1e-6)[0] for f in factored]) * col_factor
    inverse_row, inverse_col = jax.lax.rsqrt(row + 1e-8), jax.lax.rsqrt(col + 1e-8)
    return [g[None], p[None], m, v, m * r, r, g[None] * f_g, row, col, inverse_row, inverse_col, m * f_m]
