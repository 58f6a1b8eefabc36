"""Curves against plain Python loops over optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metaopt import unroll
from metaopt.evaluate import curves
from metaopt.evaluate.suite import validate
from metaopt.types import LearnedOptimizer
from tests.evaluate import problems
from tests.evaluate.problems import RATES, hyper, python_loop, quadratic, thetas


def test_curves_equal_a_python_loop_over_optax_adam():
    task, rates = quadratic(noise=0.0), [1e-3, 1e-1]
    losses = curves.run_curves(task, hyper(), thetas(rates), task.data(), steps=15, seeds=3)
    assert losses.shape == (2, 3, 15) and losses.dtype == np.float32
    loop = python_loop(task, optax.adam)
    for i, rate in enumerate(rates):
        for seed in (0, 2):
            np.testing.assert_allclose(losses[i, seed], loop(rate, seed, 15), rtol=2e-5)


def test_candidates_and_chunks_do_not_change_a_run(monkeypatch):
    task, candidates = quadratic(), thetas(RATES)
    run = lambda t: curves.run_curves(task, hyper(), t, task.data(), steps=10, seeds=3)  # noqa: E731
    together = run(candidates)
    alone = run(thetas(RATES[5:6]))
    np.testing.assert_allclose(together[5:6], alone, rtol=1e-6)
    # Adam holds 3 vectors and 1 counter: chunks of 5 runs
    monkeypatch.setitem(curves.CHUNK_BYTES, "cpu", 5 * 4 * (3 * problems.DIMENSION + 1))
    np.testing.assert_allclose(run(candidates), together, rtol=1e-6)


@pytest.mark.parametrize(
    ("runs", "devices", "most", "expected"),
    [(42, 2, 100, (42, 21)), (3, 2, 100, (4, 2)), (3, 1, 100, (3, 3)), (42, 2, 8, (42, 7)), (10, 1, 4, (12, 4))],
)
def test_chunks(runs, devices, most, expected):
    assert curves._chunks(runs, devices, most) == expected


def test_every_optimizer_meets_the_same_problems():
    task = quadratic()
    first = [
        curves.run_curves(task, hyper(base), thetas([1.0]), task.data(), steps=1, seeds=4)
        for base in (optax.adam, optax.sgd)
    ]
    np.testing.assert_array_equal(*first)
    assert len(np.unique(first[0])) == 4


def test_validation_losses_are_of_other_data_and_change_nothing():
    task, rate = quadratic(), thetas([0.05])
    start = curves.prepare(task, task.data(), steps=40, seeds=2)
    measure = lambda cfg, losses, valid: (cfg, losses, valid)  # noqa: E731
    cfg, losses, valid = curves.make_runner(start, hyper(optax.sgd), checks=4, measure=measure).run(rate)
    np.testing.assert_allclose(losses, curves.make_runner(start, hyper(optax.sgd)).run(rate), rtol=1e-6)
    assert valid.shape == (1, 2, 4)
    # Of a run that does not move, on the rows of outer_valid, which are those of train with the other sign
    still = curves.make_runner(start, hyper(optax.sgd), checks=1, measure=measure).run(thetas([1e-9]))[2]
    rows = -np.asarray(task.data()["train"]["x"])
    for seed in range(2):
        keys = [jax.random.fold_in(jax.random.fold_in(start.starts.key[seed], curves.VALID_KEY), i) for i in range(8)]
        batches = rows[[int(jax.random.randint(key, (), 0, 32)) for key in keys]]
        a, b, x = (np.asarray(leaf) for leaf in (cfg["a"][0, seed], cfg["b"][0, seed], start.starts.params[seed]))
        assert still[0, seed, 0] == pytest.approx(np.mean(0.5 * a * (x - b - 0.1 * batches) ** 2), rel=1e-5)


def test_a_wrong_horizon_is_told_and_the_run_stays_as_long():
    task, seen = (
        quadratic(noise=0.0),
        LearnedOptimizer(lambda key: (), lambda theta, n: optax.with_extra_args_support(optax.sgd(theta["w"] * n))),
    )
    start = curves.prepare(task, task.data(), steps=10, seeds=2)
    run = lambda told, w: curves.make_runner(start, seen, told=told).run({"w": np.float32([w])})  # noqa: E731
    np.testing.assert_allclose(run(1000, 1e-4), run(None, 1e-2), rtol=1e-5)  # 0.1 both times


def test_validation_is_finite_ordered_and_compiled_once(monkeypatch):
    traces, original = [], unroll.unroll
    monkeypatch.setattr(unroll, "unroll", lambda *args: traces.append(1) or original(*args))
    score = validate([quadratic(), quadratic(noise=0.0)], hyper(optax.sgd), steps=40, seeds=2)
    scores = [score({"learning_rate": jnp.log(rate)}) for rate in (1e-4, 0.1, 1e9)]
    assert scores[1] < scores[0] < 2 and scores[2] == pytest.approx(2.0)
    assert len(traces) == 2  # one a task, not one a call
