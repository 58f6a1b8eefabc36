"""Truncated backpropagation through time: the exact gradient of one truncation, blind to all before it.

    g = d/dtheta share(theta + eps; s),    s the run's state at the start of the truncation, held fixed

share: of the outer loss, such as the mean loss of the truncation; eps ~ N(0, std^2 I), fresh at each truncation, or 0.
With truncation = horizon it is the exact gradient of the whole-run loss (smoothed over eps); shorter, it is biased
(Metz et al. 2019, arXiv 1810.10180, section 3).
"""

import jax
import jax.numpy as jnp

from metaopt import tree
from metaopt.estimators import _common as C
from metaopt.estimators._horizons import Horizon
from metaopt.estimators._outer_losses import OuterLoss, mean
from metaopt.types import Estimator, LearnedOptimizer, Task


def tbptt(
    task: Task,
    optimizer: LearnedOptimizer,
    *,
    num_tasks: int = 8,
    truncation: int = 20,
    horizon: Horizon = 200,
    std: float = 0.0,
    outer_loss: OuterLoss = mean(),
    first_order: bool = False,
    chunk: int | None = None,
) -> Estimator:
    """A task whose gradient is not finite counts as zero and its run starts anew.

    num_tasks: runs side by side
    truncation: steps unrolled and differentiated per estimate
    horizon: steps of a whole run: a number, a range (log-uniform), or a law
    std: of the perturbation the gradient is taken at (Metz et al. 2019, section 4: reparameterised); 0: at theta
    outer_loss: what theta is judged by
    first_order: drop second derivatives of the inner problem (Andrychowicz et al. 2016); else they are taken in full
    chunk: runs vectorised at a time per device; null: all

    Errors: ValueError for a horizon that is not made of whole truncations, or an argument that is not positive.
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
        chunk=chunk,
    )
    C.check_std(std)

    def init(theta, fraction, key):
        return C.first(setup, theta, fraction, key)

    def one(theta, inner, data, call):
        inner = tree.where(C.ended(inner), C.fresh(setup, theta, call.estimates, call.restart), inner)

        def share(theta):
            end, shares = C.segment(setup, theta, inner, data)
            return shares.share, (end, shares)

        grad, (end, shares) = jax.grad(share, has_aux=True)(C.perturbed(theta, call.noise, std))
        healthy = shares.healthy & jnp.isfinite(grad).all()
        return (
            jnp.where(healthy, grad, 0.0),
            C.stopped(end, healthy),
            C.metrics(shares._replace(healthy=healthy), healthy),
        )

    return Estimator(*C.over_tasks(init, one, num_tasks, chunk), num_tasks * truncation)
