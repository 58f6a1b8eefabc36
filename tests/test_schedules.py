"""Each schedule against the formula in its module's docstring."""

import jax
import numpy as np
import pytest

from metaopt.schedules import SCHEDULES, schedule

T = np.arange(101)
X = T / 100
FORMULAS = {
    "constant": np.ones(101),
    "linear": 1 - X,
    "cosine": (1 + np.cos(np.pi * X)) / 2,
    "exponential": 0.01**X,
}


@pytest.fixture(autouse=True)
def double_precision(x64):
    pass


def values(fn, steps):
    return np.array([float(fn(t)) for t in steps])


def test_every_schedule_has_a_formula():
    assert FORMULAS.keys() == SCHEDULES.keys()


@pytest.mark.parametrize("name", SCHEDULES)
def test_formula(name):
    np.testing.assert_allclose(values(SCHEDULES[name](3e-2, 100), T), 3e-2 * FORMULAS[name], rtol=1e-12, atol=1e-17)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_last_value_stays(name):
    fn = SCHEDULES[name](3e-2, 100)
    assert float(fn(150)) == pytest.approx(float(fn(100)), abs=1e-17)


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up(name):
    got = values(schedule(name, 3e-2, 110, warmup=10), range(111))
    np.testing.assert_allclose(got[:10], 3e-2 * np.arange(1, 11) / 11, rtol=1e-12)
    np.testing.assert_allclose(got[10:], 3e-2 * FORMULAS[name], rtol=1e-12, atol=1e-17)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_step_may_be_a_tracer(name):
    fn = schedule(name, 3e-2, 110, warmup=10)
    np.testing.assert_allclose(jax.jit(jax.vmap(fn))(T), values(fn, T), rtol=1e-12)


def test_a_run_that_is_all_warm_up():
    np.testing.assert_allclose(values(schedule("cosine", 1.0, 4, warmup=4), range(5)), [0.2, 0.4, 0.6, 0.8, 1.0])
