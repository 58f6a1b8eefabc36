"""Anchored in long runs and beyond its horizon."""

import numpy as np
import pytest

from metaopt.optimizers.anchored import anchored
from tests.optimizers.test_anchored import KEY, anchor, program, scales


def test_a_model_of_zeros_moves_and_long_after_the_horizon_it_goes_on_slowly():
    optimizer = anchored(direction="adam", schedule=False, side=0)
    theta = optimizer.init(KEY)
    ones = np.ones((3, 2), np.float32)
    (path,) = program(optimizer, 20)(theta, [[ones]] * 60, np.ones(60, np.float32), [0 * ones])
    step, scale = (path[-1] - path[-2]), scales([path[-2]])[0][0]
    # a constant gradient, of which A is one: up to the float32 roundings of a difference of parameters
    np.testing.assert_allclose(path[0], -0.5 * 0.01 * 0.02 / 2 / np.sqrt(1.01), rtol=1e-5)  # a warm-up of one step
    np.testing.assert_allclose(step, -scale * 0.01 * 0.02 / np.sqrt(1.01), rtol=1e-3)


@pytest.mark.parametrize("horizon, share", [(50, 1e-3), (2000, 1e-3), (5000, 4e-4), (20_000, 1e-4), (10**6, 1e-4)])
def test_squares_are_remembered_for_longer_in_longer_runs(horizon, share):
    """By v itself, and by a step that is as long for any memory, as v is bias-corrected: gradients of one, of which A
    is one."""
    optimizer = anchored(direction="adam", schedule=False, side=0)
    theta, ones = optimizer.init(KEY), np.ones((3, 2), np.float32)
    tx = optimizer.build(theta, horizon)
    state = tx.init([ones])
    for t in range(3):
        updates, state = tx.update([ones], state, [ones], value=1.0)
        expected = -anchor(theta["anchor"], t, horizon) / np.sqrt(1.01)
        np.testing.assert_allclose(updates[0], np.full((3, 2), expected), rtol=1e-5)  # some thirty roundings of 6e-8
    np.testing.assert_allclose(state.v[0], 1 - (1 - share) ** 3, rtol=1e-6)  # some ten
