"""What architectures share: accumulators, factored second moments, time features.

Accumulators of several decays are stacked on a FIRST axis [decays, *shape], so that coordinates lie on the minor axes
and one fused loop updates all decays. Everything is float32 whatever the dtype of the params.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

GRADIENT_LIMIT = 1e8  # keeps fourth powers of gradients, summed over a tensor, finite in float32
TIMESCALES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5)


class Factored(NamedTuple):
    """Adafactor's second moments: means of g^2 along the largest (row) and second largest (col) axis.

    Rank >= 2: row [decays, *shape with the largest axis 1], col [decays, *shape with the second largest 1].
    Rank < 2: row holds the unfactored moment [decays, *shape], there is no col.
    """

    row: jax.Array
    col: jax.Array | None


def clean(x: jax.Array) -> jax.Array:
    """A gradient as float32 within +-GRADIENT_LIMIT (NaN stays NaN: a diverged run must be seen)."""
    return jnp.clip(x.astype(jnp.float32), -GRADIENT_LIMIT, GRADIENT_LIMIT)


def column(decays: jax.Array, x: jax.Array) -> jax.Array:
    """decays [k] shaped [k, 1, ...] to broadcast against [k, *x.shape]."""
    return jnp.reshape(decays, (-1,) + (1,) * x.ndim)


def ema(decays: jax.Array, old: jax.Array, x: jax.Array) -> jax.Array:
    """old [k, *shape] <- b old + (1 - b) x, one b of decays [k] each, x [*shape]."""
    b = column(decays, x)
    return b * old + (1 - b) * x[None]


def factored_axes(shape: tuple[int, ...]) -> tuple[int, int]:
    """(largest, second largest) axis; of equal axes the later counts as larger."""
    order = sorted(range(len(shape)), key=lambda i: (shape[i], i))
    return order[-1], order[-2]


def factored_init(shape: tuple[int, ...], num_decays: int) -> Factored:
    if len(shape) < 2:
        return Factored(jnp.zeros((num_decays, *shape)), None)
    largest, second = factored_axes(shape)
    row, col = (tuple(1 if i == axis else n for i, n in enumerate(shape)) for axis in (largest, second))
    return Factored(jnp.zeros((num_decays, *row)), jnp.zeros((num_decays, *col)))


def factored_update(decays: jax.Array, old: Factored, g: jax.Array) -> Factored:
    """row <- EMA of mean(g^2 + 1e-30 over the largest axis), col likewise over the second largest."""
    square = g * g + 1e-30
    if old.col is None:
        return Factored(ema(decays, old.row, square), None)
    largest, second = factored_axes(g.shape)
    row = ema(decays, old.row, jnp.mean(square, largest, keepdims=True))
    return Factored(row, ema(decays, old.col, jnp.mean(square, second, keepdims=True)))


def safe_rsqrt(x: jax.Array) -> jax.Array:
    return jax.lax.rsqrt(jnp.maximum(x, 1e-9))


def rsqrt_factors(moments: Factored, eps: float) -> tuple[jax.Array, jax.Array]:
    """Two small arrays whose product is 1/sqrt of the estimate of E[g^2], [decays, *broadcastable].

    Factored: (row / mean row)^-1/2 and col^-1/2 (Shazeer & Stern 2018, algorithm 4); rank < 2: (moment + eps)^-1/2, 1.
    """
    row, col = moments
    if col is None:
        return safe_rsqrt(row + eps), jnp.ones_like(row)
    second = max(range(1, row.ndim), key=lambda i: row.shape[i] / col.shape[i])  # where row extends and col does not
    return safe_rsqrt(row / (jnp.mean(row, second, keepdims=True) + 1e-9)), safe_rsqrt(col)


def time_features(step: jax.Array) -> jax.Array:
    """[11] tanh(t / tau - 1) for tau = 1, 3, 10, ..., 1e5 (Metz et al. 2019)."""
    return jnp.tanh(step / jnp.array(TIMESCALES) - 1)
