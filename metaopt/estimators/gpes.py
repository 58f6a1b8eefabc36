"""Generalised persistent evolution strategies: one perturbation lasts for `period` steps (Li, Zaheer, Lotfi & Smith
2023, arXiv 2304.12180, section 3), antithetic.

Each task carries a pair of runs under theta +- eps. A fresh eps ~ N(0, std^2 I) is drawn at steps 0, period, 2 period,
... of a run, and xi sums the perturbations it has felt:

    xi <- xi + eps where eps is new,    g = xi · (L(+) - L(-)) / (2 std^2),    xi <- 0 when the pair starts anew

with L the truncation's share of the outer loss. period = truncation is PES. With one perturbation for the whole run it
is NRES, noise-reuse ES (the same paper), or ES-Single (arXiv 2304.11153): the average over a run's truncations then is
the estimate of ES over the whole run, whose gradient it is unbiased for.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metaopt import tree
from metaopt.estimators import _common as C
from metaopt.estimators._horizons import Horizon
from metaopt.estimators._outer_losses import OuterLoss, mean
from metaopt.types import Estimator, Inner, LearnedOptimizer, Task


class GPESState(NamedTuple):
    pair: Inner  # params and opt_state [tasks * pairs, 2, ...], the rest [tasks * pairs, ...]
    noise: jax.Array  # eps [tasks * pairs, numbers of theta]
    xi: jax.Array  # [tasks * pairs, numbers of theta]


def gpes(
    task: Task,
    optimizer: LearnedOptimizer,
    *,
    num_tasks: int = 8,
    truncation: int = 20,
    horizon: Horizon = 200,
    std: float = 0.01,
    period: int | None = None,
    pairs: int = 1,
    outer_loss: OuterLoss = mean(),
    clip_diff: float | None = None,
    sign_diff: float | None = None,
    chunk: int | None = None,
) -> Estimator:
    """A pair that diverges starts anew.

    num_tasks: members of the family side by side
    truncation: steps per estimate
    horizon: steps of a whole run: a number, a range (log-uniform), or a law
    std: of the perturbations
    period: steps that one perturbation lasts, a multiple of the truncation; null: the whole run
    pairs: antithetic pairs per task, all on its member and batches
    outer_loss: what theta is judged by
    clip_diff: bound on the difference of a pair's losses; null: none
    sign_diff: take this times the sign of the difference in its place; null: the difference
    chunk: pairs vectorised at a time per device; null: all

    Errors: ValueError for a horizon or a period that is not made of whole truncations, or an argument that is not
    positive.
    """
    setup = C.setup(
        task,
        optimizer,
        truncation,
        horizon,
        outer_loss,
        num_tasks=num_tasks,
        std=std,
        period=period,
        pairs=pairs,
        clip_diff=clip_diff,
        sign_diff=sign_diff,
        chunk=chunk,
    )
    if period is not None and period % truncation:
        raise ValueError(f"period: {period} must be a multiple of truncation={truncation}")

    def init(theta, fraction, key):
        zeros = jnp.zeros_like(theta)
        return GPESState(C.doubled(C.first(setup, theta, fraction, key)), zeros, zeros)

    def one(theta, state, data, call):
        done = C.ended(state.pair)
        pair = tree.where(done, C.doubled(C.fresh(setup, theta, call.estimates, call.restart)), state.pair)
        new = pair.step == 0 if period is None else pair.step % period == 0
        noise = jnp.where(new, C.perturbation(theta, call.noise, std), state.noise)
        xi = jnp.where(done, 0.0, state.xi) + jnp.where(new, noise, 0.0)
        pair, shares = C.unroll_pair(setup, C.antithetic(theta, noise), pair, data)
        difference, finite = C.difference(shares.share, clip_diff, sign_diff)
        state = GPESState(C.stopped(pair, shares.healthy), noise, xi)
        return C.es_gradient(xi, difference, std), state, C.metrics(shares, finite)

    return Estimator(*C.over_tasks(init, one, num_tasks, chunk, pairs), 2 * num_tasks * pairs * truncation)
