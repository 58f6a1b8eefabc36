"""What every estimator promises, whatever its formula."""

import inspect
import re
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metaopt import sharding
from metaopt.estimators import ESTIMATORS, WHOLE_RUNS, minimum
from metaopt.optimizers.hyper import hyper
from metaopt.tasks.quadratic import quadratic
from metaopt.types import Estimator
from tests.estimators import problems

TASKS, TRUNCATION, HORIZON = 4, 6, 12
NAMES = sorted(set(ESTIMATORS) - {"nres", "es_single"})  # which are gpes by default


def make(name: str, problem, **arguments: Any) -> Estimator:
    std = {"std": 0.1} if runs_per_task(name) == 2 else {}
    arguments = {"num_tasks": TASKS, "truncation": TRUNCATION, "horizon": HORIZON} | std | arguments
    return ESTIMATORS[name](problem[0], problem[1], **arguments)


def runs_per_task(name: str) -> int:
    return 2 if "pairs" in inspect.signature(ESTIMATORS[name]).parameters else 1


class Case(NamedTuple):
    name: str
    estimator: Estimator
    init: Any  # (theta, key), compiled
    estimate: Any  # (theta, state, key), compiled
    theta: Any
    traces: list[int]  # of the inner loss, after each of the first three calls
    steps: list[int]  # one entry an inner step taken


@pytest.fixture(params=NAMES, scope="module")
def case(request):
    problem, traces, steps, data = problems.momentum(), [], [], problems.momentum().task.data()

    def loss(cfg, params, batch, key):
        traces.append(1)
        jax.debug.callback(lambda x: steps.append(1), params)
        return problem.task.loss(cfg, params, batch, key)

    estimator = make(request.param, problem._replace(task=problem.task._replace(loss=loss)))
    init = problems.quick_jit(estimator.init)
    estimate = problems.quick_jit(lambda theta, state, key: estimator.estimate(theta, state, data, key))
    start = jax.device_put(problem.theta, NamedSharding(sharding.mesh(), PartitionSpec()))  # where gradients will be
    state, theta, counts = init(start, jax.random.key(0)), start, []
    for seed in range(3):
        grad, state, _ = estimate(theta, state, jax.random.key(seed))
        theta = jax.tree.map(lambda t, g: t - 0.01 * g, theta, grad)
        counts.append(len(traces))
    return Case(request.param, estimator, init, estimate, start, counts, steps)


def test_no_trace_after_the_first_call(case):
    """Neither for a state that an estimate returned, nor for another theta or key."""
    assert case.traces[0] > 0 and case.traces == case.traces[:1] * 3


def test_structures(case):
    state = case.init(case.theta, jax.random.key(0))
    grad, after, metrics = case.estimate(case.theta, state, jax.random.key(1))
    chex.assert_trees_all_equal_shapes_and_dtypes(grad, case.theta)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert all(leaf.shape[0] == TASKS for leaf in jax.tree.leaves(state))
    assert {"meta_loss", "diverged"} <= set(metrics)
    assert all(value.shape == () and value.dtype == jnp.float32 for value in metrics.values())
    chex.assert_tree_all_finite((grad, metrics))
    assert float(metrics["diverged"]) == 0


def test_inner_steps_are_those_taken(case):
    state = case.init(case.theta, jax.random.key(0))
    jax.effects_barrier()
    case.steps.clear()
    jax.block_until_ready(case.estimate(case.theta, state, jax.random.key(1)))
    jax.effects_barrier()
    passes = {"tbptt": 2, "combined": 2, "full_grad": 4}.get(case.name, 1)  # what is differentiated is computed again
    assert len(case.steps) == passes * case.estimator.inner_steps


def test_equal_keys_equal_estimates(case):
    def two_estimates(init_seed, seed):
        state = case.init(case.theta, jax.random.key(init_seed))
        _, state, _ = case.estimate(case.theta, state, jax.random.key(seed))
        return case.estimate(case.theta, state, jax.random.key(seed + 100))  # some runs start anew here

    first = two_estimates(0, 1)
    chex.assert_trees_all_equal(*(jax.tree.map(raw, x) for x in (first, two_estimates(0, 1))))
    assert not np.array_equal(first[0]["rate"], two_estimates(0, 2)[0]["rate"])
    if problems.runs_in(first[1]):
        assert not np.array_equal(first[0]["rate"], two_estimates(3, 1)[0]["rate"])


def raw(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def test_all_runs_diverge_and_start_anew(case):
    wild = case.theta | {"rate": 0 * case.theta["rate"] + np.log(1e30)}
    state = case.init(wild, jax.random.key(0))
    for seed in range(2):  # the second time from a state full of NaN
        grad, state, metrics = case.estimate(wild, state, jax.random.key(seed))
        chex.assert_tree_all_finite((grad, metrics))
        assert float(metrics["diverged"]) == TASKS * runs_per_task(case.name)
    grad, state, metrics = case.estimate(case.theta, state, jax.random.key(2))
    assert float(metrics["diverged"]) == 0
    for run in problems.runs_in(state):
        np.testing.assert_array_equal(run.step, TRUNCATION)
        chex.assert_tree_all_finite((run.params, run.opt_state))


def test_some_runs_diverge_and_the_others_go_on(case):
    """A learning rate between: on a quartic it depends on where a run starts."""
    theta = case.theta | {"rate": 0 * case.theta["rate"] + np.log(0.7)}
    state = case.init(theta, jax.random.key(5))
    grad, after, metrics = case.estimate(theta, state, jax.random.key(1))
    chex.assert_tree_all_finite((grad, metrics))
    assert 0 < float(metrics["diverged"]) < TASKS * runs_per_task(case.name)
    for before, run in zip(problems.runs_in(state), problems.runs_in(after), strict=True):
        stopped = np.asarray(run.horizon == 0)
        assert stopped.sum() * runs_per_task(case.name) == float(metrics["diverged"])
        np.testing.assert_array_equal(run.horizon[~stopped], before.horizon[~stopped])
        chex.assert_tree_all_finite(run.params[~stopped])


@pytest.mark.parametrize("name", NAMES)
def test_a_state_that_overflowed_is_a_diverged_run(name):
    """Adam's second moment of a gradient of 1e25 is infinite: finite params, which will never move again."""
    task = problems.make_task(lambda: jnp.ones(()), lambda x: 1e25 * x**2)
    task = task._replace(normalize=lambda cfg, loss: jnp.clip(loss, max=1.0))
    estimator, theta = make(name, (task, hyper()), truncation=2, horizon=2, num_tasks=2), hyper().init(None)

    @problems.quick_jit
    def diverged(key):
        return estimator.estimate(theta, estimator.init(theta, key), None, key)[2]["diverged"]

    assert diverged(jax.random.key(0)) == 2 * runs_per_task(name)


def use_devices(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "mesh", lambda: Mesh(np.array(jax.devices()[:count]), (sharding.AXIS,)))


QUICK = ("tbptt", "pes", "combined")  # the way over devices is shared but for that of `combined`


def cases(kind, tasks, two, one):
    for name in NAMES:
        quick = name in QUICK if kind == "divided" else name == "pes"
        yield pytest.param(name, tasks, two, one, id=f"{name}-{kind}", marks=[] if quick else [pytest.mark.slow])


DIVIDED, REPLICATED = list(cases("divided", 4, None, 3)), list(cases("replicated", 3, 1, None))


@pytest.mark.parametrize(("name", "tasks", "two", "one"), DIVIDED + REPLICATED)
def test_devices_and_chunks_do_not_change_the_result(name, tasks, two, one, x64, monkeypatch):
    """Tasks in chunks of `two` on two devices, which divide them or not, against chunks of `one` on one device.

    Float64: sums of some hundred terms are 1e-14 apart, a difference of losses over the std ten times as much.
    """
    problem, results = problems.scattered(), []
    for devices, chunk in ((2, two), (1, one)):
        use_devices(devices, monkeypatch)
        results.append(three_estimates(make(name, problem, num_tasks=tasks, chunk=chunk), problem))
    chex.assert_trees_all_close(*results, rtol=1e-11, atol=1e-13)


def three_estimates(estimator, problem):
    """(gradients, metrics, and the params of the runs in flight), started anew on the way."""

    @problems.quick_jit
    def run(key):
        def step(state, key):
            grad, state, metrics = estimator.estimate(problem.theta, state, None, key)
            return state, (grad, metrics)

        state, trace = jax.lax.scan(step, estimator.init(problem.theta, key), jax.random.split(key, 3))
        return trace, [run.params for run in problems.runs_in(state)]

    return jax.tree.map(np.asarray, run(jax.random.key(0)))


@pytest.mark.parametrize("name", NAMES)
def test_bad_arguments(name):
    problem = problems.bowl()
    known = inspect.signature(ESTIMATORS[name]).parameters
    bad = [("num_tasks", 0), ("horizon", 0), ("horizon", -6), ("std", -0.1), ("std", float("nan")), ("chunk", 0)]
    bad += [("truncation", 0), ("horizon", 13), ("horizon", (6, 13)), ("horizon", (12, 6)), ("pairs", 0)]
    bad += [("clip_diff", 0.0), ("sign_diff", -1.0), ("period", 0), ("period", 9)]
    bad += [("std", 0.0)] * (runs_per_task(name) == 2)
    for argument, value in bad:
        if argument in known:
            with pytest.raises(ValueError, match=rf"^{argument}: .*{re.escape(str(value))}"):
                make(name, problem, **{argument: value})
    if name not in WHOLE_RUNS:
        with pytest.raises(ValueError, match=r"^outer_loss: minimum is of whole runs: use es or full_grad"):
            make(name, problem, outer_loss=minimum())


@pytest.mark.parametrize("name", NAMES)
def test_defaults_make_an_estimator(name):
    problem = problems.momentum()
    estimator = ESTIMATORS[name](problem.task, problem.optimizer)
    state = jax.eval_shape(estimator.init, problem.theta, jax.random.key(0))
    grad, after, _ = jax.eval_shape(estimator.estimate, problem.theta, state, problem.task.data(), jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes((grad, after), (problem.theta, state))


@pytest.mark.parametrize("name", NAMES)
def test_the_meta_loss_falls(name):
    """Learns to raise a learning rate that is far too small, in 40 outer steps; against the same runs and keys
    with a theta that stays. Stable under `scan`, too."""
    task, optimizer, outer = quadratic(dim=4, condition=2.0), hyper("sgd", {"learning_rate": 1e-3}), optax.adam(0.1)
    estimator = make(name, (task, optimizer), num_tasks=8, truncation=5, horizon=10)

    @problems.quick_jit
    def train(rate, key):
        def step(carry, key):
            theta, opt_state, state = carry
            grad, state, metrics = estimator.estimate(theta, state, {}, key)
            updates, opt_state = outer.update(grad, opt_state)
            theta = jax.tree.map(lambda t, u: t + rate * u, theta, updates)
            return (theta, opt_state, state), metrics["meta_loss"]

        theta = optimizer.init(key)
        carry = theta, outer.init(theta), estimator.init(theta, key)
        (theta, *_), losses = jax.lax.scan(step, carry, jax.random.split(key, 40))
        return theta, losses[-10:].mean()

    still, before = train(0.0, jax.random.key(0))
    moved, after = train(1.0, jax.random.key(0))
    assert float(still["learning_rate"]) == pytest.approx(np.log(1e-3))
    assert moved["learning_rate"] > np.log(0.01)
    assert after < 0.9 * before
