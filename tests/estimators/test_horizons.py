"""How long runs are, and that a batch of them covers all ages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaopt.estimators import ESTIMATORS, _horizons, constant, curriculum, es, log_uniform, mean, pes, tbptt, uniform
from metaopt.estimators import _common as C
from tests.estimators import problems
from tests.estimators.test_exact import run_at

DRAWS = 4000


def draw(law, truncation, estimates=0):
    """[DRAWS] horizons"""
    law, keys = _horizons.law(law, truncation), jax.random.split(jax.random.key(0), DRAWS)
    sample = jax.vmap(lambda key: _horizons.sample(law, truncation, jnp.asarray(estimates), key))
    return np.asarray(problems.quick_jit(sample)(keys))


def test_log_uniform():
    low, high, truncation = 20, 2000, 20
    horizons = draw((low, high), truncation)
    np.testing.assert_array_equal(horizons, draw(log_uniform(low, high), truncation))
    assert horizons.dtype == np.int32
    assert not np.any(horizons % truncation)
    assert (horizons.min(), horizons.max()) == (low, high)
    for bound in (50, 210, 1010):  # between two multiples, so that rounding moves nothing across
        p = np.log(bound / low) / np.log(high / low)
        assert abs(np.mean(horizons < bound) - p) < 4 * np.sqrt(p * (1 - p) / DRAWS)


def test_uniform():
    values, counts = np.unique(draw(uniform(40, 120), 20), return_counts=True)
    assert values.tolist() == [40, 60, 80, 100, 120]
    assert np.all(np.abs(counts / DRAWS - 0.2) < 4 * np.sqrt(0.2 * 0.8 / DRAWS))


def test_constant_and_curriculum():
    assert set(draw(60, 20)) == set(draw(constant(60), 20)) == {60}
    law = curriculum(100, 1600, over=8)
    got = [set(draw(law, 20, estimates)) for estimates in (0, 2, 4, 8, 9)]
    assert got == [{100}, {200}, {400}, {1600}, {1600}]  # twice as long every second outer step
    assert set(draw(law, 20, 1)) == {140}  # 100 sqrt(2) = 141 in multiples of 20
    with pytest.raises(ValueError, match=r"^over: must be positive"):
        curriculum(over=0)


def test_runs_get_longer_as_the_outer_steps_go():
    """Each run that starts takes the law of its moment."""
    problem = problems.early_matters()
    estimator = tbptt(problem.task, problem.optimizer, num_tasks=1, truncation=2, horizon=curriculum(2, 8, over=4))
    trace = []

    @problems.quick_jit
    def run(key):
        def step(state, key):
            _, state, _ = estimator.estimate(problem.theta, state, None, key)
            return state, (state.runs.step[0], state.runs.horizon[0])

        return jax.lax.scan(step, estimator.init(problem.theta, key), jax.random.split(key, 10))[1]

    trace = [tuple(map(int, pair)) for pair in zip(*run(jax.random.key(0)), strict=True)]
    # outer steps 0, 1 (2 sqrt 2, in twos), 2 (4) and 4 (8)
    assert trace == [(2, 2), (2, 2), (2, 4), (4, 4), (2, 8), (4, 8), (6, 8), (8, 8), (2, 8), (4, 8)]


def test_es_gives_every_run_its_own_horizon():
    """On the bowl the loss of T steps is (T - 1) / T times that of theta. Mean and variance over T and eps."""
    problem, pairs, horizons = problems.bowl(), 8192, np.array([2, 4, 6, 8])
    full = jax.grad(lambda theta: problem.task.loss((), theta, (), None)[0])(problem.theta)
    factor = (horizons - 1) / horizons
    estimator = es(problem.task, problem.optimizer, num_tasks=pairs, truncation=2, horizon=uniform(2, 8), std=0.5)
    _, grads = run_at(problem.theta, estimator, 1)(jax.random.key(0))
    second_moment = np.mean(factor**2) * (np.sum(full**2) + 2 * full**2)
    error = np.sqrt((second_moment - (np.mean(factor) * full) ** 2) / pairs)
    assert np.all(np.abs(grads[0] - np.mean(factor) * full) < 4 * error)
    assert np.all(8 * error < 0.2 * np.abs(full))  # shorter or longer runs alone would be told apart


@pytest.mark.parametrize("name", ["tbptt", "truncated_es", "pes", "gpes", "combined"])
def test_runs_keep_to_the_horizons(name):
    """Random horizons: after two cycles every run in flight has one of them, and has not outlived it."""
    problem = problems.early_matters()
    estimator = ESTIMATORS[name](problem.task, problem.optimizer, num_tasks=64, truncation=2, horizon=(4, 8))
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
    assert sorted(state.runs.step.tolist()) == sorted(2 * list(range(5, 51, 5)))


def test_stagger_is_exact_for_every_number_of_runs():
    """rank / num_tasks of the horizon rounded up, also where the fraction is not a float (3 / 10 of 50, say)."""
    ranks, counts = (np.array(x) for x in zip(*[(r, n) for n in range(1, 101) for r in range(1, n + 1)], strict=True))
    np.testing.assert_array_equal(C.shortened(5 * counts, 5, (ranks, counts)), 5 * ranks)
    assert [C.shortened(10, 5, (rank, 4)) for rank in (1, 2, 3, 4)] == [5, 5, 10, 10]


def test_pairs_of_a_task_share_all_but_their_noise():
    problem = problems.momentum()
    data = problem.task.data()
    estimator = pes(problem.task, problem.optimizer, num_tasks=2, pairs=3, truncation=2, horizon=4, outer_loss=mean())

    @problems.quick_jit
    def run(key):
        def step(state, key):
            return estimator.estimate(problem.theta, state, data, key)[1], None

        first = estimator.init(problem.theta, key)
        return first, jax.lax.scan(step, first, jax.random.split(key, 5))[0]

    first, last = run(jax.random.key(0))
    for pair, _ in (first.runs, last.runs):
        for x in (pair.cfg["a"], jax.random.key_data(pair.key), pair.step, pair.horizon):
            groups = np.asarray(x).reshape(2, 3, -1)
            np.testing.assert_array_equal(groups, groups[:, :1].repeat(3, axis=1))
        assert not np.array_equal(pair.cfg["a"][0], pair.cfg["a"][3])
    assert len(set(last.runs.xi[:, 0].tolist())) == 6
