"""Metrics against values worked out by hand."""

import jax
import numpy as np
import pytest

from metaopt.evaluate import metrics

STEPS = 1000
LINE = np.linspace(1.0, 0.0, STEPS + 1)[:STEPS]  # falls by 0.001 a step


def smooth(losses):
    """The curve that is kept of a run."""
    return np.asarray(jax.jit(metrics.kept)(None, np.asarray(losses, np.float32), np.zeros(1, np.float32)).smooth)


def speedup(run, reference):
    return metrics.speedup(smooth(run), smooth(reference), len(run))


def test_points_are_means_of_the_last_twentieth():
    losses = np.random.default_rng(0).normal(size=STEPS)
    at, points = metrics.last_steps(STEPS), smooth(losses)
    assert len(at) == len(points) == 200 and at[0] == 0 and at[-1] == 999
    expected = [losses[max(0, t - 49) : t + 1].mean() for t in at]
    np.testing.assert_allclose(points, expected, atol=50 * 2**-24)  # a sum of 50 numbers near 1 in float32, over 50
    assert smooth(np.arange(40.0))[-1] == 38.5  # of steps 38 and 39
    assert smooth([3.0, 1.0]).tolist() == [3.0, 1.0]  # at least one step


def test_a_loss_that_is_not_finite_spoils_the_windows_it_is_in_alone():
    losses = np.arange(40.0)
    losses[3] = np.nan
    points = smooth(losses)
    assert np.isinf(points[[3, 4]]).all() and np.isfinite(np.delete(points, [3, 4])).all()


def test_mean_and_validation_losses_are_kept():
    runs = metrics.kept(None, np.array([1.0, 2.0, 6.0], np.float32), np.array([1.0, np.nan], np.float32))
    assert float(runs.mean) == 3.0 and np.asarray(runs.valid).tolist() == [1.0, np.inf]


@pytest.mark.parametrize(("steps", "expected"), [(1000, 20), (100, 20), (7, 7), (23, 1), (60, 20), (34, 17), (1, 1)])
def test_validation_comes_at_equal_distances(steps, expected):
    assert metrics.checks(steps) == expected


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
    assert metrics.diverged(smooth(losses)) == failed


@pytest.mark.parametrize("factor", [1.0, 2.0, 4.0])
def test_a_run_that_is_faster_by_a_factor_is_reported_so(factor):
    fast = np.maximum(1.0 - factor * (1.0 - LINE), -1.0)
    # Both curves are straight lines: a window's mean is its middle's loss, and points are joined by straight lines.
    # What is left is float32: losses near 1 are off by 6e-8, Adam's time by 6e-8 / 0.001 of a step.
    assert speedup(fast, LINE) == pytest.approx(factor, rel=1e-5)


@pytest.mark.parametrize("factor", [2.0, 4.0])
def test_a_run_that_is_slower_by_a_factor_is_reported_so(factor):
    slow = 1.0 - (1.0 - LINE) / factor
    assert speedup(slow, LINE) == pytest.approx(1 / factor, rel=1e-5)


def test_a_copy_of_tuned_adam_ties_exactly_whatever_its_curve():
    rng = np.random.default_rng(0)
    flat = 1 + rng.normal(size=STEPS)  # noise alone: it is below its final loss long before the end
    for losses in (LINE, np.exp(-10 * (1 - LINE)) + 0.1 * flat, np.ones(10)):
        assert speedup(losses, losses.copy()) == 1.0


def test_steps_that_adam_wasted_make_nobody_faster():
    adam = np.maximum(LINE, 0.5)  # flat from step 500
    same = np.concatenate([adam[:600], np.full(400, 0.499)])
    assert speedup(same, adam) == 1.0


def test_speedup_of_a_stuck_run_is_below_one():
    stuck = np.maximum(1 - 10 * (1 - LINE), 0.5)  # at 0.5 after 50 steps, where Adam is after 500, half its way
    assert speedup(stuck, LINE) == pytest.approx(500 / 974.5, rel=1e-3)


def test_a_run_that_takes_to_the_end_for_what_adam_has_at_once_is_slow():
    adam = np.where(np.arange(STEPS) < 100, 1.0, 0.0)  # off a cliff: all levels are reached at the same time
    # Windows of 50 steps: Adam's mean is at 0.5 when its window is half over the cliff, the run's at its end
    assert speedup(np.linspace(1.0, 0.5, STEPS), adam) == pytest.approx(100 / 974.5, rel=0.02)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 2.0])
def test_speedup_of_a_diverged_run_is_zero_and_against_one_is_finite(bad):
    losses = LINE.copy()
    losses[-20:] = bad * 10
    assert speedup(losses, LINE) == 0.0
    assert np.isfinite(speedup(LINE, losses))


def test_time_to_a_level():
    curve = smooth(LINE)
    assert metrics.time_to(curve, 0.5, STEPS) == pytest.approx(500, abs=1e-3)
    assert metrics.time_to(curve, 2.0, STEPS) == 25.5  # the first point with a whole window: steps 1 to 50
    assert metrics.time_to(curve, -1.0, STEPS) == np.inf
    one_lucky_batch = np.concatenate([[1.0, 0.0], np.ones(STEPS - 2)])
    assert metrics.time_to(smooth(one_lucky_batch), 0.5, STEPS) == np.inf


def test_normalized_loss():
    reference = np.array([5.0, 1.0])
    runs = np.array([[5.0, 5.0], [5.0, 1.0], [5.0, -3.0], [5.0, 3.0], [5.0, np.inf], [5.0, 99.0]])
    assert metrics.normalized(runs, reference).tolist() == [1.0, 0.0, -1.0, 0.5, 2.0, 2.0]
    useless = np.array([5.0, 6.0])  # a reference that made no progress
    assert metrics.normalized(np.array([[5.0, 6.0], [5.0, 7.0], [5.0, 1.0]]), useless).tolist() == [0.0, 2.0, -2.0]
