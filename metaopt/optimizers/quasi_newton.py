"""Quasi-Newton steps for any learned optimizer, taken where the loss is seen to be free of noise. Made for metaopt.

Networks are trained on minibatches, whose noise drowns second differences; learned optimizers are made for that. But
on a problem without noise, a fit to few data or a function of a few numbers, two gradients tell the curvature between
them, and L-BFGS is far ahead of rules that look at gradients alone. This wrapper finds out which is the case, from the
losses and gradients that it is given anyway. Where there is noise the base's steps stay as they are.

**Is there noise?** With f, g the loss and its gradient at p, and f', g' after a step s, f' - f = (g + g')·s/2 for a
quadratic, and up to third order in s for any smooth loss, whoever made the step. Other minibatches break it. So

    u = max(0, |f' - f - (g + g')·s/2| - e) / (|f' - f| + |(g + g')·s/2|), at most 1;   U <- .8 U + .2 u,  from U = 1

and the gate is open while U < noise. e is what may be rounding, 4e-7 (f + f') + 6e-8 sqrt(f F), F the largest loss so
far: of the losses themselves, and of differences of numbers of the order sqrt(F) whose squares are summed.

**Open**, p moves from b by a trust-region step of L-BFGS:

    p <- b - min(1, r R / |H g_b|) H g_b,   R = max(|b|, sqrt(N)/100) for a model of N numbers
    b <- p  if f <= f_b + e; otherwise the step is taken back, and another one made, be the gate open then or not

H is the inverse Hessian of L-BFGS, of the last `memory` pairs (s, y = g' - g) with s·y > 1e-4 |s||y|, whether it was
open or not, from H_0 = s·y/y·y of the newest. r doubles, up to `trust`, when a step is kept, and becomes a quarter of
|s|/R when it is not. **Closed**, p moves by the base's step and b is the present point. The base sees every gradient.

Models of more than `limit` numbers are left to the base, at no cost. Quasi-Newton steps are constants to whoever
differentiates: where they lead depends little on where they came from. Theta is the base's own: weights serve with
the wrapper and without. It uses the loss, as `value`; gradients that are not those of that loss (clipped, late, of
other data) close the gate.

L-BFGS: Liu & Nocedal 1989, "On the limited memory BFGS method for large scale optimization"; the recursion and the
trust region as in Nocedal & Wright 2006, "Numerical Optimization", algorithms 7.4 and 4.1.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.custom_batching import custom_vmap
from jax.flatten_util import ravel_pytree

from metaopt import tree
from metaopt.types import LearnedOptimizer, PyTree

FORGET = 0.2  # of U
ROUNDING, RESIDUAL = np.float32(4e-7), np.float32(6e-8)  # of a loss in float32, relative to it, and of a residual
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
    highest: jax.Array  # of the losses so far, F, f32 scalar
    taken: jax.Array  # bool scalar: the last step was of quasi-Newton


class QuasiNewtonState(NamedTuple):
    base: PyTree
    track: Track | None  # None for models that are too large


def quasi_newton(
    base: LearnedOptimizer, memory: int = 10, limit: int = 4096, noise: float = 0.1, trust: float = 0.3
) -> LearnedOptimizer:
    """`base`, and L-BFGS in a trust region where the loss is free of noise.

    base: the optimizer that makes the steps elsewhere
    memory: pairs of steps and differences of gradients that L-BFGS has; the state holds 2 memory + 2 numbers more for
      each of the model's
    limit: numbers in a model, above which all is left to the base and the state is the base's
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
            (p, unravel), (g, _) = (ravel_pytree(jax.tree.map(_wide, x)) for x in (params, grads))
            track, to, taken = _follow(state.track, p, g, _wide(value), noise, trust)
            track = jax.tree.map(lambda new, old: new.astype(old.dtype), track, state.track)
            ours = jax.tree.map(lambda x, p: (x - p.astype(x.dtype)).astype(p.dtype), unravel(to), params)
            return tree.where(taken, ours, updates), QuasiNewtonState(inner, track)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return LearnedOptimizer(base.init, build)


def _wide(x: jax.Array) -> jax.Array:
    """A constant to whoever differentiates, of float32 at least."""
    x = jax.lax.stop_gradient(jnp.asarray(x))
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _start(n: int, memory: int, trust: float) -> Track:
    pairs = Pairs(jnp.zeros((memory, n)), jnp.zeros((memory, n)), jnp.zeros(memory), jnp.zeros(memory))
    radius, noise, highest = (jnp.float32(x) for x in (trust, 1.0, 0.0))
    return Track(jnp.zeros(n), jnp.zeros(n), jnp.float32(NONE), pairs, radius, noise, highest, taken=jnp.array(False))


def _follow(
    old: Track, p: jax.Array, g: jax.Array, value: jax.Array, noise: float, trust: float
) -> tuple[Track, jax.Array, jax.Array]:
    """-> (the track with this point in it; where a quasi-Newton step leads, [N]; whether it is to be taken)"""
    s, begun = p - old.params, old.value < NONE
    highest = jnp.where(jnp.isfinite(value), jnp.maximum(old.highest, jnp.abs(value)), old.highest)
    rounding = _rounding(jnp.abs(value), jnp.abs(old.value), highest)
    u = jnp.where(begun, _unexplained(value - old.value, jnp.sum((g + old.grad) * s) / 2, rounding), 1.0)
    level = old.noise + FORGET * (u - old.noise)
    open = level < noise
    pairs = _paired(old.pairs, s, g - old.grad, begun)
    back = old.taken & ~((value <= old.value + rounding) & jnp.isfinite(value))
    b, g, value = tree.where(back, (old.params, old.grad, old.value), (p, g, value))
    size = jnp.maximum(_norm(b), SMALLEST * math.sqrt(p.size))
    tried = jnp.minimum(_norm(s) / size, old.radius)
    radius = jnp.where(back, SHRINK * tried, jnp.where(old.taken, GROW, 1.0) * old.radius)
    radius = jnp.clip(radius, TINY, trust)
    step = _direction(open | back, g, pairs)
    step = jnp.minimum(1.0, radius * size / (_norm(step) + TINY)) * step
    taken = (open | back) & (pairs.cosine[0] > 0) & jnp.all(jnp.isfinite(step))
    return Track(b, g, value, pairs, radius, level, highest, taken), b - step, taken


def _rounding(f: jax.Array, before: jax.Array, highest: jax.Array) -> jax.Array:
    """e"""
    return ROUNDING * (f + before) + RESIDUAL * jnp.sqrt(jnp.maximum(f, before)) * jnp.sqrt(highest)


def _unexplained(found: jax.Array, told: jax.Array, rounding: jax.Array) -> jax.Array:
    """u, of f' - f and (g + g')·s/2"""
    error = jnp.maximum(jnp.abs(found - told) - rounding, 0.0)
    share = error / (jnp.abs(found) + jnp.abs(told) + TINY)
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
