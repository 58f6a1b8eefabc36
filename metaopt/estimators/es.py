"""Evolution strategies over whole runs (Metz et al. 2019, arXiv 1810.10180, section 4; antithetic).

For each task a fresh pair of runs under theta +- eps, eps ~ N(0, std^2 I), and L the outer loss of a run:

    g = eps · (L(theta + eps) - L(theta - eps)) / (2 std^2)

Unbiased for the gradient of the smoothed meta-loss E[L(theta + eps)], whatever std.
"""

import jax

from metaopt.estimators import _common as C
from metaopt.estimators._horizons import Horizon
from metaopt.estimators._outer_losses import OuterLoss, mean
from metaopt.types import Estimator, LearnedOptimizer, Task


def es(
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
    """Pairs whose horizons differ wait for the longest of those that are vectorised together.

    num_tasks: members of the family side by side, fresh for each estimate
    truncation: steps of a piece; horizons are multiples of it
    horizon: steps of a run: a number, a range (log-uniform), or a law
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
        whole=True,
        num_tasks=num_tasks,
        std=std,
        pairs=pairs,
        clip_diff=clip_diff,
        sign_diff=sign_diff,
        chunk=chunk,
    )

    def one(theta, runs, data, call):
        noise = C.perturbation(theta, call.noise, std)
        thetas = C.antithetic(theta, noise)
        pair = C.doubled(C.fresh(setup, theta, call.estimates, call.restart))

        def piece(_, carry):
            pair, total = carry
            pair, shares = C.unroll_pair(setup, thetas, pair, data)
            return pair, C.add(setup, total, shares, pair.horizon)

        _, total = jax.lax.fori_loop(0, pair.horizon // truncation, piece, (pair, C.nothing(setup, (2,))))
        difference, finite = C.difference(total.share, clip_diff, sign_diff)
        return C.es_gradient(noise, difference, std), runs, C.metrics(total, finite)

    def init(theta, fraction, key):
        return ()  # nothing is carried from one estimate to the next

    inner_steps = 2 * num_tasks * pairs * setup.law.high
    return Estimator(*C.over_tasks(init, one, num_tasks, chunk, pairs), inner_steps)
