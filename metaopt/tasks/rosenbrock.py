"""Rosenbrock's valley (1960): a curved, badly conditioned problem that is not convex.

f(x) = sum_i 100 s (x_{i+1} - x_i^2)^2 + (1 - x_i)^2,   minimum 0 at (1, ..., 1);   x_0 uniform in [-2.048, 2.048]^dim

Rosenbrock, "An automatic method for finding the greatest or least value of a function"; the box is De Jong's (1975).
Among the fixed test functions of TaskSet, arXiv 2002.11887.
"""

import jax
import jax.numpy as jnp

from metaopt.tasks._nets import bounded, sample_scale
from metaopt.types import Task

BOX = 2.048


def rosenbrock(dim: int = 2, steepness: float | tuple[float, float] = 1.0) -> Task:
    """Members differ in their start and in how steep the walls are; no data, no minibatch noise.

    dim: number of coordinates, at least 2
    steepness: the factor s on 100, or the two ends of a log-uniform range

    Normalised loss = loss / E[initial loss], bounded; with U = 2.048 that is (dim - 1) (100 s (U^2/3 + U^4/5) + 1 +
    U^2/3). Raises ValueError for dim < 2.
    """
    if dim < 2:
        raise ValueError(f"dim: {dim}, expected at least 2")

    def sample(key):
        return {"walls": 100 * sample_scale(key, steepness)}

    def init(cfg, key):
        return {"x": jax.random.uniform(key, (dim,), jnp.float32, -BOX, BOX)}

    def batch(cfg, data, key, split):
        return {}

    def loss(cfg, params, batch, key):
        x = params["x"].astype(jnp.promote_types(params["x"].dtype, jnp.float32))
        valley = cfg["walls"] * jnp.square(x[1:] - jnp.square(x[:-1]))
        return jnp.sum(valley + jnp.square(1 - x[:-1])), {}

    def normalize(cfg, loss):
        expected = (dim - 1) * (cfg["walls"] * (BOX**2 / 3 + BOX**4 / 5) + 1 + BOX**2 / 3)
        return bounded(loss / expected)

    return Task(sample, init, batch, loss, normalize, dict)
