"""The exact gradient of whole runs, by backpropagation in memory that grows with the square root of their length.

    g = d/dtheta L(theta + eps),    L the outer loss of a fresh run of T steps, eps ~ N(0, std^2 I), or 0

T is cut into n = T / truncation pieces and these into about sqrt(n) groups. Only the states between groups are kept;
each group is run again when its gradient is due, then each piece, then each step (Chen et al. 2016, arXiv 1604.06174,
section 4). So a step is computed four times and differentiated once, and 2 sqrt(n) + truncation states live at the same
time. It has no bias; where inner runs are chaotic its variance explodes (Metz et al. 2019, section 3).
"""

from functools import partial

import jax
import jax.numpy as jnp

from metaopt import tree
from metaopt.estimators import _common as C
from metaopt.estimators._horizons import Horizon
from metaopt.estimators._outer_losses import OuterLoss, mean
from metaopt.types import Estimator, LearnedOptimizer, Task


def full_grad(
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
    """A task whose gradient is not finite counts as zero. A run that is shorter than the longest horizon stands still
    after its end, at the cost of the longest.

    num_tasks: runs side by side, fresh for each estimate
    truncation: steps of a piece; horizons are multiples of it
    horizon: steps of a run: a number, a range (log-uniform), or a law
    std: of the perturbation the gradient is taken at (Metz et al. 2019, section 4: reparameterised); 0: at theta
    outer_loss: what theta is judged by
    first_order: drop second derivatives of the inner problem; else they are taken in full
    chunk: runs vectorised at a time per device; null: all

    Errors: ValueError for a horizon that is not made of whole truncations, or an argument that is not positive.
    """
    setup = C.setup(
        task,
        optimizer,
        truncation,
        horizon,
        outer_loss,
        whole=True,
        first_order=first_order,
        remat=True,
        num_tasks=num_tasks,
        chunk=chunk,
    )
    C.check_std(std)
    groups, size = grouping(setup.law.high // truncation)

    def whole_run(theta, inner, data):
        @jax.checkpoint
        def piece(carry, i):
            run, total = carry
            active = i * truncation < inner.horizon  # false as well for what the last group is padded with
            end, shares = C.segment(setup, theta, run, data)
            total = tree.where(active, C.add(setup, total, shares, inner.horizon), total)
            return (tree.where(active, end, run), total), None

        @jax.checkpoint
        def group(carry, i):
            return jax.lax.scan(piece, carry, i * size + jnp.arange(size))

        (_, total), _ = jax.lax.scan(group, (inner, C.nothing(setup)), jnp.arange(groups))
        return total.share, total

    def one(theta, runs, data, call):
        inner = C.fresh(setup, theta, call.estimates, call.restart)
        loss = partial(whole_run, inner=inner, data=data)
        grad, total = jax.grad(loss, has_aux=True)(C.perturbed(theta, call.noise, std))
        healthy = total.healthy & jnp.isfinite(grad).all()
        return jnp.where(healthy, grad, 0.0), runs, C.metrics(total._replace(healthy=healthy), healthy)

    def init(theta, fraction, key):
        return ()  # nothing is carried from one estimate to the next

    inner_steps = num_tasks * groups * size * truncation  # counted once, though computed four times
    return Estimator(*C.over_tasks(init, one, num_tasks, chunk), inner_steps)


def grouping(pieces: int) -> tuple[int, int]:
    """(groups, pieces of each), their product at least `pieces` and as close as it gets with each between half and
    twice the square root."""
    root = pieces**0.5
    sizes = [m for m in range(1, pieces + 1) if root / 2 <= m <= 2 * root]
    size = min(sizes, key=lambda m: (-(-pieces // m) * m, abs(m - root)))
    return -(-pieces // size), size
