"""Statistics against scipy, against cases worked out by hand, and on optimizers whose difference is planted."""

import math

import numpy as np
import pytest
import scipy.stats

from metaopt.evaluate import metrics, statistics
from metaopt.evaluate.statistics import bootstrap, interval, iqm, mean, median, probability_of_improvement
from tests.evaluate.fake_results import smoothed

INF = math.inf
RNG = np.random.default_rng


@pytest.mark.parametrize("n", [4, 8, 20])
def test_iqm_is_the_trimmed_mean(n):
    values = RNG(n).normal(size=(3, n))
    np.testing.assert_allclose(iqm(values), scipy.stats.trim_mean(values, 0.25, axis=-1), rtol=1e-12)


def test_aggregates_by_hand():
    assert iqm(np.array([7.0])) == 7.0
    # 6 values: 1.5 are cut at each end, so that the second and fifth count half
    values = np.array([100.0, 2.0, 3.0, 4.0, -50.0, 9.0])
    assert iqm(values) == pytest.approx((1 + 3 + 4 + 4.5) / 3)
    assert (median(values), mean(values)) == (3.5, pytest.approx(68 / 6))
    assert iqm(np.array([INF, 1.0, 3.0, 0.0])) == 2.0  # a failure outside the middle half leaves no trace
    assert iqm(np.array([INF, INF, 3.0, 0.0])) == INF


# Two Monte Carlo estimates of a bootstrap quantile, n draws each, differ by sqrt(2 p (1 - p) / n) / density, with
# p = 0.025 and the normal's density 0.0584 there: 0.027 standard deviations for n = 20,000. Tests allow four times that
N, QUANTILE_ERROR = 20_000, 4 * 0.027


@pytest.mark.parametrize("aggregate", [mean, iqm])
def test_interval_over_seeds_is_scipys_stratified_bootstrap(aggregate):
    scores = RNG(0).normal(size=(5, 8)) * np.array([[0.1], [1], [1], [2], [3]]) + np.arange(5.0)[:, None]

    def pooled(*tasks, axis=-1):
        return aggregate(np.concatenate(tasks, axis=-1))

    theirs = scipy.stats.bootstrap(list(scores), pooled, n_resamples=N, method="percentile", batch=5000, rng=RNG(1))
    ours = bootstrap(lambda x: aggregate(x.reshape(*x.shape[:-2], -1)), scores, resample_tasks=False, draws=N)
    tolerance = QUANTILE_ERROR * theirs.standard_error
    assert ours.value == aggregate(scores.ravel())
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=tolerance)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=tolerance)
    # and with the number of draws that evaluations use, sqrt(10) times fewer
    usual = interval(scores, aggregate, resample_tasks=False)
    assert usual == pytest.approx(ours, abs=3 * tolerance)


def test_interval_over_tasks_is_scipys_bootstrap_of_tasks():
    tasks = RNG(0).normal(size=12)
    theirs = scipy.stats.bootstrap([tasks], np.mean, n_resamples=N, method="percentile", batch=5000, rng=RNG(1))
    scores = np.repeat(tasks[:, None], 3, axis=1)  # seeds that agree: tasks are all that varies
    ours = bootstrap(lambda x: x.mean((-1, -2)), scores, draws=N)
    tolerance = QUANTILE_ERROR * theirs.standard_error
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=tolerance)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=tolerance)
    assert interval(scores, mean, resample_tasks=False) == pytest.approx((tasks.mean(),) * 3)


def test_interval_of_both_has_the_variance_of_both():
    """The variance of a mean: that of task means over tasks, plus that within tasks over all runs (divisors n)."""
    scores = RNG(0).normal(size=(20, 10)) + RNG(1).normal(size=(20, 1))
    draws = []
    bootstrap(lambda x: draws.append(x.mean((-1, -2))) or draws[-1], scores, draws=N)
    expected = scores.mean(1).var() / 20 + scores.var(axis=1).mean() / 200
    # the variance of n draws has relative error sqrt(2 / n) = 0.01
    assert draws[0].var() == pytest.approx(expected, rel=4 * 0.01)


def test_intervals_survive_failures():
    losses = np.array([[1.0, INF], [INF, INF], [2.0, 3.0]])
    assert interval(losses, median).high == INF
    assert not np.isnan(interval(losses, median)).any()


def test_ranks_are_scipys_and_failures_share_the_last():
    losses = RNG(0).integers(4, size=(6, 5, 3)).astype(float)
    np.testing.assert_array_equal(statistics.ranks(losses), scipy.stats.rankdata(losses, axis=0))
    by_hand = statistics.ranks(np.array([2.0, np.nan, 1.0, 2.0, INF]))
    assert by_hand.tolist() == [2.5, 4.5, 1.0, 2.5, 4.5]


def test_performance_profile_by_hand():
    times = np.array([[100, 300, INF, INF], [200, 100, 50, np.nan], [100, INF, 250, INF]])
    ratios = statistics.time_ratios(times)
    assert ratios.tolist() == [[1, 3, INF, INF], [2, 1, 1, INF], [1, INF, 5, INF]]  # the fourth task: solved by nobody
    assert statistics.profile(ratios, np.array([1, 2, 2.9, 3, 100])).tolist() == [
        [0.25, 0.25, 0.25, 0.5, 0.5],
        [0.5, 0.75, 0.75, 0.75, 0.75],
        [0.25, 0.25, 0.25, 0.25, 0.5],
    ]
    # (3 + 1) / 3 / 4, (2 + 3 + 3) / 3 / 4, 3 / 3 / 4
    np.testing.assert_allclose(statistics.profile_area(ratios), [1 / 3, 2 / 3, 1 / 4])


def test_profile_area_is_the_integral_of_the_profile():
    ratios = statistics.time_ratios(RNG(0).uniform(1, 6, size=(4, 9)))
    taus = 1 + 3 * (np.arange(30_000) + 0.5) / 30_000  # midpoints: each of 9 jumps is off by at most 1 / 9 / 30,000 / 2
    np.testing.assert_allclose(
        statistics.profile_area(ratios), statistics.profile(ratios, taus).mean(axis=-1), atol=1 / 60_000
    )


def test_probability_of_improvement_is_mann_whitneys_u():
    x, y = (RNG(s).integers(5, size=(6, 7)).astype(float) for s in (0, 1))
    u = [scipy.stats.mannwhitneyu(b, a, method="asymptotic").statistic / 49 for a, b in zip(x, y, strict=True)]
    assert probability_of_improvement(x, y) == pytest.approx(np.mean(u), rel=1e-12)
    assert probability_of_improvement(y, x) == pytest.approx(1 - np.mean(u), rel=1e-12)
    failed = np.array([[np.nan, 1.0]])
    assert probability_of_improvement(np.array([[0.5, INF]]), failed) == (1 + 1 + 0 + 0.5) / 4


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (0.5, INF),  # better than all of 100: no more is known
        (1.0, 69),  # as good as 1 of 100: log(1/2) / log(0.99) = 68.97
        (10.0, 7),  # 10 of 100: 6.58
        (50.0, 1),  # exactly half: 1
        (90.0, 1),
        (1000.0, 1),  # worse than all that are finite: the first draw
        (INF, 0),
        (math.nan, 0),
    ],
)
def test_trials_worth_by_hand(loss, expected):
    assert statistics.trials_worth(loss, np.arange(1.0, 101.0)) == expected


def test_trials_worth_is_the_median_number_of_draws():
    trials = np.append(RNG(0).exponential(size=195), [np.nan, INF, np.nan, INF, INF])
    loss = np.sort(trials)[8]  # p = 9 / 200
    draws = RNG(1).choice(trials, size=(20_000, 200)) <= loss
    assert statistics.trials_worth(loss, trials) == np.median(draws.argmax(axis=1) + 1)


def planted(factor, seed):
    """Smoothed losses [tasks, seeds, points], faster by `factor` in the median over problems, give or take a tenth.

    Every seed and optimizer has its own noise.
    """
    rng = RNG(seed)
    rate = RNG(0).uniform(1, 3, size=(10, 5, 1))  # the problem's own: the same for every optimizer
    rate = rate * factor * np.exp(0.1 * rng.normal(size=rate.shape) * (factor != 1))
    return smoothed(np.exp(-rate * np.arange(1000) / 1000) + 0.02 * rng.normal(size=(10, 5, 1000)))


def speedups_of(runs, reference):
    points = runs.shape[-1]
    pairs = zip(runs.reshape(-1, points), reference.reshape(-1, points), strict=True)
    return np.array([metrics.speedup(*pair, 1000) for pair in pairs]).reshape(runs.shape[:-1])


@pytest.mark.parametrize("resample_tasks", [True, False])
def test_an_optimizer_planted_to_be_twice_as_fast_is_reported_as_that(resample_tasks):
    speedups = speedups_of(planted(2, 1), planted(1, 2))
    for aggregate in (iqm, median, mean):
        found = interval(speedups, aggregate, resample_tasks=resample_tasks)
        # of 50 factors with deviation 0.2 the mean has 0.03, the median 0.035: intervals are about four of them wide
        assert found.low <= 2 <= found.high and 0.06 < found.high - found.low < 0.25


def test_two_copies_of_one_optimizer_tie():
    run, other = planted(1, 1), planted(1, 2)
    copies = [x[..., -1] for x in (run, run.copy(), other)]
    assert interval(speedups_of(run, run.copy())) == (1, 1, 1)
    assert bootstrap(probability_of_improvement, copies[0], copies[1]) == (0.5, 0.5, 0.5)
    ranks = statistics.ranks(np.stack(copies))
    assert (ranks[0] == ranks[1]).all()
    # the same optimizer with noise of its own: equal within the interval
    low, high = bootstrap(probability_of_improvement, copies[0], copies[2])[1:]
    assert low <= 0.5 <= high
    assert statistics.time_ratios(np.array([[5, 9], [5, 9.0]])).tolist() == [[1, 1], [1, 1]]
