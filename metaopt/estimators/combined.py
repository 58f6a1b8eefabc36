"""Backpropagation and evolution strategies from the same pair of runs, each coordinate weighted by inverse variance
(Metz et al. 2019, arXiv 1810.10180, section 4.3).

Each task carries one run. At every truncation two copies of it are unrolled under theta +- eps. With L the truncation's
share of the outer loss, each pair gives

    g_es = eps · (L(+) - L(-)) / (2 std^2),    g_bp = (grad L(+) + grad L(-)) / 2

both of the mean E[grad L(theta + eps)]; with means and variances over the pairs of the batch, per coordinate,

    g = (g_es / var_es + g_bp / var_bp) / (1 / var_es + 1 / var_bp)

Where inner runs are smooth that is backpropagation, where they are chaotic it is ES. Biased as `tbptt` and
`truncated_es` are, by the truncation, unless truncation = horizon; and a little by weights that come from the same
samples. A pair whose gradient overflows hands its coordinates to ES.
"""

import jax
import jax.numpy as jnp

from metaopt import sharding, tree
from metaopt.estimators import _common as C
from metaopt.estimators._horizons import Horizon
from metaopt.estimators._outer_losses import OuterLoss, mean
from metaopt.types import Estimator, LearnedOptimizer, PyTree, Task


def combined(
    task: Task,
    optimizer: LearnedOptimizer,
    *,
    num_tasks: int = 8,
    truncation: int = 20,
    horizon: Horizon = 200,
    std: float = 0.01,
    pairs: int = 1,
    outer_loss: OuterLoss = mean(),
    first_order: bool = False,
    clip_diff: float | None = None,
    sign_diff: float | None = None,
    chunk: int | None = None,
) -> Estimator:
    """State: one run per pair; the copy that felt +eps is carried on.

    num_tasks: members of the family side by side
    truncation: steps unrolled and differentiated per estimate
    horizon: steps of a whole run: a number, a range (log-uniform), or a law
    std: of the perturbations
    pairs: antithetic pairs per task, all on its member and batches
    outer_loss: what theta is judged by
    first_order: drop second derivatives of the inner problem; else they are taken in full
    clip_diff: bound on the difference of a pair's losses; null: none
    sign_diff: take this times the sign of the difference in its place; null: the difference
    chunk: pairs vectorised at a time per device; null: all

    Errors: ValueError for a horizon that is not made of whole truncations, an argument that is not positive, or fewer
    than two pairs in all, which have no variance.
    """
    setup = C.setup(
        task,
        optimizer,
        truncation,
        horizon,
        outer_loss,
        first_order=first_order,
        remat=True,
        num_tasks=num_tasks,
        std=std,
        pairs=pairs,
        clip_diff=clip_diff,
        sign_diff=sign_diff,
        chunk=chunk,
    )
    if num_tasks * pairs < 2:
        raise ValueError("num_tasks: a variance needs two pairs, num_tasks * pairs >= 2")

    def init(theta, fraction, key):
        return C.first(setup, theta, fraction, key)

    def one(theta, inner, data, call):
        inner = tree.where(C.ended(inner), C.fresh(setup, theta, call.estimates, call.restart), inner)
        noise = C.perturbation(theta, call.noise, std)

        def shares_of(thetas):
            pair, shares = C.unroll_pair(setup, thetas, C.doubled(inner), data)
            return shares.share.sum(), (pair, shares)  # each share depends on its own theta alone

        grads, (pair, shares) = jax.grad(shares_of, has_aux=True)(C.antithetic(theta, noise))
        difference, finite = C.difference(shares.share, clip_diff, sign_diff)
        both = C.es_gradient(noise, difference, std), grads.mean(0)
        return both, C.stopped(C.half(pair), shares.healthy), C.metrics(shares, finite)

    estimate = C.over_tasks(init, one, num_tasks, chunk, pairs, inverse_variance)
    return Estimator(*estimate, 2 * num_tasks * pairs * truncation)


def inverse_variance(samples: tuple[tuple[jax.Array, jax.Array], PyTree]) -> tuple[jax.Array, PyTree]:
    """The combination of two sets of gradients [runs, ...], of this device and all others, and the mean metrics. A
    coordinate takes the first alone where the second is not finite, and their mean where neither varies."""
    both, _ = samples
    means, metrics = sharding.mean(samples)
    variances = sharding.mean(jax.tree.map(lambda x, m: jnp.square(x - m[None]), both, means))

    def combine(a: jax.Array, b: jax.Array, var_a: jax.Array, var_b: jax.Array) -> jax.Array:
        known = jnp.isfinite(b) & jnp.isfinite(var_b)
        ratio = jnp.where(var_b > 0, var_b / var_a, jnp.where(var_a > 0, 0.0, 1.0))
        weight = jnp.where(known, 1 / (1 + ratio), 0.0)  # of b: (1 / var_b) / (1 / var_a + 1 / var_b)
        return (1 - weight) * a + weight * jnp.where(known, b, 0.0)

    return combine(*means, *variances), metrics
