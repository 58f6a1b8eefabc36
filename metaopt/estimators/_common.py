"""What the estimators share: starting runs, pairs of runs, and the way from one task to a sharded batch of tasks."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from metaopt import sharding, tree
from metaopt.types import Inner, LearnedOptimizer, PyTree, Task
from metaopt.unroll import start, unroll

# A pair of runs shares the member of the family, the step, the horizon and the key, and so its batches.
PAIR = Inner(cfg=None, params=0, opt_state=0, step=None, horizon=None, key=None)  # type: ignore[arg-type]


def check(**arguments: int | float | None) -> None:
    """ValueError unless every argument is positive, or None."""
    for name, value in arguments.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name}: must be positive, got {value}")


def check_horizon(horizon: int | tuple[int, int], truncation: int) -> tuple[int, int]:
    """(low, high); both must be positive multiples of the truncation, so that a run ends where a truncation ends."""
    low, high = (horizon, horizon) if isinstance(horizon, int) else horizon
    check(truncation=truncation, horizon=low)
    if low > high or low % truncation or high % truncation:
        raise ValueError(f"horizon: {horizon} must be made of multiples of truncation={truncation}, low before high")
    return low, high


def sample_horizon(bounds: tuple[int, int], truncation: int, key: jax.Array) -> jax.Array:
    """Log-uniform over [low, high], rounded to a multiple of the truncation. i32 scalar."""
    low, high = bounds
    draw = jnp.exp(jax.random.uniform(key, (), minval=jnp.log(float(low)), maxval=jnp.log(float(high))))
    return jnp.clip(jnp.round(draw / truncation).astype(jnp.int32) * truncation, low, high)


def fresh(
    task: Task, optimizer: LearnedOptimizer, theta: PyTree, bounds: tuple[int, int], truncation: int, key: jax.Array
) -> Inner:
    horizon_key, start_key = jax.random.split(key)
    return start(task, optimizer, theta, sample_horizon(bounds, truncation, horizon_key), start_key)


def staggered(inner: Inner, rank: jax.Array, num_tasks: int, truncation: int) -> Inner:
    """Shortens a first run to the fraction rank / num_tasks of its horizon, rank 1 to num_tasks, so that the runs of a
    batch, all started now, end (and are replaced) one after another: from then on the batch covers all ages, every one
    reached by real steps. In integers: a rounded fraction would skip some ages and take others twice."""
    truncations = -(-rank * (inner.horizon // truncation) // num_tasks)  # the ceiling
    return inner._replace(horizon=truncations * truncation)


def doubled(inner: Inner) -> Inner:
    """One run -> a pair of equal runs: params and optimizer state get a leading axis [2]."""
    params, opt_state = jax.tree.map(lambda x: jnp.stack([x, x]), (inner.params, inner.opt_state))
    return inner._replace(params=params, opt_state=opt_state)


def antithetic(theta: PyTree, noise: PyTree) -> PyTree:
    """[2, ...]: theta + noise, theta - noise."""
    return jax.tree.map(lambda t, e: jnp.stack([t + e, t - e]), theta, noise)


def unroll_pair(
    task: Task, optimizer: LearnedOptimizer, thetas: PyTree, pair: Inner, data: PyTree, length: int
) -> tuple[Inner, jax.Array, jax.Array]:
    """`length` steps of a pair, each under its own theta. -> (pair, normalised losses [2, length], healthy bool).

    Each run gets its own copy of a batch: a shared one would be merged into their matrix products, the gradients come
    out transposed, and every kernel of the update read them with a stride.
    """

    def batch(*arguments):
        own = jax.lax.axis_index("pair") >= 0
        return jax.tree.map(lambda x: jnp.where(own, x, x), task.batch(*arguments))

    one = partial(unroll, task._replace(batch=batch), optimizer, data=data, length=length)
    pair, losses = jax.vmap(one, in_axes=(0, PAIR), out_axes=(PAIR, 0), axis_name="pair")(thetas, pair)
    healthy = tree.all_finite((pair.params, pair.opt_state, losses))
    return pair, task.normalize(pair.cfg, losses), healthy


def es_gradient(direction: PyTree, losses: jax.Array, std: float) -> PyTree:
    """direction · (L+ - L-) / (2 std^2) for the mean losses of a pair, losses [2, length]."""
    difference = jnp.mean(losses[0] - losses[1]) / (2 * std**2)
    return jax.tree.map(lambda x: x * difference, direction)


def over_tasks(one: Callable, num_tasks: int, chunk: int | None) -> Callable:
    """`one(theta, state, data, key) -> (grad, state, metrics)` of one task -> the estimate over `num_tasks` of them.

    Tasks are split over the devices; each device vectorises over `chunk` tasks at a time (None: all of its share).
    """

    def local(theta, state, data, keys):
        def each(task):
            return one(theta, task[0], data, task[1])

        grads, state, metrics = jax.lax.map(each, (state, keys), batch_size=chunk or keys.shape[0])
        return sharding.mean(grads), state, sharding.mean(metrics)

    mapped = sharding.over_runs(local, num_tasks, (False, True, False, True), (False, True, False))

    def estimate(theta, state, data, key):
        grad, state, metrics = mapped(theta, state, data, jax.random.split(key, num_tasks))
        return grad, state, metrics | {"diverged": metrics["diverged"] * num_tasks}  # a count, not a mean

    return estimate


def init_tasks(one: Callable, num_tasks: int) -> Callable:
    """`one(theta, rank, key) -> state` of one task -> init(theta, key) -> state [tasks, ...], over the devices."""
    mapped = sharding.over_runs(jax.vmap(one, (None, 0, 0)), num_tasks, (False, True, True), True)
    ranks = jnp.arange(1, num_tasks + 1, dtype=jnp.int32)
    return lambda theta, key: mapped(theta, ranks, jax.random.split(key, num_tasks))
