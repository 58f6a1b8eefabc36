"""Evolution strategies over whole runs (Metz et al. 2019, arXiv 1810.10180, section 4; antithetic).

For each task a fresh pair of runs of `horizon` steps under theta +- eps, eps ~ N(0, std^2 I):

    g = eps · (L(theta + eps) - L(theta - eps)) / (2 std^2),    L = mean normalised loss over the run

Unbiased for the gradient of the smoothed meta-loss E[L(theta + eps)], whatever std.
"""

import jax
import jax.numpy as jnp

from metaopt import tree
from metaopt.estimators import _common as C
from metaopt.types import Estimator, LearnedOptimizer, Task


def es(
    task: Task,
    optimizer: LearnedOptimizer,
    *,
    num_tasks: int = 8,
    horizon: int = 200,
    std: float = 0.01,
    chunk: int | None = None,
) -> Estimator:
    """`num_tasks` antithetic pairs, each unrolled over `horizon` steps. Errors: ValueError for what is not positive."""
    C.check(num_tasks=num_tasks, horizon=horizon, std=std, chunk=chunk)

    def one(theta, state, data, key):
        noise_key, start_key = jax.random.split(key)
        noise = tree.normal_like(noise_key, theta, std)
        pair = C.doubled(C.fresh(task, optimizer, theta, (horizon, horizon), horizon, start_key))
        _, losses, healthy = C.unroll_pair(task, optimizer, C.antithetic(theta, noise), pair, data, horizon)
        metrics = {"meta_loss": losses.mean(), "diverged": 2.0 * ~healthy}
        return C.es_gradient(noise, losses, std), state, metrics

    def init(theta, fraction, key):
        return jnp.zeros(())  # nothing is carried from one estimate to the next

    return Estimator(C.init_tasks(init, num_tasks), C.over_tasks(one, num_tasks, chunk), num_tasks * horizon * 2)
