"""A learned optimizer against Adam and tuned Adam on a list of tasks, and the validation loss during meta-training."""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from metaopt.data import DataError
from metaopt.evaluate import baselines, metrics
from metaopt.evaluate.curves import make_runner, prepare
from metaopt.types import LearnedOptimizer, PyTree, Task

Row = dict[str, Any]
POINTS = 200  # of a curve that is kept for pictures
WORKERS = min(8, os.cpu_count() or 1)  # tasks in work at the same time; most of it is compilation, on one core each


class Evaluation(NamedTuple):
    """What an evaluation found; `_asdict()` is JSON.

    rows     one per task, optimizer and seed: task, optimizer, seed, steps, final_loss (None when it is not finite),
             speedup_over_tuned_adam, diverged
    curves   {task: {optimizer: {"steps", "mean", "low", "high": lists of at most 200}}}: smoothed losses over the seeds
    tuned    {task: learning rate of adam:tuned}
    skipped  {task: why it could not run on this machine}
    """

    rows: list[Row]
    curves: dict[str, dict[str, dict[str, list]]]
    tuned: dict[str, float]
    skipped: dict[str, str]
    steps: int
    seeds: int


def evaluate_suite(
    tasks: Sequence[tuple[str, Task]],
    optimizer: LearnedOptimizer,
    theta: PyTree,
    *,
    adam: LearnedOptimizer,
    steps: int,
    seeds: int,
    name: str = "learned",
    progress: Callable[[str, int, int], None] = lambda task, done, total: None,
) -> Evaluation:
    """Runs `optimizer` with `theta`, Adam at 1e-3 and tuned Adam on every (label, task), paired by seed.

    `adam` is `hyper("adam", {"learning_rate": ...})`. A task whose data this machine lacks is skipped, with the reason.
    progress(label, done, total) is called when a task is done.
    """
    result = Evaluation([], {}, {}, {}, steps, seeds)

    def losses(task: Task) -> tuple[np.ndarray, np.ndarray]:
        problems = prepare(task, task.data(), steps=steps, seeds=seeds)
        rates = make_runner(problems, adam)(baselines.adam_thetas())
        return rates, make_runner(problems, optimizer)(_single(theta))[0]

    with ThreadPoolExecutor(WORKERS) as pool:
        futures = [pool.submit(losses, task) for _, task in tasks]
        try:
            for done, ((label, _), future) in enumerate(zip(tasks, futures, strict=True), start=1):
                try:
                    rates, learned = future.result()
                except DataError as error:
                    result.skipped[label] = str(error)
                else:
                    _record(result, label, name, rates, learned)
                progress(label, done, len(tasks))
        finally:
            pool.shutdown(cancel_futures=True)
    return result


def _record(result: Evaluation, task: str, name: str, rates: np.ndarray, learned: np.ndarray) -> None:
    """Adds one task to the result. rates [14, seeds, steps], learned [seeds, steps]."""
    best = baselines.tune(rates)
    usual = baselines.ADAM_RATES.index(baselines.USUAL_RATE)
    runs = {name: learned, baselines.USUAL: rates[usual], baselines.TUNED: rates[best]}
    result.tuned[task] = baselines.ADAM_RATES[best]
    result.curves[task] = {optimizer: _band(losses) for optimizer, losses in runs.items()}
    for optimizer, losses in runs.items():
        for seed, (run, tuned) in enumerate(zip(losses, rates[best], strict=True)):
            final = float(metrics.final_loss(run))
            result.rows.append(
                {
                    "task": task,
                    "optimizer": optimizer,
                    "seed": seed,
                    "steps": len(run),
                    "final_loss": final if math.isfinite(final) else None,
                    "speedup_over_tuned_adam": metrics.speedup(run, tuned),
                    "diverged": bool(metrics.diverged(run)),
                }
            )


def _band(losses: np.ndarray) -> dict[str, list]:
    """Mean, lowest and highest seed of the smoothed losses [seeds, steps], POINTS of them; None where not finite."""
    steps = losses.shape[-1]
    head = np.arange(1, metrics.window(steps))  # windows that are not whole yet, so that curves begin at the first loss
    with np.errstate(invalid="ignore"):
        first = losses[:, : len(head)].astype(np.float64).cumsum(axis=-1) / head
    curves = np.concatenate([first, metrics.smoothed(losses)], axis=-1)
    at = np.unique(np.linspace(0, steps - 1, POINTS).round().astype(int))
    bands = {"mean": curves.mean(0), "low": curves.min(0), "high": curves.max(0)}
    points = {k: [float(f"{x:.6g}") if math.isfinite(x) else None for x in v[at]] for k, v in bands.items()}
    return {"steps": (at + 1).tolist(), **points}


def validate(
    tasks: Sequence[Task], optimizer: LearnedOptimizer, *, steps: int, seeds: int
) -> Callable[[PyTree], float]:
    """Returns score(theta) -> mean over tasks and seeds of the normalised final loss; lower is better, finite always.

    The programs are compiled in the first call; later ones, with another theta, only run them.
    """

    def make(task: Task) -> Callable[[PyTree], PyTree]:
        def normalized(cfg: PyTree, losses: jax.Array) -> jax.Array:
            return task.normalize(cfg, losses[-metrics.window(steps) :].mean())

        return make_runner(prepare(task, task.data(), steps=steps, seeds=seeds), optimizer, measure=normalized)

    with ThreadPoolExecutor(WORKERS) as pool:
        runners = list(pool.map(make, tasks))

    def score(theta: PyTree) -> float:
        with ThreadPoolExecutor(WORKERS) as pool:
            return float(np.mean(list(pool.map(lambda runner: runner(_single(theta)), runners))))

    return score


def _single(theta: PyTree) -> PyTree:
    """Theta as the only candidate."""
    return jax.tree.map(lambda x: np.asarray(x)[None], theta)
