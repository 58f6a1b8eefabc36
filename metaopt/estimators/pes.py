"""Persistent evolution strategies (Vicol, Metz & Sohl-Dickstein 2021, arXiv 2112.13835, algorithm 2), antithetic.

Each task carries a pair of runs. At every truncation a fresh eps ~ N(0, std^2 I) perturbs them by +-eps, and xi, the
sum of all perturbations the pair has felt since its start, is what the difference of their shares of the outer loss is
multiplied with:

    xi <- xi + eps,    g = xi · (L(+) - L(-)) / (2 std^2),    xi <- 0 when the pair starts anew

Unbiased for the gradient of the smoothed whole-run loss, with unrolls of one truncation; averaged over a run's
truncations, that is: each g is the share of one. With the outer loss `final` the shares telescope (section 5).

`analytic` subtracts a control variate and adds its mean (section 5 as well): with p the mean over the pair of the
truncation's own gradient at theta, which does not know eps,

    g = xi · ((L(+) - L(-)) / 2 - eps · p) / std^2 + p

E[xi (eps · p)] / std^2 = p, so it is unbiased too. It takes away the noise of what one truncation does to itself.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metaopt import tree
from metaopt.estimators import _common as C
from metaopt.estimators._horizons import Horizon
from metaopt.estimators._outer_losses import OuterLoss, mean
from metaopt.types import Estimator, Inner, LearnedOptimizer, PyTree, Task


class PESState(NamedTuple):
    pair: Inner  # params and opt_state [tasks * pairs, 2, ...], the rest [tasks * pairs, ...]
    xi: jax.Array  # [tasks * pairs, numbers of theta]


def pes(
    task: Task,
    optimizer: LearnedOptimizer,
    *,
    num_tasks: int = 8,
    truncation: int = 20,
    horizon: Horizon = 200,
    std: float = 0.01,
    pairs: int = 1,
    outer_loss: OuterLoss = mean(),
    analytic: bool = False,
    clip_diff: float | None = None,
    sign_diff: float | None = None,
    chunk: int | None = None,
) -> Estimator:
    """A pair that diverges starts anew.

    num_tasks: members of the family side by side
    truncation: steps per estimate
    horizon: steps of a whole run: a number, a range (log-uniform), or a law
    std: of the perturbations
    pairs: antithetic pairs per task, all on its member and batches
    outer_loss: what theta is judged by
    analytic: use each truncation's own gradient as a control variate
    clip_diff: bound on the difference of a pair's losses; null: none
    sign_diff: take this times the sign of the difference in its place; null: the difference
    chunk: pairs vectorised at a time per device; null: all

    Errors: ValueError for a horizon that is not made of whole truncations, an argument that is not positive, or
    `analytic` with clip_diff or sign_diff, which would take its mean away.
    """
    setup = C.setup(
        task,
        optimizer,
        truncation,
        horizon,
        outer_loss,
        num_tasks=num_tasks,
        std=std,
        pairs=pairs,
        clip_diff=clip_diff,
        sign_diff=sign_diff,
        chunk=chunk,
    )
    if analytic and (clip_diff is not None or sign_diff is not None):
        raise ValueError("analytic: its control variate needs the differences as they are: no clip_diff, no sign_diff")

    def init(theta, fraction, key):
        return PESState(C.doubled(C.first(setup, theta, fraction, key)), jnp.zeros_like(theta))

    def one(theta, state, data, call):
        done = C.ended(state.pair)
        pair = tree.where(done, C.doubled(C.fresh(setup, theta, call.estimates, call.restart)), state.pair)
        noise = C.perturbation(theta, call.noise, std)
        xi = jnp.where(done, 0.0, state.xi) + noise
        after, shares = C.unroll_pair(setup, C.antithetic(theta, noise), pair, data)
        difference, finite = C.difference(shares.share, clip_diff, sign_diff)
        if analytic:
            own = own_gradient(setup._replace(remat=True), theta, pair, data)
            grad = C.es_gradient(xi, difference - 2 * jnp.sum(noise * own), std) + own
        else:
            grad = C.es_gradient(xi, difference, std)
        return grad, PESState(C.stopped(after, shares.healthy), xi), C.metrics(shares, finite)

    steps = 2 * num_tasks * pairs * truncation
    return Estimator(*C.over_tasks(init, one, num_tasks, chunk, pairs), 2 * steps if analytic else steps)


def own_gradient(setup: C.Setup, theta: jax.Array, pair: Inner, data: PyTree) -> jax.Array:
    """Mean over the pair of d/dtheta of the coming truncation's share; zero where it is not finite."""

    def share(theta: jax.Array, run: Inner) -> jax.Array:
        return C.segment(setup, theta, run, data)[1].share

    own = jax.vmap(jax.grad(share), (None, C.PAIR))(theta, pair).mean(0)
    return jnp.where(jnp.isfinite(own).all(), own, 0.0)
