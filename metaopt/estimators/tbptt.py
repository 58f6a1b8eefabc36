"""Truncated backpropagation through time: the exact gradient of one truncation, blind to all before it.

    g = d/dtheta mean_t l_t(theta; s),    s the run's state at the start of the truncation, held fixed

Second derivatives of the inner problem are taken in full. With truncation = horizon it is the exact gradient of the
whole-run loss; shorter, it is biased (Metz et al. 2019, section 3).
"""

import jax
import jax.numpy as jnp

from metaopt import tree
from metaopt.estimators import _common as C
from metaopt.types import Estimator, LearnedOptimizer, Task
from metaopt.unroll import unroll


def tbptt(
    task: Task,
    optimizer: LearnedOptimizer,
    *,
    num_tasks: int = 8,
    truncation: int = 20,
    horizon: int | tuple[int, int] = 200,
    chunk: int | None = None,
) -> Estimator:
    """`num_tasks` runs, `truncation` steps each per estimate; state: one Inner [tasks, ...]. A task whose gradient is
    not finite counts as zero and its run starts anew.

    Errors: ValueError for a horizon that is not made of whole truncations, or an argument that is not positive.
    """
    C.check(num_tasks=num_tasks, chunk=chunk)
    bounds = C.check_horizon(horizon, truncation)

    def init(theta, rank, key):
        return C.staggered(C.fresh(task, optimizer, theta, bounds, truncation, key), rank, num_tasks, truncation)

    def one(theta, inner, data, key):
        start = C.fresh(task, optimizer, theta, bounds, truncation, key)
        inner = tree.where(inner.step >= inner.horizon, start, inner)

        def meta_loss(theta):
            end, losses = unroll(task, optimizer, theta, inner, data, truncation)
            return task.normalize(inner.cfg, losses).mean(), (end, losses)

        (loss, (end, losses)), grad = jax.value_and_grad(meta_loss, has_aux=True)(theta)
        healthy = tree.all_finite((end.params, end.opt_state, losses, grad))
        grad = jax.tree.map(lambda g: jnp.where(healthy, g, 0.0), grad)
        end = end._replace(horizon=jnp.where(healthy, end.horizon, 0))
        return grad, end, {"meta_loss": loss, "diverged": 1.0 * ~healthy}

    return Estimator(C.init_tasks(init, num_tasks), C.over_tasks(one, num_tasks, chunk), num_tasks * truncation)
