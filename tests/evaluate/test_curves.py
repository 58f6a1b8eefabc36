"""Curves and suites against plain Python loops over optax."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metaopt import unroll
from metaopt.evaluate import curves, metrics, spaces, suite, trials
from metaopt.evaluate.baselines import REFERENCE, USUAL
from metaopt.evaluate.results import _worth, results, rows
from metaopt.evaluate.suite import Contender, Problem, Unsuitable, compare, validate
from metaopt.evaluate.trials import Cache
from metaopt.types import LearnedOptimizer

spec = importlib.util.spec_from_file_location("problems", Path(__file__).with_name("problems.py"))
assert spec and spec.loader
problems = importlib.util.module_from_spec(spec)
spec.loader.exec_module(problems)
hyper, quadratic = problems.hyper, problems.quadratic

RATES = spaces.values("learning_rate", 14)["learning_rate"]


def thetas(rates):
    return {"learning_rate": np.log(np.asarray(rates, np.float32))}


def contender(name, base=optax.adam, rates=RATES):
    """A hand-designed one, tuned over these rates."""
    kind = "tuned" if len(rates) > 1 else "fixed"
    identity = {"optimizer": base.__name__, "rates": list(rates)}
    return Contender(name, kind, "", hyper(base), thetas(rates), {"learning_rate": np.asarray(rates)}, identity)


def evaluated(tmp_path, tasks, *entrants, steps, seeds=2, progress=lambda *x: None):
    """results of these and the two that are always there."""
    entrants = [*entrants, contender(USUAL, rates=[1e-3]), contender(REFERENCE)]
    several = [Problem(label, task, {"name": label}, steps) for label, task in tasks]
    found = compare(several, entrants, seeds=seeds, cache=Cache(tmp_path, None), progress=progress)
    return results(found, several, entrants)


def of(result, name, key, task=None):
    return [row[key] for row in result["rows"] if row["optimizer"] == name and task in (None, row["task"])]


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


def test_rows_and_the_closed_loop_through_optax(tmp_path):
    task, seen = quadratic(noise=0.0), []
    tasks = [("gone", quadratic(missing=True)), ("a", task)]
    result = evaluated(
        tmp_path, tasks, contender("sgd", optax.sgd, [0.05]), steps=60, progress=lambda *x: seen.append(x)
    )
    assert seen[0] == ("compiling", 0, 3) and seen[1] == ("sgd on a", 0, 3)
    assert result["skipped"] == {"gone": "no such data here: get it"}
    assert [(row["optimizer"], row["seed"]) for row in result["rows"]] == [
        (name, seed) for name in ("sgd", USUAL, REFERENCE) for seed in range(2)
    ]
    assert of(result, REFERENCE, "speedup") == [1.0, 1.0] and of(result, REFERENCE, "normalized_loss") == [0.0, 0.0]
    assert of(result, "sgd", "state_bytes") == [0, 0]
    assert of(result, USUAL, "state_bytes") == [(2 * problems.DIMENSION + 1) * 4] * 2  # two moments and a counter
    assert all(seconds > 0 for seconds in of(result, USUAL, "seconds_per_step"))
    assert of(result, REFERENCE, "seconds_per_step") == [None, None]  # trials side by side: not the time of one run

    loop = python_loop(task, optax.adam)
    finals = {
        rate: np.mean([np.mean(loop(rate, seed, 60)[-3:]) for seed in range(2)])
        for rate in sorted(RATES)[-5:]  # the others cannot get anywhere within 60 steps
    }
    best = min(finals, key=finals.__getitem__)
    assert result["tuned"]["a"] == {REFERENCE: {"learning_rate": pytest.approx(best, rel=1e-5)}}
    # Losses near 1e-4 are squares of differences near 1e-2 of numbers near 1, each off by some roundings of 6e-8
    assert np.mean(of(result, REFERENCE, "final_loss")) == pytest.approx(finals[best], rel=1e-3)
    losses = loop(1e-3, 0, 60)
    row = next(row for row in result["rows"] if (row["optimizer"], row["seed"]) == (USUAL, 0))
    expected = {"initial_loss": losses[0], "mean_loss": np.mean(losses), "final_loss": np.mean(losses[-3:])}
    assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-5)


def test_two_copies_tie_and_a_planted_fast_optimizer_is_fast(tmp_path):
    """Momentum-free descent: twice the rate is twice as fast while the loss falls along one exponential."""
    task = quadratic(noise=0.0)._replace(
        loss=lambda cfg, params, batch, key: (0.5 * jnp.mean((params - cfg["b"]) ** 2), {})
    )
    entrants = [contender(name, optax.sgd, [rate]) for name, rate in (("copy", 0.004), ("fast", 0.008))]
    reference = contender(REFERENCE, optax.sgd, [0.004])
    several = [Problem("q", task, {}, 400)]
    found = compare(several, [*entrants, reference], seeds=3, cache=Cache(tmp_path, None), progress=lambda *x: None)
    result = results(found, several, [*entrants, reference])
    assert of(result, "copy", "speedup") == [1.0] * 3
    # The window of 20 steps averages over twice as much of the faster curve
    assert of(result, "fast", "speedup") == pytest.approx([2.0] * 3, rel=0.01)
    assert result["worth"] == {}


def test_diverged_runs_are_rows_without_a_loss(tmp_path):
    result = evaluated(tmp_path, [("q", quadratic())], contender("sgd", optax.sgd, [1e6]), steps=40)
    for key, value in {"final_loss": None, "speedup": 0.0, "diverged": True, "normalized_loss": metrics.WORST}.items():
        assert of(result, "sgd", key) == [value] * 2
    assert result["curves"]["q"]["sgd"]["mean"][-1] is None


def test_an_evaluation_goes_on_where_it_stopped(tmp_path, monkeypatch):
    task = [("a", quadratic()), ("b", quadratic(noise=0.0))]
    whole = evaluated(tmp_path / "whole", task, steps=20)

    def stop(task, done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluated(tmp_path / "cut", task, steps=20, progress=stop)
    seen = []
    assert same(evaluated(tmp_path / "cut", task, steps=20, progress=lambda *x: seen.append(x)), whole)
    assert seen[-1] == (f"{REFERENCE} on b", 1, 2)  # only what was missing
    seen.clear()
    assert same(evaluated(tmp_path / "cut", task, steps=20, progress=lambda *x: seen.append(x)), whole)
    assert seen == []


def test_a_search_is_known_by_all_it_depends_on():
    problem, entrant = Problem("q", quadratic(), {"name": "a"}, 10), contender(USUAL, rates=[1e-3])
    named = suite._description(problem, entrant, 3, "sum of the data")
    assert (
        suite._description(problem._replace(label="r"), entrant._replace(name="b", about="c"), 3, "sum of the data")
        == named
    )
    assert suite._description(problem._replace(told=10), entrant, 3, "sum of the data") == named
    others = [
        suite._description(problem._replace(entry={"name": "b"}), entrant, 3, "sum of the data"),
        suite._description(problem._replace(steps=11), entrant, 3, "sum of the data"),
        suite._description(problem._replace(told=11), entrant, 3, "sum of the data"),
        suite._description(problem, entrant._replace(identity={}), 3, "sum of the data"),
        suite._description(problem, entrant, 4, "sum of the data"),
        suite._description(problem, entrant, 3, "another sum"),
    ]
    assert named not in others
    longer, told = problem._replace(steps=20), problem._replace(told=20)
    assert suite._description(longer, entrant, 3, "") != suite._description(told, entrant, 3, "")


def test_rows_by_hand():
    """Of two trials the second is better; two seeds, four points of four steps, two validation losses."""
    smooth = np.array([[[9, 8, 7, 6], [9, 9, 9, 8]], [[9, 1, 3, 2], [9, 4, 3, 4]]], np.float32)
    runs = metrics.Runs(smooth, smooth.mean(-1), smooth[..., 1:3] + 10)
    tuned = trials.search(runs, np.nan, 12)
    alone = trials.search(metrics.Runs(*(x[:1] for x in runs)), 0.5, 8)
    entrants = [contender(USUAL, rates=[1.0]), contender(REFERENCE, rates=[1.0, 2.0])]
    found = rows("q", 4, {USUAL: alone, REFERENCE: tuned}, entrants)
    assert [(row["optimizer"], row["seed"]) for row in found] == [(n, i) for n in (USUAL, REFERENCE) for i in (0, 1)]
    first, last = found[0], found[3]
    expected = {"initial_loss": 9, "final_loss": 4, "best_loss": 3, "mean_loss": 5}
    expected |= {"valid_final": 13, "valid_best": 13, "valid_mean": 13.5, "steps_to_reference": 1}
    assert {key: last[key] for key in expected} == expected
    assert (last["state_bytes"], last["seconds_per_step"], last["speedup"]) == (12, None, 1.0)
    # Six is four sevenths of the way from nine down to two left; the reference never was above it again
    assert first["normalized_loss"] == pytest.approx(4 / 7, rel=1e-5) and first["steps_to_reference"] is None
    assert (first["seconds_per_step"], first["state_bytes"], first["diverged"]) == (0.5, 8, False)


def test_a_run_is_worth_what_its_mean_over_seeds_is():
    finals = np.array([[6.0, 4.0], [7.0, 1.0], [8.0, 8.0], [9.0, 1.0]], np.float32)  # means 5, 4, 8, 5
    smooth = np.stack([np.full_like(finals, 9.0), finals], axis=-1)
    random = trials.search(metrics.Runs(smooth, finals, smooth), 0.0, 0)
    run = trials.search(metrics.Runs(*(x[:1] for x in (smooth, finals, smooth))), 0.0, 0)
    space = contender("nadamw8p@10", rates=np.ones(10))._replace(identity={"space": "nadamw8p"})
    one = contender("sgd", rates=[1.0])
    assert _worth({"nadamw8p@10": random, "sgd": run}, [space, one]) == {"sgd": 1.0}  # three of four: one draw
    assert _worth({"nadamw8p@10": random, "sgd": run}, [space._replace(identity={}), one]) == {}


def same(first, second):
    """Whether two results are equal but for times."""
    without = lambda result: {  # noqa: E731
        **result,
        "rows": [{key: value for key, value in row.items() if key != "seconds_per_step"} for row in result["rows"]],
    }
    return without(first) == without(second)


def test_random_trials_give_the_worth_of_a_run(tmp_path):
    rates = np.geomspace(1e-3, 1e-1, 20)  # of a smooth problem: the higher, the better
    random = contender("nadamw8p@20", optax.sgd, rates)
    random = random._replace(identity={**random.identity, "space": "nadamw8p"})
    few = random._replace(name="nadamw8p@10", thetas=thetas(rates[:10]), values={"learning_rate": rates[:10]})
    run = contender("sgd", optax.sgd, [rates[-5] * 1.01])
    result = evaluated(tmp_path, [("q", quadratic(noise=0.0))], few, random, run, steps=40)
    assert result["worth"]["q"]["sgd"] == 4  # four of twenty are as good: log(1/2) / log(0.8) = 3.1 draws
    assert result["tuned"]["q"][few.name]["learning_rate"] == pytest.approx(rates[9], rel=1e-5)


def test_an_optimizer_that_cannot_work_on_a_task_is_named(tmp_path):
    def refuse(theta, num_steps):
        raise ValueError("too many parameters")

    bad = contender("newton", rates=[1.0])._replace(optimizer=LearnedOptimizer(None, refuse), identity={"optimizer": 0})
    with pytest.raises(Unsuitable, match="newton cannot work on q: too many parameters"):
        evaluated(tmp_path, [("q", quadratic())], bad, steps=5)


def test_validation_is_finite_ordered_and_compiled_once(monkeypatch):
    traces, original = [], unroll.unroll
    monkeypatch.setattr(unroll, "unroll", lambda *args: traces.append(1) or original(*args))
    score = validate([quadratic(), quadratic(noise=0.0)], hyper(optax.sgd), steps=40, seeds=2)
    scores = [score({"learning_rate": jnp.log(rate)}) for rate in (1e-4, 0.1, 1e9)]
    assert scores[1] < scores[0] < 2 and scores[2] == pytest.approx(2.0)
    assert len(traces) == 2  # one a task, not one a call
