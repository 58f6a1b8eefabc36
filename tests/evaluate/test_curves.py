"""Curves and suites against plain Python loops over optax."""

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metaopt import unroll
from metaopt.evaluate import curves
from metaopt.evaluate.baselines import ADAM_RATES, adam_thetas
from metaopt.evaluate.suite import evaluate_suite, validate
from metaopt.types import LearnedOptimizer

spec = importlib.util.spec_from_file_location("problems", Path(__file__).with_name("problems.py"))
assert spec and spec.loader
problems = importlib.util.module_from_spec(spec)
spec.loader.exec_module(problems)
hyper, quadratic = problems.hyper, problems.quadratic

ROW_KEYS = {"task", "optimizer", "seed", "steps", "final_loss", "speedup_over_tuned_adam", "diverged"}


def python_loop(task, base):
    """(rate, seed, steps) -> the losses of the same run as in `run_curves`, one step at a time, with optax alone.

    For a task without noise: which keys the inner loop gives to batches is its own business, and tested there.
    """
    batch = jnp.zeros(problems.DIMENSION)

    @jax.jit
    def step(rate, cfg, params, state):
        (loss, _), grads = jax.value_and_grad(task.loss, 1, has_aux=True)(cfg, params, batch, None)
        updates, state = base(rate).update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    def loop(rate, seed, steps):
        cfg_key, init_key, _ = jax.random.split(jax.random.fold_in(jax.random.key(curves.STREAM), seed), 3)
        cfg = task.sample(cfg_key)
        params, losses = task.init(cfg, init_key), []
        state = base(rate).init(params)
        for _ in range(steps):
            params, state, loss = step(rate, cfg, params, state)
            losses.append(float(loss))
        return losses

    return loop


def test_curves_equal_a_python_loop_over_optax_adam():
    task, rates = quadratic(noise=0.0), [1e-3, 1e-1]
    thetas = {"learning_rate": np.log(np.float32(rates))}
    losses = curves.run_curves(task, hyper(), thetas, task.data(), steps=15, seeds=3)
    assert losses.shape == (2, 3, 15) and losses.dtype == np.float32
    loop = python_loop(task, optax.adam)
    for i, rate in enumerate(rates):
        for seed in (0, 2):
            np.testing.assert_allclose(losses[i, seed], loop(rate, seed, 15), rtol=2e-5)


def test_candidates_and_chunks_do_not_change_a_run(monkeypatch):
    task, thetas = quadratic(), adam_thetas()
    run = lambda t: curves.run_curves(task, hyper(), t, task.data(), steps=10, seeds=3)  # noqa: E731
    together = run(thetas)
    alone = run({"learning_rate": thetas["learning_rate"][5:6]})
    np.testing.assert_allclose(together[5:6], alone, rtol=1e-6)
    # Adam holds 3 vectors and 1 counter: chunks of 5 runs
    monkeypatch.setattr(curves, "CHUNK_BYTES", 5 * 4 * (3 * problems.DIMENSION + 1))
    np.testing.assert_allclose(run(thetas), together, rtol=1e-6)


@pytest.mark.parametrize(
    ("runs", "devices", "most", "expected"),
    [(42, 2, 100, (42, 21)), (3, 2, 100, (4, 2)), (3, 1, 100, (3, 3)), (42, 2, 8, (42, 7)), (10, 1, 4, (12, 4))],
)
def test_chunks(runs, devices, most, expected):
    assert curves._chunks(runs, devices, most) == expected


def test_every_optimizer_meets_the_same_problems():
    task = quadratic()
    first = [
        curves.run_curves(task, hyper(base), {"learning_rate": np.zeros(1, np.float32)}, task.data(), steps=1, seeds=4)
        for base in (optax.adam, optax.sgd)
    ]
    np.testing.assert_array_equal(*first)
    assert len(np.unique(first[0])) == 4


def test_suite_rows_and_the_closed_loop_through_optax():
    task, seen = quadratic(noise=0.0), []
    result = evaluate_suite(
        [("gone", quadratic(missing=True)), ("a", task)],
        hyper(optax.sgd),
        {"learning_rate": jnp.log(0.05)},
        adam=hyper(),
        steps=60,
        seeds=2,
        progress=lambda *x: seen.append(x),
    )
    assert seen == [("gone", 1, 2), ("a", 2, 2)]
    assert result.skipped == {"gone": "no such data here: get it"}
    assert len(result.rows) == 3 * 2 and all(set(row) == ROW_KEYS for row in result.rows)
    assert {row["optimizer"] for row in result.rows} == {"learned", "adam:lr=1e-3", "adam:tuned"}
    assert all(row["speedup_over_tuned_adam"] == 1.0 for row in result.rows if row["optimizer"] == "adam:tuned")
    assert json.loads(json.dumps(result._asdict(), allow_nan=False))["steps"] == 60

    loop = python_loop(task, optax.adam)
    finals = {
        rate: np.mean([np.mean(loop(rate, seed, 60)[-3:]) for seed in range(2)])
        for rate in ADAM_RATES[-5:]  # the others cannot get anywhere within 60 steps
    }
    best = min(finals, key=finals.__getitem__)
    assert result.tuned["a"] == best
    tuned = [r["final_loss"] for r in result.rows if (r["task"], r["optimizer"]) == ("a", "adam:tuned")]
    # Losses near 1e-4 are squares of differences near 1e-2 of numbers near 1, each off by some roundings of 6e-8
    assert np.mean(tuned) == pytest.approx(finals[best], rel=1e-3)


def test_two_copies_tie_and_a_planted_fast_optimizer_is_fast():
    """Momentum-free descent: twice the rate is twice as fast while the loss falls along one exponential."""
    task = quadratic(noise=0.0)._replace(
        loss=lambda cfg, params, batch, key: (0.5 * jnp.mean((params - cfg["b"]) ** 2), {})
    )
    # One planted candidate instead of the sweep's best: rates that are all alike, 1/1000 of the curve's length
    slow = LearnedOptimizer(None, lambda theta, n: optax.with_extra_args_support(optax.sgd(0.004)))
    for factor in (1, 2):
        fast = LearnedOptimizer(None, lambda theta, n, f=factor: optax.with_extra_args_support(optax.sgd(0.004 * f)))
        result = evaluate_suite([("q", task)], fast, {"w": jnp.zeros(())}, adam=slow, steps=400, seeds=3)
        speedups = [r["speedup_over_tuned_adam"] for r in result.rows if r["optimizer"] == "learned"]
        # The window of 20 steps averages over twice as much of the faster curve
        assert speedups == ([1.0] * 3 if factor == 1 else pytest.approx([2.0] * 3, rel=0.01))


def test_diverged_runs_are_rows_without_a_loss():
    result = evaluate_suite(
        [("q", quadratic())], hyper(optax.sgd), {"learning_rate": jnp.log(1e6)}, adam=hyper(), steps=40, seeds=2
    )
    learned = [row for row in result.rows if row["optimizer"] == "learned"]
    assert [(r["final_loss"], r["speedup_over_tuned_adam"], r["diverged"]) for r in learned] == [(None, 0.0, True)] * 2
    assert result.curves["q"]["learned"]["mean"][-1] is None
    json.dumps(result._asdict(), allow_nan=False)


def test_validation_is_finite_ordered_and_compiled_once(monkeypatch):
    traces, original = [], unroll.unroll
    monkeypatch.setattr(unroll, "unroll", lambda *args: traces.append(1) or original(*args))
    score = validate([quadratic(), quadratic(noise=0.0)], hyper(optax.sgd), steps=40, seeds=2)
    scores = [score({"learning_rate": jnp.log(rate)}) for rate in (1e-4, 0.1, 1e9)]
    assert scores[1] < scores[0] < 2 and scores[2] == pytest.approx(2.0)
    assert len(traces) == 2  # one a task, not one a call
