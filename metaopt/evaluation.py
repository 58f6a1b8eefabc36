"""A comparison of optimizers on a suite of tasks, from what the command line says to results.json and its report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from metaopt import build, config, record
from metaopt.entry import Entry
from metaopt.evaluate import sweeps
from metaopt.evaluate.baselines import REFERENCE
from metaopt.evaluate.results import FORMAT, results
from metaopt.evaluate.suite import FULL, Contender, Problem, Progress, Unsuitable, compare
from metaopt.evaluate.trials import Cache
from metaopt.tasks.suites import SUITES
from metaopt.train import RunError
from metaopt.types import PyTree, Task


class Settings(NamedTuple):
    """On what contenders are compared."""

    suite: str
    steps: int
    seeds: int
    sweep: tuple[str, ...] = ()  # axes of sweeps.AXES


def evaluate(contenders: Sequence[Contender], settings: Settings, cache: Cache, progress: Progress) -> dict[str, Any]:
    """The whole of results.json. Searches that the cache has are not run again.

    Raises RunError when a contender cannot work on one of the tasks.
    """
    suite, steps, seeds, axes = settings
    try:
        head = _results(problems(suite, steps), contenders, seeds, cache, progress)
        swept = {axis: _sweep(axis, contenders, settings, cache, progress) for axis in axes}
    except Unsuitable as error:
        raise RunError(str(error)) from error
    about = {c.name: {"kind": c.kind, "about": c.about, "trials": c.trials} for c in contenders}
    facts = {"format": FORMAT, "suite": suite, "steps": steps, "seeds": seeds, "reference": REFERENCE}
    environment = record.environment()
    return {
        **facts,
        "command": environment.pop("command"),
        "environment": environment,
        "contenders": about,
        **head,
        "sweeps": swept,
    }


def problems(suite: str, steps: int) -> list[Problem]:
    """The tasks of a suite."""
    return [_problem(label, sweeps.Point(entry, steps)) for label, entry in _entries(suite).items()]


def _entries(suite: str) -> dict[str, dict[str, Any]]:
    """{label: entry of the task with every argument filled in}."""
    entries = [config.entry("tasks", entry, f"suite {suite}") for entry in SUITES[suite]]
    return {label: entry.model_dump() for label, entry in zip(build.labels(entries), entries, strict=True)}


def _sweep(
    axis: str,
    contenders: Sequence[Contender],
    settings: Settings,
    cache: Cache,
    progress: Progress,
) -> dict[str, Any]:
    """Every task that has the knob, at every value; what is tuned is tuned anew at each."""
    values, base = sweeps.AXES[axis]
    rows: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    for value in values:
        points = []
        for label, entry in _entries(settings.suite).items():
            try:
                points.append(_problem(label, sweeps.point(axis, value, entry, settings.steps)))
            except sweeps.Inapplicable as reason:
                skipped[label] = str(reason)
        part = _results(points, contenders, settings.seeds, cache, progress)
        rows += [row | {"value": value} for row in part["rows"]]
        skipped |= part["skipped"]
    return {"base": base, "values": list(values), "rows": rows, "skipped": skipped}


def _results(
    points: Sequence[Problem], contenders: Sequence[Contender], seeds: int, cache: Cache, progress: Progress
) -> dict[str, Any]:
    found = compare(points, contenders, seeds=seeds, cache=cache, progress=progress)
    return results(found, points, contenders)


def _problem(label: str, point: sweeps.Point) -> Problem:
    def make(entry: dict[str, Any]) -> Task:
        task = build.task(Entry(**entry), label)
        return task if point.rows == 1 else _fewer_rows(task, point.rows)

    def with_batch(size: int | str) -> Task:
        rows = len(jax.tree.leaves(task.data()["train"])[0]) if size == FULL else size
        return make(point.entry | {"batch_size": rows})

    task = make(point.entry)
    entry = point.entry if point.rows == 1 else point.entry | {"share of the training rows": point.rows}
    return Problem(label, task, entry, point.steps, point.told, with_batch if "batch_size" in entry else None)


def _fewer_rows(task: Task, share: float) -> Task:
    """The task with the first rows of its training data only; the other splits stay."""

    def data() -> PyTree:
        splits = dict(task.data())
        splits["train"] = jax.tree.map(lambda x: x[: max(1, round(share * len(x)))], splits["train"])
        return splits

    return task._replace(data=data)


def cache_folder() -> Path:
    """Where curves are kept between evaluations."""
    return Path.home() / ".cache" / "metaopt" / "curves"
