"""The statistics of experiments/estimators against distributions that are known, and its toy problem against numpy."""

import importlib
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "experiments" / "estimators"


@pytest.fixture
def load(monkeypatch):
    """A module of the experiment by name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def test_the_noise_of_means_is_taken_off(load):
    """Over 2,000 experiments, at 4 standard errors: squared norms and distances, of 5 and 7 samples in 4 dimensions,
    where the noise adds 1.8 and 2.4."""
    bias = load("_bias")
    rng = np.random.default_rng(0)
    x = np.array([1.0, -2.0, 0.0, 0.5]) + 1.5 * rng.standard_normal((2000, 5, 4))
    y = np.array([0.0, -1.0, 0.0, 0.5]) + 1.0 * rng.standard_normal((2000, 7, 4))
    for got, expected in (
        ([bias.squared_norm(one) for one in x], 5.25),
        ([bias.squared_distance(*both) for both in zip(x, y, strict=True)], 2.0),
    ):
        error = np.std(got, ddof=1) / np.sqrt(len(got))
        assert abs(np.mean(got) - expected) < 4 * error < 0.2 * expected


def test_measures_of_gaussian_gradients(load):
    """16 tasks with a variance of 3 per coordinate and estimate, independent in time; 4 estimates in a cycle. The mean
    is twice the exact gradient, in 3 dimensions of norm 5; the smoothed one is the mean itself."""
    bias = load("_bias")
    rng = np.random.default_rng(0)
    exact = np.array([3.0, 4.0, 0.0])
    grads = 2 * exact + np.sqrt(3 / 16) * rng.standard_normal((200, 8, 3))
    reference = np.stack([exact, 2 * exact]) + 0.1 * rng.standard_normal((50, 2, 3))
    got = bias.measure(grads, reference, cycle=4, num_tasks=16, perturbed=True)
    assert got["total_bias"].value == pytest.approx(1.0, abs=0.01)  # errors of sqrt(3 / 16 / 1600) / 5 = 0.002
    assert got["bias"].high < 0.02
    assert got["cosine"].value == pytest.approx(1.0, abs=1e-3)
    for name in ("variance", "variance_step"):  # 9 / 4 / 25; each of some 200 * 3 * 2 degrees of freedom: 4 %
        assert got[name].value == pytest.approx(0.09, rel=0.16)
        assert got[name].low < 0.09 < got[name].high
    ratios = bias.ratio(grads, grads[:100] / 2, (4, 4))
    assert [ratios[name].value for name in ratios] == pytest.approx([4.0, 4.0], rel=0.25)


def test_the_jackknife_of_a_mean_is_its_standard_error(load):
    x = np.random.default_rng(0).standard_normal(20)
    value, error = load("_bias").jackknife(lambda x: float(x.mean()), x)
    assert (value, error) == pytest.approx((x.mean(), x.std(ddof=1) / np.sqrt(20)))


def test_exponents_do_not_see_the_constant(load):
    sizes = {str(n): 10**6 + 300 * n**0.5 for n in (100, 400, 1600, 6400)}
    assert load("_memory").exponents(sizes)["growth"] == pytest.approx(0.5)


def test_references_of_influence_balancing(load):
    """x_t = theta u_t, loss (theta u_t - 1)^2 / 2: in numpy. Quadratic, so that smoothing changes nothing: float32."""
    problem = load("_problems").influence_balancing()._replace(num_tasks=2)
    chains, problems = load("_chains"), load("_problems")
    one = chains.chain(problem, problems.build(problems.ROWS["full_grad"], problem), {}, True, 1)
    signs, u, gradients = np.where(np.arange(23) < 10, 1.0, -1.0), np.zeros(23), []
    for _ in range(problem.horizon):
        gradients.append((0.5 * u[0] - 1.0) * u[0])
        u = 0.5 * (u + np.append(u[1:], 0.0)) + signs
    np.testing.assert_allclose(chains.references(problem, one, {}, 2), np.mean(gradients), rtol=1e-4)


def test_intervals_of_no_bias_contain_zero(load):
    """In one dimension, where a squared mean scatters most: 95 of 100 at least, and the bound is never zero."""
    bias = load("_bias")
    samples = np.random.default_rng(0).standard_normal((200, 20, 1))
    got = [bias.root(bias.squared_norm, x, also=bias.scatter(x)) for x in samples]
    assert np.mean([interval.low > 0 for interval in got]) <= 0.05
    assert min(interval.high for interval in got) > 0


def test_scatter_is_that_of_a_squared_mean(load):
    """Fewer samples than dimensions, all directions unequal: over 1,000 experiments, 3 % each way at one standard
    error."""
    bias = load("_bias")
    x = np.random.default_rng(0).standard_normal((1000, 10, 40)) * np.geomspace(1, 3, 40)
    got = np.sqrt(np.mean([bias.scatter(one) ** 2 for one in x]))
    assert got == pytest.approx(np.std([bias.squared_norm(one) for one in x]), rel=0.12)
