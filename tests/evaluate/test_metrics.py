"""Metrics against values worked out by hand."""

import numpy as np
import pytest

from metaopt.evaluate import metrics
from metaopt.evaluate.baselines import ADAM_RATES, adam_thetas, tune

LINE = np.linspace(1.0, 0.0, 1001)[:1000]  # falls by 0.001 a step


def test_final_loss_is_the_mean_of_the_last_twentieth():
    losses = np.arange(40.0)
    assert metrics.final_loss(losses) == 38.5  # of steps 38 and 39
    assert metrics.final_loss(np.stack([losses, 2 * losses])).tolist() == [38.5, 77.0]
    assert metrics.final_loss(np.array([3.0, 1.0])) == 1.0  # at least one step


@pytest.mark.parametrize(
    ("losses", "failed"),
    [
        ([2.0, 1.0, 0.5], False),
        ([2.0, 9.0, 2.0], False),  # back where it started: not worse
        ([2.0, 1.0, 2.1], True),
        ([2.0, np.nan, 1.0], False),  # the end decides
        ([2.0, 1.0, np.nan], True),
        ([2.0, 1.0, np.inf], True),
        ([2.0, 1.0, -np.inf], True),
    ],
)
def test_diverged(losses, failed):
    assert metrics.diverged(np.array(losses)) == failed


def test_smoothed_has_every_whole_window():
    losses = np.arange(40.0)
    assert metrics.smoothed(losses).tolist() == (np.arange(39.0) + 0.5).tolist()
    losses[3] = np.nan
    smooth = metrics.smoothed(losses)
    assert np.isinf(smooth[[2, 3]]).all() and np.isfinite(np.delete(smooth, [2, 3])).all()


@pytest.mark.parametrize("factor", [1.0, 2.0, 4.0])
def test_a_run_that_is_faster_by_a_factor_is_reported_so(factor):
    fast = np.maximum(1.0 - factor * (1.0 - LINE), -1.0)
    # Adam's last window has its middle at 974.5 updates; the run's, 1/factor of it, is found up to one update late
    assert factor / (1 + factor / 974) <= metrics.speedup(fast, LINE) <= factor * (1 + 1e-12)


@pytest.mark.parametrize("factor", [2.0, 4.0])
def test_a_run_that_is_slower_by_a_factor_is_reported_so(factor):
    slow = 1.0 - (1.0 - LINE) / factor
    assert 1 / factor <= metrics.speedup(slow, LINE) <= (1 + factor / 974) / factor


def test_a_copy_of_tuned_adam_ties_exactly_whatever_its_curve():
    rng = np.random.default_rng(0)
    flat = 1 + rng.normal(size=1000)  # noise alone: it is below its final loss long before the end
    for losses in (LINE, np.exp(-10 * (1 - LINE)) + 0.1 * flat, np.ones(10)):
        assert metrics.speedup(losses, losses.copy()) == 1.0


def test_steps_that_adam_wasted_make_nobody_faster():
    adam = np.maximum(LINE, 0.5)  # flat from step 500
    same = np.concatenate([adam[:600], np.full(400, 0.499)])
    assert metrics.speedup(same, adam) == 1.0


def test_speedup_of_a_stuck_run_is_below_one():
    stuck = np.maximum(1 - 10 * (1 - LINE), 0.5)  # at 0.5 after 50 steps, where Adam is after 500, half its way
    assert metrics.speedup(stuck, LINE) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 2.0])
def test_speedup_of_a_diverged_run_is_zero_and_against_one_is_finite(bad):
    losses = LINE.copy()
    losses[-20:] = bad * 10
    assert metrics.speedup(losses, LINE) == 0.0
    assert np.isfinite(metrics.speedup(LINE, losses))


def test_tuning_takes_the_lowest_mean_and_never_a_failure():
    losses = np.ones((4, 2, 10))
    losses[0, :, -1] = [0.1, np.nan]
    losses[1, :, -1] = [0.2, 0.9]
    losses[2, :, -1] = [0.5, 0.5]
    losses[3, :, -1] = [0.0, np.inf]
    assert tune(losses) == 2


def test_rates():
    assert len(ADAM_RATES) == 14 and 1e-3 in ADAM_RATES
    np.testing.assert_allclose(np.diff(np.log10(ADAM_RATES)), 0.5, atol=1e-6)
    np.testing.assert_allclose(np.exp(adam_thetas()["learning_rate"]), ADAM_RATES, rtol=1e-5)
