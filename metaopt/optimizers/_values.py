"""Hyper-parameters as the unconstrained numbers u that theta holds, by name.

    h = exp(u)           for rates, scales and shares, which are positive (learning_rate, eps, weight_decay, ...)
    h = 1 - exp(u)       for decays (b1, b2, decay, momentum, ...), so that u = log(1 - h)
    h = u                for what is blended (nesterov)

Equal steps in theta are then equal factors in what matters. Zero, u = -inf (of a decay, one), is exact and stays where
it is: the derivative there is zero.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

DECAYS = frozenset(
    {"b1", "b2", "b3", "decay", "momentum", "beta", "beta1", "beta2", "beta3", "mu", "rho", "adam_b1", "adam_b2"}
)
BLENDS = frozenset({"nesterov"})


def theta_of(values: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    """u of each h, float32, of any shape. Raises ValueError for one out of its range."""
    return {name: _unconstrained(name, np.asarray(h, np.float64)).astype(np.float32) for name, h in values.items()}


def values_of(theta: Mapping[str, ArrayLike]) -> dict[str, jax.Array]:
    """h of each u, of any shape; inside jit as well."""
    return {name: _natural(name, jnp.asarray(u)) for name, u in theta.items()}


def _unconstrained(name: str, h: np.ndarray) -> np.ndarray:
    if name in BLENDS:
        return h
    decay = name in DECAYS
    if not np.all((h >= 0) & (h <= 1) if decay else h >= 0):
        raise ValueError(f"{name}: {'a decay lies in [0, 1]' if decay else 'must not be negative'}, got {h}")
    with np.errstate(divide="ignore"):
        return np.log1p(-h) if decay else np.log(h)


def _natural(name: str, u: jax.Array) -> jax.Array:
    if name in BLENDS:
        return u
    return -jnp.expm1(u) if name in DECAYS else jnp.exp(u)
