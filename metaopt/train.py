"""The outer training step: theta follows the weighted average of the families' meta-gradients.

    g_i = sum_f w_f g_{f,i} / sum_f w_f        theta_{i+1} = theta_i + outer(g_i)

The outer optimizer also gets the meta-loss, averaged as g_i is, as `value`.

One device call takes `length` outer steps in one `lax.scan`; every family is inside that one computation. The
randomness of outer step i is `fold_in(key, i)`: a run that is cut into other chunks, or resumed, repeats bit for bit.
Each family can be left out of a call, which is how `throughput` times one alone by the very program that trains.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from metaopt import runtime, tree
from metaopt.types import Estimator, LearnedOptimizer, PyTree


class RunError(Exception):
    """A run that cannot start or go on; the message says what to do."""


class Family(NamedTuple):
    """One family of tasks in a run: its name in the metrics, its estimator, its weight, its arrays on the host."""

    name: str
    estimator: Estimator
    weight: float = 1.0
    data: PyTree = None


class TrainState(NamedTuple):
    """All that the next outer step depends on; what a checkpoint holds."""

    theta: PyTree
    outer: PyTree  # state of the outer optimizer
    estimators: tuple[PyTree, ...]  # one state per family, leading axis: tasks
    step: jax.Array  # i32 scalar, outer steps taken
    key: jax.Array  # typed PRNG key, constant over the run


Metrics = dict[str, jax.Array]
Init = Callable[[jax.Array], TrainState]
Step = Callable[..., tuple[TrainState, Metrics]]  # (state, data, length, active=None)

TIMED = 3  # outer steps of a family, at most, in the first call that tells its throughput
ENOUGH, MOST = 0.1, 0.3  # seconds: of a family's own that tell it; in calls, after which no other one is made


def make_train(
    optimizer: LearnedOptimizer, families: Sequence[Family], outer: optax.GradientTransformation
) -> tuple[Init, Step]:
    """Returns `(init, step)`.

    init(key) -> TrainState
    step(state, data, length, active=None) -> (state, metrics): `length` (static) outer steps. `data` holds one entry
      per family; `state` is donated, so use the returned one. Metrics are arrays [length] float32: `meta_loss`
      (weighted mean of the families'), `grad_norm` (of g_i, before clips and the outer optimizer), `diverged` (inner
      runs reset, all families), `skipped` (families whose gradient was not finite and counted as zero), and every
      metric of an estimator as `FAMILY/metric`.
      `active` bool [length, families], for measurements: where False, a family takes no inner step, and its gradient
      and metrics are zero. A run of one family cannot leave it out.

    Raises ValueError for no families, equal names, or weights that are not finite and positive.
    """
    _check(families)
    outer = optax.with_extra_args_support(outer)
    weights = [family.weight / sum(f.weight for f in families) for family in families]

    def init(key: jax.Array) -> TrainState:
        _, run_key, *family_keys = jax.random.split(key, 2 + len(families))
        theta = first_theta(optimizer, key, len(families))
        states = tuple(f.estimator.init(theta, k) for f, k in zip(families, family_keys, strict=True))
        return TrainState(theta, outer.init(theta), states, jnp.zeros((), jnp.int32), run_key)

    def one_step(state: TrainState, data: Sequence[PyTree], active: jax.Array) -> tuple[TrainState, Metrics]:
        step_key = jax.random.fold_in(state.key, state.step)
        grads, states, finite = [], [], []
        metrics: Metrics = {}
        for i, (family, weight, family_state, family_data) in enumerate(
            zip(families, weights, state.estimators, data, strict=True)
        ):
            key = jax.random.fold_in(step_key, i)
            estimate = (
                _optional(family.estimator.estimate, active[i]) if len(families) > 1 else family.estimator.estimate
            )
            grad, family_state, values = estimate(state.theta, family_state, family_data, key)
            vector, unravel = ravel_pytree(grad)
            finite.append(tree.all_finite(vector))
            grads.append(weight * jnp.where(finite[-1], vector, 0.0))
            states.append(family_state)
            metrics |= {f"{family.name}/{name}": value for name, value in values.items()}
        grad = jnp.stack(grads).sum(0)
        losses = jnp.stack([metrics[f"{f.name}/meta_loss"] for f in families])
        metrics["meta_loss"] = jnp.sum(jnp.asarray(weights) * losses)
        updates, outer_state = outer.update(unravel(grad), state.outer, state.theta, value=metrics["meta_loss"])
        theta = optax.apply_updates(state.theta, updates)
        metrics["diverged"] = jnp.stack([metrics[f"{f.name}/diverged"] for f in families]).sum()
        metrics["grad_norm"] = optax.tree.norm(grad)
        metrics["skipped"] = len(families) - jnp.stack(finite).sum()
        metrics = {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}
        return TrainState(theta, outer_state, tuple(states), state.step + 1, state.key), metrics

    def steps(state: TrainState, data: Sequence[PyTree], length: int, active: jax.Array) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(lambda carry, on: one_step(carry, data, on), state, active, length)

    program = jax.jit(steps, static_argnums=2, donate_argnums=0, compiler_options=runtime.effort(1))

    def step(
        state: TrainState, data: Sequence[PyTree], length: int, active: np.ndarray | None = None
    ) -> tuple[TrainState, Metrics]:
        return program(state, data, length, np.ones((length, len(families)), bool) if active is None else active)

    return jax.jit(init, compiler_options=runtime.effort(0)), step


def _optional(estimate: Callable, active: jax.Array) -> Callable:
    """`estimate` where `active`; else a zero gradient, the state as it is, and metrics of zero."""
    estimate = jax.jit(estimate)  # so that it is traced once, for the shapes and for the call

    def optional(theta: PyTree, state: PyTree, data: PyTree, key: jax.Array) -> tuple[PyTree, PyTree, Metrics]:
        grad, _, metrics = jax.eval_shape(estimate, theta, state, data, key)
        zero_grad, zero_metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grad, metrics))
        return jax.lax.cond(
            active, lambda s: estimate(theta, s, data, key), lambda s: (zero_grad, s, zero_metrics), state
        )

    return optional


def throughput(
    step: Step, state: TrainState, data: Sequence[PyTree], length: int, inner_steps: Sequence[int]
) -> list[float | None]:
    """Inner steps per second of each family alone, by calls of `step` with the `length` it was compiled for.

    The time of calls in which one family takes outer steps, less that of calls in which none takes any. The outer
    optimizer's time is so left out. The first call has `TIMED` of them, and each further one twice as many, as far as
    `length` allows, until the difference tells enough. None where it is within that of idle calls. `state` is used up.
    inner_steps: of an outer step, per family.
    """

    def seconds(outer_steps: int, family: int) -> float:
        nonlocal state
        active = np.zeros((length, len(inner_steps)), bool)
        active[:outer_steps, family] = True
        began = time.perf_counter()
        state, metrics = step(state, data, length, active)
        jax.block_until_ready(metrics)
        return time.perf_counter() - began

    def rate(family: int) -> float | None:
        spent, calls, taken, some = 0.0, 0, 0, min(length, TIMED)
        while True:
            spent, calls, taken = spent + seconds(some, family), calls + 1, taken + some
            own, noise = spent - calls * idle, calls * (again - idle)
            if own > max(noise, ENOUGH) or spent > MOST:
                return round(taken * inner_steps[family] / own, 1) if own > noise else None
            some = min(length, 2 * some)

    jax.block_until_ready(state)  # or the first call would wait for it
    idle, again, _ = sorted(seconds(0, 0) for _ in range(3))
    return [rate(family) for family in range(len(inner_steps))]


def first_theta(optimizer: LearnedOptimizer, key: jax.Array, families: int) -> PyTree:
    """Theta as `init(key)` of a run with so many families has it. No leaf is weakly typed: what a step gives back is
    not, and it would be compiled again for that."""
    theta = optimizer.init(jax.random.split(key, 2 + families)[0])
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.result_type(x)), theta)


def _check(families: Sequence[Family]) -> None:
    names = [family.name for family in families]
    if not names:
        raise ValueError("meta-training needs at least one family of tasks")
    if len(set(names)) < len(names):
        raise ValueError(f"families need different names, got {names}")
    for family in families:
        if not 0 < family.weight < float("inf"):
            raise ValueError(f"weight of family {family.name!r} must be finite and positive, got {family.weight}")


def inner_steps(families: Sequence[Family]) -> int:
    """Inner optimization steps taken by one outer step, all families and runs together."""
    return sum(family.estimator.inner_steps for family in families)


def place(families: Sequence[Family], sharding: Any = None) -> tuple[PyTree, ...]:
    """The families' arrays on the device, every distinct host array copied once.

    Arrays are told apart by identity: two families of one dataset share its copy.
    """
    copies: dict[int, jax.Array] = {}

    def put(x: Any) -> jax.Array:
        if id(x) not in copies:
            copies[id(x)] = jax.device_put(x, sharding)
        return copies[id(x)]

    return tuple(jax.tree.map(put, family.data) for family in families)
