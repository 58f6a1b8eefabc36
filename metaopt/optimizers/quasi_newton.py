"""Quasi-Newton steps for any learned optimizer, taken where the loss is seen to be free of noise. Made for metaopt.

Networks are trained on minibatches, whose noise drowns second differences; that is what learned optimizers are for.
But on a problem without noise, a fit to few data or a function of a few numbers, two gradients tell the curvature between
them, and L-BFGS is far ahead of any rule that looks at gradients alone. This wrapper finds out which is the case and
hands over: the base's step stays as it is wherever there is noise.

**Is there noise?** With f, g the loss and gradient at p, and f', g' after a step s, f' - f = (g + g')·s/2 for a quadratic,
and up to third order in s for any smooth loss, whatever made the step. Minibatches that differ break it. So

    u = |f' - f - (g + g')·s/2| / (|f' - f| + |(g + g')·s/2|)       in [0, 1]; what may be rounding counts as 0
    U <- .8 U + .2 u,  U_0 = 1                                      the gate is open while U < noise

**Open**, p moves from the best point b so far (f_b, g_b) by a trust-region step of L-BFGS:

    b <- p  if f <= f_b, else the step is taken back
    p <- b - min(1, r R / |H g_b|) H g_b,   R = |p|, at least .01 sqrt(N)

H is the inverse Hessian of L-BFGS from the last `memory` pairs (s, y = g' - g) with s·y > 1e-4 |s||y|, open or not, H_0 =
s·y/y·y of the newest. r doubles, up to `trust`, when a step is kept, and becomes a quarter of |s|/R when it is not.
**Closed**, b is the present point, and p <- p + the base's step. The base sees every gradient in either case.

Models of more than `limit` numbers are left to the base and cost nothing. A step of quasi-Newton is a constant to
whoever differentiates: where it leads depends little on where it came from. Theta is the base's own: weights serve with
the wrapper and without. It uses the loss, as `value`; gradients that are not those of that loss (clipped, delayed, of
another batch) close the gate.

L-BFGS: Liu & Nocedal 1989; the recursion and the trust region as in Nocedal & Wright, Numerical Optimization (2006),
algorithms 7.4 and 4.1.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.custom_batching import custom_vmap
from jax.flatten_util import ravel_pytree

from metaopt.optimizers import _features as F
from metaopt.types import LearnedOptimizer, PyTree

FORGET = 0.2  # of U
ROUNDING = np.float32(4e-7)  # of a loss in float32, relative to it
CONVEX = 1e-4  # the least cosine of s and y
SMALLEST = 0.01  # of the RMS that a trust region is relative to
GROW, SHRINK = 2.0, 0.25  # of r
NONE = np.finfo(np.float32).max  # the loss before the first one
TINY = np.float32(1e-37)


class Pairs(NamedTuple):
    """The newest first. Zeros where there is none yet."""

    s: jax.Array  # s/|s|, f32 [memory, N]
    y: jax.Array  # y/|y|, f32 [memory, N]
    cosine: jax.Array  # of s and y, f32 [memory]; 0 where there is no pair
    curvature: jax.Array  # |y|/|s|, f32 [memory]


class Track(NamedTuple):
    """Where a run is in the loss's landscape; N numbers are the model's."""

    params: jax.Array  # b, f32 [N]
    grad: jax.Array  # g_b, f32 [N]
    value: jax.Array  # f_b, f32 scalar
    pairs: Pairs
    radius: jax.Array  # r, f32 scalar
    noise: jax.Array  # U, f32 scalar


class QuasiNewtonState(NamedTuple):
    base: PyTree
    track: Track | None  # None for models that are too large


def quasi_newton(
    base: LearnedOptimizer, memory: int = 10, limit: int = 4096, noise: float = 0.1, trust: float = 0.3
) -> LearnedOptimizer:
    """`base`, and L-BFGS in a trust region where the loss is free of noise.

    base: the optimizer that makes the steps elsewhere
    memory: pairs of steps and differences of gradients that L-BFGS has; the state holds 2 memory + 2 numbers more for
      each of the model's, if these are no more than
    limit: numbers in a model, above which all is left to the base
    noise: the gate opens where U, the share of a change of the loss that gradients do not explain, is below it
    trust: the longest step, relative to the model's numbers: the largest r

    Raises ValueError for a memory below one, and for noise or trust that are not positive.
    """
    for name, number in {"memory": memory, "noise": noise, "trust": trust}.items():
        if not number > 0:
            raise ValueError(f"{name}: must be positive, got {number}")

    def build(theta: PyTree, num_steps: jax.Array | int) -> optax.GradientTransformationExtraArgs:
        tx = base.build(theta, num_steps)

        def init_fn(params):
            n = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
            return QuasiNewtonState(tx.init(params), _start(n, memory, trust) if 0 < n <= limit else None)

        def update_fn(grads, state, params=None, *, value, **extra):
            updates, inner = tx.update(grads, state.base, params, value=value, **extra)
            if state.track is None:
                return updates, QuasiNewtonState(inner, None)
            wide = jax.tree.map(lambda x: jax.lax.stop_gradient(x).astype(jnp.float32), (params, grads))
            (p, unravel), (g, _) = map(ravel_pytree, wide)
            value = jax.lax.stop_gradient(jnp.asarray(value, jnp.float32))
            track, to, open = _follow(state.track, p, F.clean(g), value, noise, trust)
            updates = jax.tree.map(
                lambda u, x, p: jnp.where(open, (x - p.astype(jnp.float32)).astype(u.dtype), u),
                updates,
                unravel(to),
                params,
            )
            return updates, QuasiNewtonState(inner, track)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return LearnedOptimizer(base.init, build)


def _start(n: int, memory: int, trust: float) -> Track:
    pairs = Pairs(jnp.zeros((memory, n)), jnp.zeros((memory, n)), jnp.zeros(memory), jnp.zeros(memory))
    return Track(jnp.zeros(n), jnp.zeros(n), jnp.float32(NONE), pairs, jnp.float32(trust), jnp.float32(1.0))


def _follow(
    old: Track, p: jax.Array, g: jax.Array, value: jax.Array, noise: float, trust: float
) -> tuple[Track, jax.Array, jax.Array]:
    """-> (the track with this point in it; where a quasi-Newton step leads, [N]; whether it is to be taken)"""
    s, begun = p - old.params, old.value < NONE
    level = old.noise + FORGET * (_unexplained(old, s, g, value) - old.noise)
    open = level < noise
    pairs = _paired(old.pairs, s, g - old.grad, begun)
    back = open & ~(value <= old.value + ROUNDING * jnp.abs(old.value))  # from a loss that is NaN as well
    point = jax.tree.map(lambda a, b: jnp.where(back, a, b), (old.params, old.grad, old.value), (p, g, value))
    size = jnp.maximum(_norm(point[0]), SMALLEST * math.sqrt(p.size))
    radius = jnp.where(back, SHRINK * jnp.minimum(_norm(s) / size, old.radius), jnp.where(open, GROW, 1.0) * old.radius)
    radius = jnp.clip(radius, TINY, trust)
    step = _direction(open, point[1], pairs)
    step = jnp.minimum(1.0, radius * size / (_norm(step) + TINY)) * step
    open = open & (pairs.cosine[0] > 0) & jnp.all(jnp.isfinite(step))
    return Track(*point, pairs, radius, level), point[0] - step, open


def _unexplained(old: Track, s: jax.Array, g: jax.Array, value: jax.Array) -> jax.Array:
    """u"""
    found, told = value - old.value, jnp.sum((g + old.grad) * s) / 2
    error = jnp.abs(found - told) - ROUNDING * (jnp.abs(value) + jnp.abs(old.value))
    share = jnp.maximum(error, 0.0) / (jnp.abs(found) + jnp.abs(told) + TINY)
    return jnp.where(jnp.isfinite(share), jnp.minimum(share, 1.0), 1.0)


def _paired(old: Pairs, s: jax.Array, y: jax.Array, begun: jax.Array) -> Pairs:
    """With the pair of the last step, if it is one and the loss convex along it."""
    (s, length), (y, change) = _unit(s), _unit(y)
    cosine, curvature = jnp.sum(s * y), change / (length + TINY)
    valid = begun & (cosine > CONVEX) & (curvature > TINY) & (curvature < 1 / TINY)
    new = Pairs(s, y, cosine, curvature)
    return jax.tree.map(lambda x, kept: jnp.where(valid, jnp.concatenate([x[None], kept[:-1]]), kept), new, old)


@custom_vmap
def _direction(needed: jax.Array, g: jax.Array, pairs: Pairs) -> jax.Array:
    """H g [N]; for arrays of any leading axes, those of `needed`. Nothing is computed where none needs it: the rule for
    `vmap` is the function itself with one more leading axis, where that of `cond` would compute both branches for all.
    """

    def run():
        of_one = _recursion
        for _ in needed.shape:
            of_one = jax.vmap(of_one)
        return of_one(g, pairs)

    return jax.lax.cond(jnp.any(needed), run, lambda: g)


@_direction.def_vmap
def _(size, batched, *args):
    args = jax.tree.map(lambda has, x: x if has else jnp.broadcast_to(x, (size, *x.shape)), batched, list(args))
    return _direction(*args), True


def _recursion(g: jax.Array, pairs: Pairs) -> jax.Array:
    """H g, with s and y of unit length: their lengths matter through curvatures alone."""
    there = pairs.cosine > 0
    inverse = jnp.where(there, 1 / jnp.where(there, pairs.cosine, 1.0), 0.0)
    shares = []
    for s, y, c in zip(pairs.s, pairs.y, inverse, strict=True):
        shares.append(c * jnp.sum(s * g))
        g = g - shares[-1] * y
    flat = 1 / jnp.maximum(pairs.curvature, TINY)
    x = pairs.cosine[0] * flat[0] * g
    for s, y, c, share, k in reversed(list(zip(pairs.s, pairs.y, inverse, shares, flat, strict=True))):
        x = x + (share * k - c * jnp.sum(y * x)) * s
    return x


def _norm(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(x)))


def _unit(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x/|x|, |x|; without squares of small numbers, which would be zero."""
    largest = jnp.maximum(jnp.max(jnp.abs(x)), TINY)
    x = x / largest
    length = jnp.maximum(_norm(x), TINY)
    return x / length, length * largest
