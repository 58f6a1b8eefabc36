"""Truncated evolution strategies, antithetic: cheap and, unlike PES, biased (Vicol et al. 2021, section 3).

Each task carries one run. At every truncation two copies of it are unrolled under theta +- eps, and with L the
truncation's share of the outer loss

    g = eps · (L(+) - L(-)) / (2 std^2)

The copy that felt +eps is carried on. How theta shaped the state that a truncation starts from is forgotten: that is
the bias. With horizon = truncation it equals `es`.
"""

from metaopt import tree
from metaopt.estimators import _common as C
from metaopt.estimators._horizons import Horizon
from metaopt.estimators._outer_losses import OuterLoss, mean
from metaopt.types import Estimator, LearnedOptimizer, Task


def truncated_es(
    task: Task,
    optimizer: LearnedOptimizer,
    *,
    num_tasks: int = 8,
    truncation: int = 20,
    horizon: Horizon = 200,
    std: float = 0.01,
    pairs: int = 1,
    outer_loss: OuterLoss = mean(),
    clip_diff: float | None = None,
    sign_diff: float | None = None,
    chunk: int | None = None,
) -> Estimator:
    """State: one run per pair.

    num_tasks: members of the family side by side
    truncation: steps per estimate
    horizon: steps of a whole run: a number, a range (log-uniform), or a law
    std: of the perturbations
    pairs: antithetic pairs per task, all on its member and batches
    outer_loss: what theta is judged by
    clip_diff: bound on the difference of a pair's losses; null: none
    sign_diff: take this times the sign of the difference in its place; null: the difference
    chunk: pairs vectorised at a time per device; null: all

    Errors: ValueError for a horizon that is not made of whole truncations, or an argument that is not positive.
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

    def init(theta, fraction, key):
        return C.first(setup, theta, fraction, key)

    def one(theta, inner, data, call):
        inner = tree.where(C.ended(inner), C.fresh(setup, theta, call.estimates, call.restart), inner)
        noise = C.perturbation(theta, call.noise, std)
        pair, shares = C.unroll_pair(setup, C.antithetic(theta, noise), C.doubled(inner), data)
        difference, finite = C.difference(shares.share, clip_diff, sign_diff)
        inner = C.stopped(C.half(pair), shares.healthy)
        return C.es_gradient(noise, difference, std), inner, C.metrics(shares, finite)

    return Estimator(*C.over_tasks(init, one, num_tasks, chunk, pairs), 2 * num_tasks * pairs * truncation)
