"""What the estimators share: starting runs, one truncation of a run or of a pair, and the way from one run to all."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from metaopt import sharding, tree
from metaopt.estimators import _horizons, _outer_losses
from metaopt.estimators._horizons import Horizon, Law
from metaopt.estimators._outer_losses import OuterLoss
from metaopt.types import Inner, LearnedOptimizer, PyTree, Task
from metaopt.unroll import start, unroll

# A pair of runs shares the member of the family, the step, the horizon and the key, and so its batches.
PAIR = Inner(cfg=None, params=0, opt_state=0, step=None, horizon=None, key=None)  # type: ignore[arg-type]


class Setup(NamedTuple):
    """The arguments that all estimators have."""

    task: Task
    optimizer: LearnedOptimizer
    truncation: int
    law: Law
    loss: OuterLoss
    first_order: bool
    remat: bool  # the estimator differentiates


class Call(NamedTuple):
    """What is new in each estimate."""

    restart: jax.Array  # typed PRNG key of a run that starts now, the same for all pairs of a task
    noise: jax.Array  # typed PRNG key, this pair's own
    estimates: jax.Array  # i32 scalar: how many were made before


class Shares(NamedTuple):
    """What one truncation says about the outer loss. Of a pair, `share` and `level` are [2]."""

    share: jax.Array  # summed over a run's truncations, times truncation / horizon: the outer loss
    level: jax.Array  # the share itself; of `final` the loss at the end in place of its change
    healthy: jax.Array  # bool: all that the run has computed is finite


def setup(
    task: Task,
    optimizer: LearnedOptimizer,
    truncation: int,
    horizon: Horizon,
    loss: OuterLoss,
    *,
    whole: bool = False,
    first_order: bool = False,
    remat: bool = False,
    **positive: int | float | None,
) -> Setup:
    """Raises ValueError for a horizon that is not made of whole truncations, an argument of `positive` that is neither
    positive nor None, and an outer loss that needs whole runs where the estimator is not one of whole runs."""
    for name, value in {"truncation": truncation, **positive}.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name}: must be positive, got {value}")
    if loss.whole and not whole:
        raise ValueError(f"outer_loss: {loss.name} is of whole runs: use es or full_grad, or mean, weighted or final")
    return Setup(task, optimizer, truncation, _horizons.law(horizon, truncation), loss, first_order, remat)


def _tree(s: Setup, theta: jax.Array) -> PyTree:
    """Theta as the optimizer takes it."""
    leaves, treedef = jax.tree.flatten(jax.eval_shape(s.optimizer.init, jax.random.key(0)))
    parts = jnp.split(theta, np.cumsum([x.size for x in leaves])[:-1])
    return jax.tree.unflatten(treedef, [x.reshape(leaf.shape) for x, leaf in zip(parts, leaves, strict=True)])


def check_std(std: float) -> None:
    """ValueError unless the std is 0, for no perturbation, or positive."""
    if not std >= 0:
        raise ValueError(f"std: must be 0 or more, got {std}")


def fresh(s: Setup, theta: jax.Array, estimates: jax.Array | int, key: jax.Array) -> Inner:
    """A run that starts now."""
    horizon_key, start_key = jax.random.split(key)
    horizon = _horizons.sample(s.law, s.truncation, jnp.asarray(estimates), horizon_key)
    return start(s.task, s.optimizer, _tree(s, theta), horizon, start_key)


def ended(inner: Inner) -> jax.Array:
    return inner.step >= inner.horizon


def first(s: Setup, theta: jax.Array, fraction: tuple[jax.Array, int], key: jax.Array) -> Inner:
    """The first run of a task, shortened to its fraction: so the runs of a batch, all started now, end (and are
    replaced) one after another, and from then on the batch covers all ages, every one reached by real steps."""
    inner = fresh(s, theta, 0, key)
    return inner._replace(horizon=shortened(inner.horizon, s.truncation, fraction))


def shortened(horizon: jax.Array, truncation: int, fraction: tuple[jax.Array, int]) -> jax.Array:
    """rank / num_tasks of a horizon, rank 1 to num_tasks, rounded up to a multiple of the truncation. In integers: a
    rounded fraction would skip some ages and take others twice."""
    rank, num_tasks = fraction
    return -(-rank * (horizon // truncation) // num_tasks) * truncation


def doubled(inner: Inner) -> Inner:
    """One run -> a pair of equal runs: params and optimizer state get a leading axis [2]."""
    params, opt_state = jax.tree.map(lambda x: jnp.stack([x, x]), (inner.params, inner.opt_state))
    return inner._replace(params=params, opt_state=opt_state)


def perturbation(theta: jax.Array, key: jax.Array, std: float) -> jax.Array:
    """eps ~ N(0, std^2 I), in theta's shape and dtype."""
    return std * jax.random.normal(key, theta.shape, theta.dtype)


def antithetic(theta: jax.Array, noise: jax.Array) -> jax.Array:
    """[2, ...]: theta + noise, theta - noise."""
    return jnp.stack([theta + noise, theta - noise])


def perturbed(theta: jax.Array, key: jax.Array, std: float) -> jax.Array:
    """theta + eps, eps ~ N(0, std^2 I).

    A copy of the run's own in any case, for who differentiates: the products of runs that share their weights would be
    merged into one, with transposed copies of all it multiplies.
    """
    return theta + (perturbation(theta, key, std) if std else 0 * jax.random.key_data(key)[0].astype(theta.dtype))


def segment(s: Setup, theta: jax.Array, inner: Inner, data: PyTree) -> tuple[Inner, Shares]:
    """One truncation of a run, and its share of the outer loss."""
    loss = s.loss

    def at(inner: Inner, data: PyTree, params: PyTree, step: jax.Array) -> jax.Array:
        return _outer_losses.measured(s.task, loss, inner.cfg, params, data, inner.key, step)

    recomputed = loss.batches > 0
    measure = at if recomputed and not loss.ends else None
    end, losses = unroll(
        s.task,
        s.optimizer,
        _tree(s, theta),
        inner,
        data,
        s.truncation,
        first_order=s.first_order,
        remat=s.remat,
        measure=measure,
    )
    if loss.ends:
        before = at(inner, data, inner.params, inner.step) if recomputed else losses[0]
        values = jnp.stack([before, at(inner, data, end.params, end.step)])
    else:
        values = losses
    healthy = tree.all_finite((end.params, end.opt_state, losses, values))
    values = _outer_losses.scaled(s.task, loss, inner.cfg, values)
    share = loss.share(values, inner.step, inner.horizon, s.truncation)
    return end, Shares(share, values[-1] if loss.ends else share, healthy)


def unroll_pair(s: Setup, thetas: jax.Array, pair: Inner, data: PyTree) -> tuple[Inner, Shares]:
    """One truncation of a pair, each run under its own theta. -> (pair, shares [2], `healthy` of both).

    Each run gets its own copy of a batch: a shared one would be merged into their matrix products, the gradients come
    out transposed, and every kernel of the update read them with a stride.
    """

    def batch(*arguments):
        own = jax.lax.axis_index("pair") >= 0
        return jax.tree.map(lambda x: jnp.where(own, x, x), s.task.batch(*arguments))

    one = partial(segment, s._replace(task=s.task._replace(batch=batch)), data=data)
    pair, shares = jax.vmap(one, in_axes=(0, PAIR), out_axes=(PAIR, 0), axis_name="pair")(thetas, pair)
    return pair, shares._replace(healthy=shares.healthy.all())


def nothing(s: Setup, shape: tuple[int, ...] = ()) -> Shares:
    """Of a whole run (or, shape (2,), a pair) before its first truncation."""
    share = jnp.full(shape, jnp.inf if s.loss.whole else 0.0)
    return Shares(share, share, jnp.array(True))


def add(s: Setup, total: Shares, shares: Shares, horizon: jax.Array) -> Shares:
    """The whole-run outer loss, as a sum (or the minimum) over truncations."""
    if s.loss.whole:
        share = level = jnp.minimum(total.share, shares.share)
    else:
        part = jnp.asarray(s.truncation, shares.share.dtype) / horizon
        share = total.share + part * shares.share
        level = shares.level if s.loss.ends else share
    return Shares(share, level, total.healthy & shares.healthy)


def difference(shares: jax.Array, clip_diff: float | None, sign_diff: float | None) -> tuple[jax.Array, jax.Array]:
    """L+ - L- of a pair, shares [2], clipped to [-clip_diff, clip_diff] or replaced by its sign times sign_diff; and
    whether it is finite: where it is not, it counts as zero."""
    raw = shares[0] - shares[1]
    finite = jnp.isfinite(raw)
    value = jnp.where(finite, raw, 0.0)
    if clip_diff is not None:
        value = jnp.clip(value, -clip_diff, clip_diff)
    return value if sign_diff is None else sign_diff * jnp.sign(value), finite


def es_gradient(direction: jax.Array, difference: jax.Array, std: float) -> jax.Array:
    """direction · (L+ - L-) / (2 std^2)."""
    return direction * (difference / (2 * std**2))


def half(pair: Inner) -> Inner:
    """The run of a pair that felt +eps."""
    params, opt_state = jax.tree.map(lambda x: x[0], (pair.params, pair.opt_state))
    return pair._replace(params=params, opt_state=opt_state)


def stopped(inner: Inner, healthy: jax.Array) -> Inner:
    """The run as it is carried on: one that is not healthy starts anew next time."""
    return inner._replace(horizon=jnp.where(healthy, inner.horizon, 0))


def metrics(shares: Shares, finite: jax.Array | bool = True) -> dict[str, jax.Array]:
    """Of a run, or of a pair whose difference was `finite`."""
    runs = float(shares.level.size)
    lost = jnp.logical_not(finite).astype(jnp.float32)
    return {"meta_loss": shares.level.mean(), "diverged": runs * ~shares.healthy, "nonfinite": lost}


COUNTS = ("diverged", "nonfinite")  # metrics that are summed over runs


class Counted(NamedTuple):
    """The state of an estimator, [tasks * pairs, ...]."""

    runs: PyTree
    estimates: jax.Array  # i32 [tasks * pairs]


def over_tasks(
    init: Callable,
    one: Callable,
    num_tasks: int,
    chunk: int | None,
    pairs: int = 1,
    reduce: Callable[[tuple[PyTree, PyTree]], tuple[jax.Array, PyTree]] = sharding.mean,
) -> tuple[Callable, Callable]:
    """`init(theta, (rank, num_tasks), key) -> state` and `one(theta, state, data, call) -> (grad, state, metrics)` of
    one pair or run -> the estimator's own init and estimate, over `pairs` of them in each of `num_tasks` tasks.

    To them theta and the gradient are one vector, which is the same to all that they do with it: a loop for each leaf
    takes longer to compile than to run.

    They are split over the devices; each device vectorises over `chunk` of them at a time (None: all of its share).
    `reduce` makes of the gradients and metrics of a device, leading axis [runs], those of all, on each device the same.
    """
    n = num_tasks * pairs

    def each_init(theta: jax.Array, rank: jax.Array, key: jax.Array) -> Counted:
        return Counted(init(theta, (rank, num_tasks), key), jnp.zeros((), jnp.int32))

    mapped_init = sharding.over_runs(jax.vmap(each_init, (None, 0, 0)), n, (False, True, True), True)

    def estimator_init(theta: PyTree, key: jax.Array) -> Counted:
        ranks = jnp.repeat(jnp.arange(1, num_tasks + 1, dtype=jnp.int32), pairs)
        return mapped_init(ravel_pytree(theta)[0], ranks, jnp.repeat(jax.random.split(key, num_tasks), pairs))

    def local(theta: jax.Array, state: Counted, data: PyTree, keys: tuple[jax.Array, jax.Array]) -> tuple:
        def each(x: tuple) -> tuple:
            (runs, estimates), (restart, noise) = x
            grad, runs, metrics = one(theta, runs, data, Call(restart, noise, estimates))
            return grad, Counted(runs, estimates + 1), metrics

        grads, state, metrics = jax.lax.map(each, (state, keys), batch_size=chunk or keys[0].shape[0])
        grad, metrics = reduce((grads, metrics))
        return grad, state, metrics

    mapped = sharding.over_runs(local, n, (False, True, False, True), (False, True, False))

    def estimate(theta: PyTree, state: Counted, data: PyTree, key: jax.Array) -> tuple:
        restarts, noises = jax.vmap(jax.random.split, (0, None))(jax.random.split(key), n)
        keys = jnp.repeat(restarts[:num_tasks], pairs), noises
        vector, unravel = ravel_pytree(theta)
        grad, state, metrics = mapped(vector, state, data, keys)
        return unravel(grad), state, {k: v * n if k in COUNTS else v for k, v in metrics.items()}

    return estimator_init, estimate
