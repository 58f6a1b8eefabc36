"""Contenders on tasks: rows, what is kept, what is run again; against plain Python loops over optax."""

import itertools

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metaopt.evaluate import metrics, suite, trials
from metaopt.evaluate.baselines import REFERENCE, USUAL
from metaopt.evaluate.results import _worth, results, rows
from metaopt.evaluate.suite import Problem, Unsuitable, compare
from metaopt.evaluate.trials import Cache
from metaopt.types import LearnedOptimizer
from tests.evaluate import problems
from tests.evaluate.problems import RATES, contender, evaluated, of, python_loop, quadratic, thetas


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


def test_batches_hold_few_programs():
    """Every search once, in order; never more at a time than are wanted, though a task has more contenders."""
    for counts in ([3] * 10, [1] * 70, [70], [40, 1, 1], [31, 2, 5], []):
        todo = [(f"task {i}", [(i, j) for j in range(count)]) for i, count in enumerate(counts)]
        batches = list(suite._batches(todo, most=32))
        held = [[search for _, searches in batch for search in searches] for batch in batches]
        assert sum(held, []) == [search for _, searches in todo for search in searches]
        assert all(0 < len(searches) <= 32 for searches in held)
        assert all(len(a) + len(b) > 32 or a[-1][0] == b[0][0] for a, b in itertools.pairwise(held))  # filled up
        assert all(label == f"task {i}" for batch in batches for label, searches in batch for i, _ in searches)


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
