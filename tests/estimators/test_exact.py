"""Each estimator against an exact gradient: equal where it is exact, within its predicted error where it is unbiased,
and far off where it is biased."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaopt.estimators import _common as C
from metaopt.estimators import es, pes, tbptt, truncated_es
from metaopt.types import Inner
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
    runs = problems.quick_jit(estimator.init)(theta, jax.random.key(0))
    grad, after, metrics = problems.quick_jit(estimator.estimate)(theta, runs, data, jax.random.key(1))

    @problems.quick_jit
    @jax.value_and_grad
    def meta_loss(theta):
        each = jax.vmap(lambda run: problems.whole_run_loss(problem, theta, run, data, steps))
        return each(runs).mean()

    loss, exact = meta_loss(theta)
    chex.assert_trees_all_close(grad, exact, rtol=1e-11)
    np.testing.assert_allclose(metrics["meta_loss"], loss, rtol=1e-12)
    assert after.step.tolist() == [steps] * tasks
    h = 1e-5  # truncation error of order h^2 = 1e-10, rounding error of order 1e-16 / h = 1e-11
    for name in theta:
        up, down = (meta_loss(theta | {name: theta[name] + sign * h})[0] for sign in (1, -1))
        np.testing.assert_allclose(grad[name], (up - down) / (2 * h), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("std", [0.5, 3.0])
def test_es_is_exact_in_the_mean_on_a_quadratic(std):
    """Each pair gives eps (eps · grad) / std^2: mean grad, variance |grad|^2 + grad_i^2, whatever std."""
    problem, horizon, pairs = problems.bowl(), 4, 4096
    exact = jax.grad(lambda theta: (horizon - 1) / horizon * problem.task.loss((), theta, (), None)[0])(problem.theta)
    estimator = es(problem.task, problem.optimizer, num_tasks=pairs, horizon=horizon, std=std)
    _, grads = run_at(problem.theta, estimator, 1)(jax.random.key(0))
    error = np.sqrt((jnp.sum(exact**2) + exact**2) / pairs)
    assert np.all(np.abs(grads[0] - exact) < 4 * error)
    assert np.all(error < np.abs(exact) / 10)  # so that a wrong factor could not hide


def test_with_one_truncation_a_run_pes_and_truncated_es_equal_es_bit_for_bit():
    """From the second estimate on: the first run of `es` is drawn from the estimate's key, theirs from init's."""
    problem, arguments = problems.scattered(), {"num_tasks": 4, "horizon": 6, "std": 0.1}
    estimators = [es(problem.task, problem.optimizer, **arguments)]
    estimators += [make(problem.task, problem.optimizer, truncation=6, **arguments) for make in (pes, truncated_es)]
    expected, *others = (
        np.asarray(run_at(problem.theta, estimator, 4)(jax.random.key(0))[1]) for estimator in estimators
    )
    for got in others:
        np.testing.assert_array_equal(got[1:], expected[1:])
        assert got[0] != expected[0]


BIASED = {"influence": (problems.influence_balancing, 96, 8), "early": (problems.early_matters, 32, 4)}
TASKS = 1536


@pytest.fixture(params=BIASED, scope="module")
def biased(request):
    """(problem, horizon, truncation, exact gradient of the whole-run loss, influence of truncation j on loss k)"""
    make, horizon, truncation = BIASED[request.param]
    problem, n = make(), horizon // truncation

    def losses(thetas):
        return problems.truncation_losses(problem, thetas, truncation)

    exact = jax.grad(lambda theta: losses(jnp.full(n, theta)).mean())(problem.theta)
    influence = jax.jacobian(losses)(jnp.full(n, problem.theta))
    return problem, horizon, truncation, float(exact), np.asarray(influence, np.float64)


def cycle_means(estimator, problem, cycle, seeds=1):
    """Mean gradient over the truncations of one cycle, after one that replaces the shortened first runs; [seeds]"""
    run = run_at(problem.theta, estimator, 2 * cycle)
    return np.array([run(jax.random.key(seed))[1][cycle:].mean() for seed in range(seeds)], np.float64)


def test_pes_is_unbiased_over_a_cycle(biased):
    problem, horizon, truncation, exact, influence = biased
    estimator = pes(problem.task, problem.optimizer, num_tasks=TASKS, truncation=truncation, horizon=horizon, std=0.3)
    (mean,) = cycle_means(estimator, problem, horizon // truncation)
    error = np.sqrt(problems.pes_variance(influence) / TASKS)
    assert abs(mean - exact) < 4 * error
    assert 4 * error < abs(exact) / 4  # far from zero, from twice the gradient and from the biased ones below


def test_es_is_unbiased(biased):
    problem, horizon, _, exact, _ = biased
    estimator = es(problem.task, problem.optimizer, num_tasks=TASKS, horizon=horizon, std=0.3)
    _, grads = run_at(problem.theta, estimator, 1)(jax.random.key(0))
    assert abs(grads[0] - exact) < 4 * np.sqrt(2 * exact**2 / TASKS)


def test_tbptt_has_the_wrong_sign(biased):
    """Nothing is random here: the mean over a cycle is the sum of each truncation's influence on itself."""
    problem, horizon, truncation, exact, influence = biased
    cycle = horizon // truncation
    estimator = tbptt(problem.task, problem.optimizer, num_tasks=cycle, truncation=truncation, horizon=horizon)
    (mean,) = cycle_means(estimator, problem, cycle)
    np.testing.assert_allclose(mean, np.trace(influence) / cycle, rtol=1e-4)  # some 100 steps of float32's 6e-8
    assert mean * exact < 0


def test_truncated_es_has_the_wrong_sign(biased):
    problem, horizon, truncation, exact, _ = biased
    estimator = truncated_es(
        problem.task, problem.optimizer, num_tasks=TASKS // 8, truncation=truncation, horizon=horizon, std=0.3
    )
    means = cycle_means(estimator, problem, horizon // truncation, seeds=8)
    mean, error = np.mean(means), np.std(means, ddof=1) / np.sqrt(len(means))
    assert mean * exact < 0 and abs(mean) > 4 * error
    assert abs(mean - exact) > 20 * error


def test_horizons_are_log_uniform_multiples_of_the_truncation():
    low, high, truncation, draws = 20, 2000, 20, 4000
    keys = jax.random.split(jax.random.key(0), draws)
    horizons = np.asarray(jax.jit(jax.vmap(lambda key: C.sample_horizon((low, high), truncation, key)))(keys))
    assert horizons.dtype == np.int32
    assert not np.any(horizons % truncation)
    assert (horizons.min(), horizons.max()) == (low, high)
    for bound in (50, 210, 1010):  # between two multiples, so that rounding moves nothing across
        p = np.log(bound / low) / np.log(high / low)
        assert abs(np.mean(horizons < bound) - p) < 4 * np.sqrt(p * (1 - p) / draws)


@pytest.mark.parametrize("name", ["tbptt", "truncated_es", "pes"])
def test_runs_keep_to_the_horizons(name):
    """Random horizons: after two cycles every run in flight has one of them, and has not outlived it."""
    problem = problems.early_matters()
    make = {"tbptt": tbptt, "truncated_es": truncated_es, "pes": pes}[name]
    estimator = make(problem.task, problem.optimizer, num_tasks=64, truncation=2, horizon=(4, 8))
    state, _ = run_at(problem.theta, estimator, 8)(jax.random.key(0))
    (run,) = problems.runs_in(state)
    assert set(run.horizon.tolist()) == {4, 6, 8}
    assert set(run.step.tolist()) == {2, 4, 6, 8}
    assert np.all(run.step <= run.horizon)
    np.testing.assert_array_equal(run.params["t"].reshape(64, -1)[:, 0], run.step)  # real steps, not only a counter


def test_staggered_runs_cover_all_ages_equally():
    """After the first cycle: 20 runs of 10 truncations each, so two at every age."""
    problem = problems.early_matters()
    estimator = tbptt(problem.task, problem.optimizer, num_tasks=20, truncation=5, horizon=50)
    state, _ = run_at(problem.theta, estimator, 10)(jax.random.key(0))
    assert sorted(state.step.tolist()) == sorted(2 * list(range(5, 51, 5)))


def test_stagger_is_exact_for_every_number_of_runs():
    """rank / num_tasks of the horizon rounded up, also where the fraction is not a float (3 / 10 of 50, say)."""
    ranks, counts = (np.array(x) for x in zip(*[(r, n) for n in range(1, 101) for r in range(1, n + 1)], strict=True))
    run = Inner((), (), (), np.zeros_like(ranks), 5 * counts, jax.random.split(jax.random.key(0), len(ranks)))
    shortened = jax.vmap(C.staggered, in_axes=(0, 0, 0, None))(run, ranks, counts, 5)
    np.testing.assert_array_equal(shortened.horizon, 5 * ranks)
