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
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metaopt.optimizers import _features as F
from metaopt.optimizers import _nets
from metaopt.types import LearnedOptimizer, PyTree


class AdafacMLPState(NamedTuple):
    step: jax.Array  # i32 scalar
    m: PyTree  # per leaf [momenta, *shape] f32
    v: PyTree  # per leaf [1, *shape] f32
    factored: PyTree  # per leaf Factored


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

        def init_fn(params):
            m = F.init_leaves(lambda shape: jnp.zeros((k, *shape)), params)
            v = F.init_leaves(lambda shape: jnp.zeros((1, *shape)), params)
            factored = F.init_leaves(lambda shape: F.factored_init(shape, k), params)
            return AdafacMLPState(jnp.zeros((), jnp.int32), m, v, factored)

        def leaf(bias, g, p, m, v, factored):
            g = F.clean(g)
            m, v = F.ema(decays["momentum_decays"], m, g), F.ema(decays["rms_decays"], v, g * g)
            factored = F.factored_update(decays["adafactor_decays"], factored, g)
            groups = features(g, p.astype(jnp.float32), m, v, factored)
            scale = jax.lax.rsqrt(1e-5 + jnp.concatenate([F.mean_square(x) for x in groups]))
            first = (w0[:num_features] * scale[:, None], bias)
            d, a = _nets.coordinate_mlp([first, *layers], groups, g.shape)
            return (-step_mult * d * jnp.exp(exp_mult * a)).astype(p.dtype), m, v, factored

        def update_fn(grads, state, params=None, **extra):
            del extra
            bias = b0 + F.time_features(state.step) @ w0[num_features:]
            out = F.map_leaves(lambda *xs: leaf(bias, *xs), grads, params, state.m, state.v, state.factored)
            updates, m, v, factored = out
            return updates, AdafacMLPState(state.step + 1, m, v, factored)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return LearnedOptimizer(init, build)


def features(g: jax.Array, p: jax.Array, m: jax.Array, v: jax.Array, factored: F.Factored) -> Sequence[jax.Array]:
    """The 28 features of one tensor in the published order, as groups [k, *shape] before normalisation."""
    r = jax.lax.rsqrt(v + 1e-6)
    row, col = factored
    if col is None:
        col = row
        f_g, f_m = F.safe_rsqrt(row + 1e-9), jax.lax.rsqrt(row + 1e-6)
    else:
        f_g = f_m = F.factored_rsqrt(factored)
    inverse_row, inverse_col = jax.lax.rsqrt(row + 1e-8), jax.lax.rsqrt(col + 1e-8)
    return [g[None], p[None], m, v, m * r, r, g[None] * f_g, row, col, inverse_row, inverse_col, m * f_m]
