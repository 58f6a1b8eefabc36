"""What `nadamw8p` and `adam8p` share: Adam (Kingma & Ba 2015, arXiv 1412.6980) with every hyper-parameter in theta. At
t = 0, 1, ..., with c_k = 1 - b1^k

    g <- g + l2 p + l1 sign(p)
    m <- b1 m + (1 - b1) g        v <- b2 v + (1 - b2) g^2
    d  = (1 - nesterov) m / c_(t+1) + nesterov (b1 m / c_(t+2) + (1 - b1) g / c_(t+1))
    p <- p - learning_rate · factor(t) · (d / (sqrt(v / (1 - b2^(t+1))) + eps) + weight_decay · p)

that is optax's adam, adamw (nesterov 0) or nadamw (nesterov 1). theta holds log(1 - b), not b, so 1 - b and
1 - b^k = -expm1(k log1p(-(1 - b))) are exact however near to one b is. State is float32.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from metaopt.optimizers._values import theta_of, values_of
from metaopt.types import LearnedOptimizer, PyTree


class Terms(NamedTuple):
    """What a step has beside the learning rate, b1, b2 and eps."""

    factor: jax.Array  # of the learning rate
    l1: ArrayLike = 0.0
    l2: ArrayLike = 0.0
    nesterov: ArrayLike = 0.0
    weight_decay: ArrayLike = 0.0


class AdamState(NamedTuple):
    step: jax.Array  # i32 scalar, t
    m: PyTree  # f32, like the params
    v: PyTree


def adam_like(
    start: dict[str, float], terms: Callable[[dict[str, jax.Array], jax.Array, jax.Array | int], Terms]
) -> LearnedOptimizer:
    """Every value of `start` is a float32 scalar of theta; terms(values, t, num_steps).

    Raises ValueError for a value that is out of its range.
    """
    first = theta_of(start)

    def init(key: jax.Array) -> PyTree:
        del key
        return jax.tree.map(jnp.asarray, first)

    def build(theta: PyTree, num_steps: jax.Array | int) -> optax.GradientTransformationExtraArgs:
        h, rest1, rest2 = values_of(theta), jnp.exp(theta["b1"]), jnp.exp(theta["b2"])  # rest: 1 - b

        def init_fn(params):
            m, v = (jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params) for _ in range(2))
            return AdamState(jnp.zeros((), jnp.int32), m, v)

        def update_fn(grads, state, params=None, **extra):
            del extra
            term, t = terms(h, state.step, num_steps), state.step
            now, later = _correction(rest1, t + 1), _correction(rest1, t + 2)
            of_m = (1 - term.nesterov) / now + term.nesterov * h["b1"] / later
            of_g = term.nesterov * rest1 / now
            of_v = jax.lax.rsqrt(_correction(rest2, t + 1))
            rate = h["learning_rate"] * term.factor

            def leaf(g, m, v, p):
                p32 = p.astype(jnp.float32)
                g = g.astype(jnp.float32) + term.l2 * p32 + term.l1 * jnp.sign(p32)
                m, v = h["b1"] * m + rest1 * g, h["b2"] * v + rest2 * (g * g)
                d = (of_m * m + of_g * g) / (of_v * _root(v) + h["eps"]) + term.weight_decay * p32
                return (-rate * d).astype(p.dtype), m, v

            results = jax.tree.map(leaf, grads, state.m, state.v, params)
            updates, m, v = jax.tree.transpose(jax.tree.structure(grads), jax.tree.structure((0, 0, 0)), results)
            return updates, AdamState(t + 1, m, v)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return LearnedOptimizer(init, build)


def _correction(rest: jax.Array, k: jax.Array) -> jax.Array:
    """1 - b^k, of 1 - b."""
    return -jnp.expm1(k * jnp.log1p(-rest))


def _root(v: jax.Array) -> jax.Array:
    """sqrt(v), with a derivative of zero at zero."""
    zero = v == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, v)))
