"""How long inner runs are: laws that a run's horizon is drawn from when it starts. Each run of a batch draws its own.

A law is rounded to the nearest multiple of the truncation, so that a run ends where a truncation ends.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Law(NamedTuple):
    """steps(u, truncation, estimates) -> f32 scalar in [low, high] but for rounding; u is uniform on [0, 1), and
    `estimates` is how many the estimator has made: the outer step."""

    steps: Callable[[jax.Array, int, jax.Array], jax.Array]
    low: int
    high: int


Horizon = Law | int | tuple[int, int]  # a number stands for `constant`, a pair for `log_uniform`


def constant(steps: int = 200) -> Law:
    """The same for all runs."""
    return Law(lambda u, truncation, estimates: jnp.float32(steps), steps, steps)


def uniform(low: int = 100, high: int = 1000) -> Law:
    """Every multiple of the truncation from low to high equally often."""
    return Law(lambda u, truncation, estimates: low - truncation / 2 + u * (high - low + truncation), low, high)


def log_uniform(low: int = 100, high: int = 1000) -> Law:
    """Uniform on a logarithmic scale: as many runs from 100 to 200 as from 500 to 1,000."""
    return Law(lambda u, truncation, estimates: low * jnp.exp(u * jnp.log(high / low)), low, high)


def curriculum(low: int = 100, high: int = 1000, over: int = 1000) -> Law:
    """low (high / low)^min(1, i / over) at outer step i: runs that start later are longer.

    over: outer steps until runs are `high` steps long
    """
    if over < 1:
        raise ValueError(f"over: must be positive, got {over}")
    return Law(lambda u, truncation, estimates: low * (high / low) ** jnp.minimum(estimates / over, 1.0), low, high)


def law(horizon: Horizon, truncation: int) -> Law:
    """The law that `horizon` stands for. Raises ValueError unless its ends are positive multiples of the truncation."""
    if not isinstance(horizon, Law):
        horizon = constant(horizon) if isinstance(horizon, int) else log_uniform(*horizon)
    _, low, high = horizon
    if not 0 < low <= high or low % truncation or high % truncation:
        ends = str(low) if low == high else f"({low}, {high})"
        raise ValueError(
            f"horizon: {ends} must be made of positive multiples of truncation={truncation}, low before high"
        )
    return horizon


def sample(law: Law, truncation: int, estimates: jax.Array, key: jax.Array) -> jax.Array:
    """A horizon: i32 scalar, a multiple of the truncation."""
    steps = law.steps(jax.random.uniform(key, ()), truncation, estimates)
    return jnp.clip(jnp.round(steps / truncation).astype(jnp.int32) * truncation, law.low, law.high)
