"""Truncated evolution strategies, antithetic: cheap and, unlike PES, biased (Vicol et al. 2021, section 3).

Each task carries one run. At every truncation two copies of it are unrolled under theta +- eps, and

    g = eps · (L(+) - L(-)) / (2 std^2)

The copy that felt +eps is carried on. How theta shaped the state that a truncation starts from is forgotten: that is
the bias. With horizon = truncation it equals `es`.
"""

import jax
import jax.numpy as jnp

from metaopt import tree
from metaopt.estimators import _common as C
from metaopt.types import Estimator, LearnedOptimizer, Task


def truncated_es(
    task: Task,
    optimizer: LearnedOptimizer,
    *,
    num_tasks: int = 8,
    truncation: int = 20,
    horizon: int | tuple[int, int] = 200,
    std: float = 0.01,
    chunk: int | None = None,
) -> Estimator:
    """`num_tasks` antithetic pairs, `truncation` steps each per estimate; state: one Inner [tasks, ...].

    Errors: ValueError for a horizon that is not made of whole truncations, or an argument that is not positive.
    """
    C.check(num_tasks=num_tasks, std=std, chunk=chunk)
    bounds = C.check_horizon(horizon, truncation)

    def init(theta, rank, key):
        return C.staggered(C.fresh(task, optimizer, theta, bounds, truncation, key), rank, num_tasks, truncation)

    def one(theta, inner, data, key):
        noise_key, restart_key = jax.random.split(key)
        start = C.fresh(task, optimizer, theta, bounds, truncation, restart_key)
        inner = tree.where(inner.step >= inner.horizon, start, inner)
        noise = tree.normal_like(noise_key, theta, std)
        thetas = C.antithetic(theta, noise)
        pair, losses, healthy = C.unroll_pair(task, optimizer, thetas, C.doubled(inner), data, truncation)
        params, opt_state = jax.tree.map(lambda x: x[0], (pair.params, pair.opt_state))
        horizon = jnp.where(healthy, pair.horizon, 0)  # a diverged run starts anew next time
        inner = pair._replace(params=params, opt_state=opt_state, horizon=horizon)
        metrics = {"meta_loss": losses.mean(), "diverged": 2.0 * ~healthy}
        return C.es_gradient(noise, losses, std), inner, metrics

    return Estimator(C.init_tasks(init, num_tasks), C.over_tasks(one, num_tasks, chunk), num_tasks * truncation * 2)
