"""Each estimator against an exact gradient: equal where it is exact, within its predicted error where it is unbiased,
and far off where it is biased."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from metaopt import sharding
from metaopt.estimators import _common as C
from metaopt.estimators import combined, es, final, full_grad, gpes, mean, nres, pes, tbptt, truncated_es
from metaopt.estimators.combined import inverse_variance
from metaopt.estimators.full_grad import grouping
from tests.estimators import problems


def run_at(theta, estimator, count):
    """key -> (final state, gradients [count, ...]) at fixed theta, compiled."""

    @problems.quick_jit
    def run(key):
        init_key, key = jax.random.split(key)

        def step(state, key):
            grad, state, _ = estimator.estimate(theta, state, None, key)
            return state, grad

        return jax.lax.scan(step, estimator.init(theta, init_key), jax.random.split(key, count))

    return run


def test_tbptt_over_whole_runs_is_the_exact_gradient(x64):
    """Members, batches, noise and a learned initial state included. Rounding: 6 steps of some 100 operations."""
    problem, steps, tasks = problems.momentum(), 6, 2
    data, theta = problem.task.data(), jax.tree.map(jnp.float64, problem.theta)
    estimator = tbptt(problem.task, problem.optimizer, num_tasks=tasks, truncation=steps, horizon=steps)
    state = problems.quick_jit(estimator.init)(theta, jax.random.key(0))
    grad, after, metrics = problems.quick_jit(estimator.estimate)(theta, state, data, jax.random.key(1))

    @problems.quick_jit
    @jax.value_and_grad
    def meta_loss(theta):
        each = jax.vmap(lambda run: problems.whole_run_loss(problem, theta, run, data, steps))
        return each(state.runs).mean()

    loss, exact = meta_loss(theta)
    chex.assert_trees_all_close(grad, exact, rtol=1e-11)
    np.testing.assert_allclose(metrics["meta_loss"], loss, rtol=1e-12)
    assert after.runs.step.tolist() == [steps] * tasks
    h = 1e-5  # truncation error of order h^2 = 1e-10, rounding error of order 1e-16 / h = 1e-11
    for name in theta:
        up, down = (meta_loss(theta | {name: theta[name] + sign * h})[0] for sign in (1, -1))
        np.testing.assert_allclose(grad[name], (up - down) / (2 * h), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("std", [0.5, 3.0])
def test_es_is_exact_in_the_mean_on_a_quadratic(std):
    """Each pair gives eps (eps · grad) / std^2: mean grad, variance |grad|^2 + grad_i^2, whatever std."""
    problem, horizon, pairs = problems.bowl(), 4, 4096
    exact = jax.grad(lambda theta: (horizon - 1) / horizon * problem.task.loss((), theta, (), None)[0])(problem.theta)
    estimator = es(problem.task, problem.optimizer, num_tasks=pairs, truncation=2, horizon=horizon, std=std)
    _, grads = run_at(problem.theta, estimator, 1)(jax.random.key(0))
    error = np.sqrt((jnp.sum(exact**2) + exact**2) / pairs)
    assert np.all(np.abs(grads[0] - exact) < 4 * error)
    assert np.all(error < np.abs(exact) / 10)  # so that a wrong factor could not hide


@pytest.mark.parametrize("first_order", [False, True])
def test_first_order_takes_what_the_problem_says_as_constant(first_order, x64):
    """Against the written-out gradient of a run whose gradients, if first-order, are stopped."""
    problem, steps = problems.momentum(), 4
    data, theta = problem.task.data(), jax.tree.map(jnp.float64, problem.theta)
    arguments = {"num_tasks": 1, "truncation": steps, "horizon": steps, "first_order": first_order}
    estimator = tbptt(problem.task, problem.optimizer, **arguments)
    state = problems.quick_jit(estimator.init)(theta, jax.random.key(0))
    run = jax.tree.map(lambda x: x[0], state.runs)

    def loss(x, t):
        keys = [jax.random.fold_in(run.key, 2 * t + i) for i in range(2)]
        return problem.task.loss(run.cfg, x, problem.task.batch(run.cfg, data, keys[0], "train"), keys[1])[0]

    @problems.quick_jit
    @jax.grad
    def exact(theta):
        tx, x, total = problem.optimizer.build(theta, steps), run.params, 0.0
        velocity = tx.init(x)
        for t in range(steps):
            total += problem.task.normalize(run.cfg, loss(x, t)) / steps
            told = jax.grad(loss)(x, t)
            update, velocity = tx.update(jax.lax.stop_gradient(told) if first_order else told, velocity, x)
            x = x + update
        return total

    grad, _, _ = problems.quick_jit(estimator.estimate)(theta, state, data, jax.random.key(1))
    chex.assert_trees_all_close(grad, exact(theta), rtol=1e-11)  # rounding of some hundred operations


def test_full_grad_is_exact_over_many_pieces(x64):
    """Groups that are not full, and each run with its own horizon. Rounding as above."""
    problem, tasks = problems.momentum(), 3
    data, theta = problem.task.data(), jax.tree.map(jnp.float64, problem.theta)
    estimator = full_grad(problem.task, problem.optimizer, num_tasks=tasks, truncation=2, horizon=(4, 14))
    state, key = estimator.init(theta, jax.random.key(0)), jax.random.key(3)
    grad, _, metrics = problems.quick_jit(estimator.estimate)(theta, state, data, key)
    restart_keys = jax.random.split(jax.random.split(key)[0], tasks)
    setup = C.setup(problem.task, problem.optimizer, 2, (4, 14), mean())
    runs = jax.vmap(lambda key: C.fresh(setup, ravel_pytree(theta)[0], 0, key))(restart_keys)
    horizons = runs.horizon.tolist()
    assert len(set(horizons)) > 1

    @problems.quick_jit
    @jax.value_and_grad
    def meta_loss(theta):
        each = [jax.tree.map(lambda x, i=i: x[i], runs) for i in range(tasks)]
        losses = [problems.whole_run_loss(problem, theta, run, data, n) for run, n in zip(each, horizons, strict=True)]
        return sum(losses) / tasks

    loss, exact = meta_loss(theta)
    chex.assert_trees_all_close(grad, exact, rtol=1e-11)
    np.testing.assert_allclose(metrics["meta_loss"], loss, rtol=1e-12)


def test_groups_of_pieces_are_about_square_roots():
    for pieces in range(1, 400):
        groups, size = grouping(pieces)
        assert 0 <= groups * size - pieces < min(groups, size)
        assert groups + size <= 2.6 * pieces**0.5 + 1  # sqrt(n) / 2 and 2 sqrt(n) at worst


def test_the_gradient_of_a_perturbed_theta_is_that_of_the_smoothed_loss():
    """On the bowl each is grad + H eps 3/4: the mean is the gradient, the variance std^2 of each row of 3/4 H."""
    problem, std, tasks = problems.bowl(), 0.5, 512

    def shrunk(theta):
        return 0.75 * problem.task.loss((), theta, (), None)[0]

    exact, error = jax.grad(shrunk)(problem.theta), std * jnp.linalg.norm(jax.hessian(shrunk)(problem.theta), axis=1)
    for make in (tbptt, full_grad):
        estimator = make(problem.task, problem.optimizer, num_tasks=tasks, truncation=4, horizon=4, std=std)
        _, grads = run_at(problem.theta, estimator, 4)(jax.random.key(0))
        assert np.all(np.abs(grads.mean(0) - exact) < 4 * error / np.sqrt(4 * tasks))
        spread = grads.std(0, ddof=1) * np.sqrt(tasks) / error  # of 4 estimates: chi, 3 degrees of freedom
        assert np.all((spread > 0.05) & (spread < 2.7))  # 1e-3 and 1 - 1e-4 quantiles


@pytest.mark.parametrize("make", [combined, partial(pes, analytic=True)], ids=["combined", "pes-analytic"])
def test_exact_where_backpropagation_does_not_vary(make):
    """On the bowl the gradients at theta +- eps average to that at theta, and (L+ - L-) / 2 is eps times it: the first
    puts all weight on backpropagation, in the second the noise cancels. Rounding of some ten operations on losses of
    5, over std^2."""
    problem = problems.bowl()
    estimator = make(problem.task, problem.optimizer, num_tasks=8, truncation=4, horizon=4, std=0.5)
    _, grads = run_at(problem.theta, estimator, 2)(jax.random.key(0))
    exact = jax.grad(lambda theta: 0.75 * problem.task.loss((), theta, (), None)[0])(problem.theta)
    np.testing.assert_allclose(grads, jnp.stack([exact, exact]), rtol=1e-5)


def test_inverse_variance_weights():
    """Against the formula in numpy; a gradient that is not finite, or as certain, or both certain."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 0.3, (6, 6)).astype(np.float32), rng.normal(2, 3.0, (6, 6)).astype(np.float32)
    b[0, 1], b[:, 2], a[:, 3], a[:, 4], b[:, 4], b[3, 5] = np.nan, 2.0, 1.0, 1.0, 2.0, np.inf

    def each_device(a, b):
        return inverse_variance(((a, b), {"first": a[:, 0]}))

    got, metrics = problems.quick_jit(sharding.over_runs(each_device, 6, (True, True), False))(a, b)
    weights = [1 / np.var(x[:, 0]) for x in (a, b)]
    expected = [
        np.dot(weights, [a[:, 0].mean(), b[:, 0].mean()]) / sum(weights),
        a[:, 1].mean(),
        2.0,
        1.0,
        1.5,
        a[:, 5].mean(),
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-5)  # variances of 6 numbers in float32
    np.testing.assert_allclose(metrics["first"], a[:, 0].mean(), rtol=1e-6)


def test_with_one_truncation_a_run_all_equal_es_bit_for_bit():
    """From the second estimate on: the first run of `es` is drawn from the estimate's key, theirs from init's."""
    problem, arguments = problems.scattered(), {"num_tasks": 2, "pairs": 2, "horizon": 6, "truncation": 6, "std": 0.1}
    estimators = [make(problem.task, problem.optimizer, **arguments) for make in (es, pes, truncated_es, nres)]
    estimators.append(gpes(problem.task, problem.optimizer, period=6, **arguments))
    expected, *others = (
        np.asarray(run_at(problem.theta, estimator, 4)(jax.random.key(0))[1]) for estimator in estimators
    )
    for got in others:
        np.testing.assert_array_equal(got[1:], expected[1:])
        assert got[0] != expected[0]


def test_pes_is_gpes_of_one_truncation_and_nres_of_the_whole_run():
    """Over two cycles, bit for bit."""
    problem, arguments = problems.scattered(), {"num_tasks": 4, "horizon": 6, "truncation": 2, "std": 0.1}
    for make, period in ((pes, 2), (nres, 6)):
        estimators = make(problem.task, problem.optimizer, **arguments), None
        estimators = estimators[0], gpes(problem.task, problem.optimizer, period=period, **arguments)
        first, second = (run_at(problem.theta, estimator, 6)(jax.random.key(0))[1] for estimator in estimators)
        np.testing.assert_array_equal(first, second)


BIASED = {"influence": (problems.influence_balancing, 96, 8), "early": (problems.early_matters, 32, 4)}
TASKS = 1536


@pytest.fixture(params=BIASED, scope="module")
def biased(request):
    """final -> (problem, horizon, truncation, exact gradient of a run's mean or final loss, influence of truncation j
    on share k)"""
    make, horizon, truncation = BIASED[request.param]
    problem, n = make(), horizon // truncation

    def known(final=False):
        @problems.quick_jit
        @jax.jacobian
        def influence(thetas):
            return problems.truncation_losses(problem, thetas, truncation, final)

        matrix = np.asarray(influence(jnp.full(n, problem.theta)), np.float64)
        return problem, horizon, truncation, matrix.sum() / n, matrix

    return known


def cycle_means(estimator, problem, cycle, seeds=1):
    """Mean gradient over the truncations of one cycle, after one that replaces the shortened first runs; [seeds]"""
    run = run_at(problem.theta, estimator, 2 * cycle)
    return np.array([run(jax.random.key(seed))[1][cycle:].mean() for seed in range(seeds)], np.float64)


UNBIASED = {  # estimator, arguments, which draw of the noise a truncation feels
    "pes": (pes, {}, lambda n: np.arange(n)),
    "pes-final": (pes, {"outer_loss": final()}, lambda n: np.arange(n)),
    "pes-analytic": (pes, {"analytic": True}, lambda n: np.arange(n)),
    "gpes": (gpes, {"period": 2}, lambda n: np.arange(n) // 2),
    "gpes-final": (gpes, {"period": 2, "outer_loss": final()}, lambda n: np.arange(n) // 2),
    "nres": (nres, {}, lambda n: np.zeros(n, int)),
}


@pytest.mark.parametrize("name", [pytest.param(k, marks=[pytest.mark.slow] * (k == "gpes-final")) for k in UNBIASED])
def test_unbiased_over_a_cycle(biased, name):
    make, arguments, noises = UNBIASED[name]
    problem, horizon, truncation, exact, influence = biased(final="outer_loss" in arguments)
    n, tasks = horizon // truncation, TASKS * (24 if "outer_loss" in arguments else 1)
    if "period" in arguments:
        arguments = arguments | {"period": arguments["period"] * truncation}
    estimator = make(
        problem.task, problem.optimizer, num_tasks=tasks, truncation=truncation, horizon=horizon, std=0.3, **arguments
    )
    (got,) = cycle_means(estimator, problem, n)
    error = np.sqrt(problems.pes_variance(influence, noises(n), analytic="analytic" in arguments) / tasks)
    assert abs(got - exact) < 4 * error
    assert 4 * error < abs(exact) / 3  # far from zero, from twice the gradient and from the biased ones below


def test_es_is_unbiased(biased):
    problem, horizon, truncation, exact, _ = biased()
    estimator = es(problem.task, problem.optimizer, num_tasks=TASKS, truncation=truncation, horizon=horizon, std=0.3)
    _, grads = run_at(problem.theta, estimator, 1)(jax.random.key(0))
    assert abs(grads[0] - exact) < 4 * np.sqrt(2 * exact**2 / TASKS)


def test_tbptt_has_the_wrong_sign(biased):
    """Nothing is random here: the mean over a cycle is the sum of each truncation's influence on itself."""
    problem, horizon, truncation, exact, influence = biased()
    cycle = horizon // truncation
    estimator = tbptt(problem.task, problem.optimizer, num_tasks=cycle, truncation=truncation, horizon=horizon)
    (got,) = cycle_means(estimator, problem, cycle)
    np.testing.assert_allclose(got, np.trace(influence) / cycle, rtol=1e-4)  # some 100 steps of float32's 6e-8
    assert got * exact < 0


def test_truncated_es_has_the_wrong_sign(biased):
    problem, horizon, truncation, exact, _ = biased()
    estimator = truncated_es(
        problem.task, problem.optimizer, num_tasks=TASKS // 8, truncation=truncation, horizon=horizon, std=0.3
    )
    means = cycle_means(estimator, problem, horizon // truncation, seeds=8)
    got, error = np.mean(means), np.std(means, ddof=1) / np.sqrt(len(means))
    assert got * exact < 0 and abs(got) > 4 * error
    assert abs(got - exact) > 20 * error
