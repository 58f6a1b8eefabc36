"""What architectures share: accumulators, factored second moments, the features made of them, time features.

Accumulators of several decays are stacked on a FIRST axis [decays, *shape], so that coordinates lie on the minor axes
and one fused loop updates all decays. Everything is float32 whatever the dtype of the params.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metaopt.optimizers._blocks import Block

Array = jax.Array | np.ndarray
GRADIENT_LIMIT = 1e8  # keeps fourth powers of gradients, summed over a tensor, finite in float32
TIMESCALES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5)


class Factored(NamedTuple):
    """Adafactor's second moments of a tensor: means of g^2 along the largest (row) and second largest (col) axis.

    Rank >= 2: row [decays, *shape with the largest axis 1], col [decays, *shape with the second largest 1].
    Rank < 2: row holds the unfactored moment [decays, *shape], there is no col.
    """

    row: jax.Array
    col: jax.Array | None = None


class Decays(NamedTuple):
    """Of the accumulators in `Moments`, an array [k] of each kind."""

    m: Array
    v: Array
    factored: Array


class Moments(NamedTuple):
    """The accumulators of a block."""

    m: jax.Array  # EMAs of g, [momenta, *shape]
    v: jax.Array  # EMAs of g^2, [second moments, *shape]
    factored: list[Factored]  # per tensor


def decays(m: Sequence[float], v: Sequence[float], factored: Sequence[float]) -> Decays:
    return Decays(*(np.array(b, np.float32) for b in (m, v, factored)))


def offset_decays(start: Decays, offsets: dict[str, jax.Array]) -> Decays:
    """Learnable decays, b = 1 - exp(log(1 - start) + 10 offset): an offset of zero is the start."""
    return Decays(**{name: 1 - jnp.exp(jnp.log1p(-b) + 10 * offsets[name]) for name, b in start._asdict().items()})


def clean(x: jax.Array, limit: float = GRADIENT_LIMIT) -> jax.Array:
    """A gradient as float32 within +-limit (NaN stays NaN: a diverged run must be seen)."""
    return jax.lax.clamp(jnp.float32(-limit), x.astype(jnp.float32), jnp.float32(limit))


def column(decays: Array, x: jax.Array) -> jax.Array:
    """decays [k] shaped [k, 1, ...] to broadcast against [k, *x.shape]."""
    return jnp.reshape(decays, (-1,) + (1,) * x.ndim)


def ema(decays: Array, old: jax.Array, x: jax.Array) -> jax.Array:
    """old [k, *shape] <- b old + (1 - b) x, one b of decays [k] each, x [*shape]."""
    return column(decays, x) * old + column(1 - decays, x) * repeat(x[None], len(decays))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def repeat(x: jax.Array, k: int) -> jax.Array:
    """x [1, *shape], the same for each of k decays. Backward the k are added up one by one, in the loop that makes
    them: a reduction over so few would be a loop of its own."""
    return jnp.broadcast_to(x, (k, *x.shape[1:]))


repeat.defvjp(lambda x, k: (repeat(x, k), None), lambda k, _, d: (sum(jnp.split(d, k)),))


def factored_axes(shape: tuple[int, ...]) -> tuple[int, int]:
    """(largest, second largest) axis; of equal axes the later counts as larger."""
    order = sorted(range(len(shape)), key=lambda i: (shape[i], i))
    return order[-1], order[-2]


def factored_init(shape: tuple[int, ...], num_decays: int) -> Factored:
    if len(shape) < 2:
        return Factored(jnp.zeros((num_decays, *shape)))
    row, col = (tuple(1 if i == axis else n for i, n in enumerate(shape)) for axis in factored_axes(shape))
    return Factored(jnp.zeros((num_decays, *row)), jnp.zeros((num_decays, *col)))


def factored_update(decays: Array, old: Factored, g: jax.Array) -> Factored:
    """row <- EMA of mean(g^2 + 1e-30 over the largest axis), col likewise over the second largest."""
    square = g * g + 1e-30
    if old.col is None:
        return Factored(ema(decays, old.row, square))
    row, col = (jnp.mean(square, axis, keepdims=True) for axis in factored_axes(g.shape))
    return Factored(ema(decays, old.row, row), ema(decays, old.col, col))


def safe_rsqrt(x: jax.Array) -> jax.Array:
    return jax.lax.rsqrt(jnp.maximum(x, 1e-9))


def row_factor(row: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """(row / mean row)^-1/2, of a tensor of rank >= 2. With col^-1/2 the product is 1/sqrt of the estimate of E[g^2],
    [decays, *broadcastable] (Shazeer & Stern 2018, algorithm 4)."""
    _, second = factored_axes(shape)
    return safe_rsqrt(row / (jnp.mean(row, second + 1, keepdims=True) + 1e-9))


def moments_init(block: Block, decays: Decays) -> Moments:
    """Zeros. Of the decays only their number matters."""
    m, v = (jnp.zeros((len(b), *block.shape)) for b in (decays.m, decays.v))
    return Moments(m, v, [factored_init(shape, len(decays.factored)) for shape in block.shapes])


def moments_update(decays: Decays, old: Moments, block: Block, grads: Sequence[jax.Array]) -> Moments:
    """grads: the model's leaves, clean."""
    g = block.gather(grads)
    factored = [factored_update(decays.factored, f, grads[i]) for i, f in zip(block.leaves, old.factored, strict=True)]
    return Moments(ema(decays.m, old.m, g), ema(decays.v, old.v, g * g), factored)


def adafactor_features(
    g: jax.Array, p: jax.Array, moments: Moments, block: Block, v_eps: float = 1e-6, vector_eps: float = 1e-6
) -> list[jax.Array]:
    """The features of Metz et al. 2022 (arXiv 2203.11860), groups [k, *broadcastable to the block], not normalised:

        g, p, m, v, m r, r, g f, row, col, 1/sqrt(row), 1/sqrt(col), m f

    with r = 1/sqrt(v + v_eps) and f = row factor · col factor.
    With three momenta, one second moment and three factored ones they are 28. For tensors of rank < 2, row and col are
    both the unfactored moment u, and f is 1/sqrt(u + 1e-9) with g, 1/sqrt(u + vector_eps) with m.
    """
    m, v, factored = moments
    r = jax.lax.rsqrt(v + v_eps)
    if block.factored:  # both in one array, as spreading small ones takes a product each
        rows = [jnp.concatenate([f.row, row_factor(f.row, s)]) for f, s in zip(factored, block.shapes, strict=True)]
        row, factor = jnp.split(block.spread(rows), 2)
        col = block.spread([f.col for f in factored if f.col is not None])
        f_g = f_m = factor * safe_rsqrt(col)
    else:
        row = col = block.spread([f.row for f in factored])
        f_g, f_m = (jax.lax.rsqrt(jnp.maximum(row + e, 1e-24)) for e in (1e-9, vector_eps))  # its derivative is finite
    inverse_row, inverse_col = jax.lax.rsqrt(row + 1e-8), jax.lax.rsqrt(col + 1e-8)
    m_r = m * (repeat(r, len(m)) if len(r) == 1 else r)
    g_f = repeat(g[None], len(f_g)) * f_g
    return [g[None], p[None], m, v, m_r, r, g_f, row, col, inverse_row, inverse_col, m * f_m]


def known_squares(g: jax.Array, moments: Moments, block: Block) -> dict[int, jax.Array]:
    """Sums over the tensor of the squares of `adafactor_features`, [k] by the group's index, that do not need them: of
    a large matrix g's and, as (g f)^2 is g^2 times a factor a row and one a column, that of g f.
    """
    row, col = moments.factored[0]
    if block.flat or col is None or col.ndim != 3:
        return {}
    largest, _ = factored_axes(block.shape)
    square = g * g + 1e-30
    row, col = (jnp.square(x.reshape(len(x), -1)) for x in (row_factor(row, block.shape), safe_rsqrt(col)))
    equation = "ij,ki->kj" if largest == 0 else "ij,kj->ki"
    sums = jnp.einsum(equation, square, col, precision=jax.lax.Precision.HIGHEST)
    return {0: jnp.sum(jnp.sum(square, largest))[None], 6: jnp.sum(row * sums, 1)}


def velo_features(g: jax.Array, p: jax.Array, moments: Moments, block: Block, v_eps: float = 1e-6) -> list[jax.Array]:
    """The 30 features of VeLO (Metz et al. 2022, arXiv 2211.09760), groups [k, *broadcastable to the block]:

        adafactor_features, clip(g, +-0.1), g / sqrt(v + v_eps)

    Without an epsilon in the factor of a momentum of rank < 2.
    """
    scaled = g[None] * jax.lax.rsqrt(moments.v + v_eps)
    features = adafactor_features(g, p, moments, block, v_eps, vector_eps=0.0)
    return [*features, jnp.clip(g, -0.1, 0.1)[None], scaled]


def time_features(step: jax.Array) -> jax.Array:
    """[11] tanh(t / tau - 1) for tau = 1, 3, 10, ..., 1e5 (Metz et al. 2019)."""
    return jnp.tanh(step / jnp.array(TIMESCALES) - 1)


def clip_log_abs(x: jax.Array, gain: float = 1.0, scale: float = 1.0) -> jax.Array:
    """scale · clip(log(1e-8 + |gain x|), -5, 5): the order of magnitude of a statistic, as an input of a network."""
    return scale * jnp.clip(jnp.log(1e-8 + jnp.abs(gain * x)), -5, 5)


def variance(mean: jax.Array, mean_square: jax.Array) -> jax.Array:
    """mean_square - mean^2, from one pass over the data. What may be rounding alone counts as zero: |mean| large and
    the spread small would otherwise give noise, and a tensor of one number a variance."""
    var = mean_square - mean * mean
    return jnp.where(var <= 1e-6 * mean_square, 0.0, var)
