"""Persistent evolution strategies (Vicol, Metz & Sohl-Dickstein 2021, arXiv 2112.13835, algorithm 2), antithetic.

Each task carries a pair of runs. At every truncation a fresh eps ~ N(0, std^2 I) perturbs them by +-eps, and xi, the
sum of all perturbations the pair has felt since its start, is what the loss difference is multiplied with:

    xi <- xi + eps,    g = xi · (L(+) - L(-)) / (2 std^2),    xi <- 0 when the pair starts anew

Unbiased for the gradient of the smoothed whole-run loss, with unrolls of one truncation; summed over a run's
truncations, that is: each g is the share of one truncation, and L is a mean over its steps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metaopt import tree
from metaopt.estimators import _common as C
from metaopt.types import Estimator, Inner, LearnedOptimizer, PyTree, Task


class PESState(NamedTuple):
    pair: Inner  # params and opt_state [tasks, 2, ...], the rest [tasks, ...]
    xi: PyTree  # [tasks, *theta]


def pes(
    task: Task,
    optimizer: LearnedOptimizer,
    *,
    num_tasks: int = 8,
    truncation: int = 20,
    horizon: int | tuple[int, int] = 200,
    std: float = 0.01,
    chunk: int | None = None,
) -> Estimator:
    """`num_tasks` antithetic pairs, `truncation` steps each per estimate, runs of `horizon` steps (or log-uniform
    between two bounds), perturbations of standard deviation `std`; `chunk` tasks are vectorised at a time per device.

    Errors: ValueError for a horizon that is not made of whole truncations, or an argument that is not positive.
    """
    C.check(num_tasks=num_tasks, std=std, chunk=chunk)
    bounds = C.check_horizon(horizon, truncation)

    def init(theta, rank, key):
        inner = C.fresh(task, optimizer, theta, bounds, truncation, key)
        return PESState(C.doubled(C.staggered(inner, rank, num_tasks, truncation)), optax.tree.zeros_like(theta))

    def one(theta, state, data, key):
        noise_key, restart_key = jax.random.split(key)
        done = state.pair.step >= state.pair.horizon
        pair = tree.where(done, C.doubled(C.fresh(task, optimizer, theta, bounds, truncation, restart_key)), state.pair)
        noise = tree.normal_like(noise_key, theta, std)
        xi = jax.tree.map(lambda x, e: jnp.where(done, 0.0, x) + e, state.xi, noise)
        pair, losses, healthy = C.unroll_pair(task, optimizer, C.antithetic(theta, noise), pair, data, truncation)
        pair = pair._replace(horizon=jnp.where(healthy, pair.horizon, 0))  # a diverged pair starts anew next time
        metrics = {"meta_loss": losses.mean(), "diverged": 2.0 * ~healthy}
        return C.es_gradient(xi, losses, std), PESState(pair, xi), metrics

    return Estimator(C.init_tasks(init, num_tasks), C.over_tasks(one, num_tasks, chunk), num_tasks * truncation * 2)
