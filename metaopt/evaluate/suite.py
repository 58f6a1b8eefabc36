"""Contenders on tasks: every search that the cache does not have yet is compiled, run and written to it.

Interrupted, it goes on where it stopped: what was written is found again.
"""

import hashlib
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from metaopt.checkpoint import named_leaves
from metaopt.data import DataError
from metaopt.data.cache import digest as array_digest
from metaopt.evaluate import metrics, trials
from metaopt.evaluate.curves import Problems, local_mesh, make_runner, prepare, state_bytes
from metaopt.evaluate.trials import Cache, Search
from metaopt.types import LearnedOptimizer, PyTree, Task

WORKERS = min(8, os.cpu_count() or 1)  # tasks compiled at the same time, each on a core; what runs has all cores
FULL = "full"  # a batch size: as many rows as there are
PROGRAMS = 16  # compiled and held at the same time; each maps memory up to a thousand times, a process may 65,530 times


class Contender(NamedTuple):
    """An optimizer with the candidates that its tuning may choose from; one candidate: nothing is tuned."""

    name: str
    kind: str  # learned | fixed | tuned
    about: str  # in words
    optimizer: LearnedOptimizer
    thetas: PyTree  # leading axis [trials]
    values: dict[str, np.ndarray]  # the candidates' hyper-parameters as people read them, [trials]
    identity: dict[str, Any]  # JSON: what candidate i is, for every i; "optimizer" names the update rule
    batch_size: int | str | None = None  # of its minibatches, or FULL; None: the task's

    @property
    def trials(self) -> int:
        return len(jax.tree.leaves(self.thetas)[0])


class Problem(NamedTuple):
    """A task and how long it is trained."""

    label: str
    task: Task
    entry: dict[str, Any]  # JSON: what the task is
    steps: int
    told: int | None = None  # the horizon that optimizers are told; None: the steps
    with_batch: Callable[[int | str], Task] | None = None  # the task with another batch size; None: it has no batches


class Found(NamedTuple):
    """searches {task: {contender: Search}}, in the order of problems and contenders; skipped {task: reason}."""

    searches: dict[str, dict[str, Search]]
    skipped: dict[str, str]


Progress = Callable[[str, int, int], None]  # (what is done now, searches done, searches to do)


def compare(
    problems: Sequence[Problem], contenders: Sequence[Contender], *, seeds: int, cache: Cache, progress: Progress
) -> Found:
    """Every contender on every problem, paired by seed. A task whose data this machine lacks is skipped.

    Raises Unsuitable when a contender cannot work on a task.
    """
    skipped: dict[str, str] = {}
    todo: list[tuple[Problem, list[Missing]]] = []
    known: dict[str, dict[str, Search]] = {}
    for problem in problems:
        try:
            data = digest(problem.task.data())
        except DataError as error:
            skipped[problem.label] = str(error)
            continue
        wanted = [Missing(c, _description(problem, c, seeds, data)) for c in contenders]
        cached = [cache.get(each.description, each.contender.trials, machine()) for each in wanted]
        known[problem.label] = {w.contender.name: c for w, c in zip(wanted, cached, strict=True) if c is not None}
        todo.append((problem, [w for w, c in zip(wanted, cached, strict=True) if c is None]))
    done, total = 0, sum(len(wanted) for _, wanted in todo)
    todo = [(problem, wanted) for problem, wanted in todo if wanted]
    for batch in _batches(todo):
        progress("compiling", done, total)
        for (problem, wanted), programs in zip(batch, _compiled(batch, seeds), strict=True):
            for (contender, description), run in zip(wanted, programs, strict=True):
                progress(f"{contender.name} on {problem.label}", done, total)
                known[problem.label][contender.name] = search = run()
                cache.put(description, search, machine())
                done += 1
    names = [contender.name for contender in contenders]
    return Found({task: {name: searches[name] for name in names} for task, searches in known.items()}, skipped)


class Missing(NamedTuple):
    """A search that has to be run."""

    contender: Contender
    description: dict[str, Any]


class Unsuitable(Exception):
    """A contender cannot work on a task, which both are named."""


def _batches(
    todo: Sequence[tuple[Problem, list[Missing]]], most: int = PROGRAMS
) -> Iterator[list[tuple[Problem, list[Missing]]]]:
    """The searches in their order, at most so many at a time."""
    batch: list[tuple[Problem, list[Missing]]] = []
    for problem, wanted in todo:
        for part in (wanted[i : i + most] for i in range(0, len(wanted), most)):
            if sum(len(searches) for _, searches in [*batch, (problem, part)]) > most:
                yield batch
                batch = []
            batch.append((problem, part))
    if batch:
        yield batch


def _compiled(batch: Sequence[tuple[Problem, list[Missing]]], seeds: int) -> list[list[Callable[[], Search]]]:
    """What runs each search of each problem; problems compile side by side."""

    def programs(problem: Problem, wanted: Sequence[Missing]) -> list[Callable[[], Search]]:
        problems = prepare(problem.task, problem.task.data(), steps=problem.steps, seeds=seeds)
        return [_program(problem, _rebatched(problem, problems, contender), contender) for contender, _ in wanted]

    with ThreadPoolExecutor(WORKERS) as pool:
        try:
            return list(pool.map(lambda pair: programs(*pair), batch))
        finally:
            pool.shutdown(cancel_futures=True)


def _rebatched(problem: Problem, problems: Problems, contender: Contender) -> Problems:
    """The same members and initial parameters, with the contender's own batch size if it has one."""
    size = contender.batch_size
    if size is None or problem.with_batch is None:
        return problems
    return problems._replace(task=problem.with_batch(size))


def _program(problem: Problem, problems: Problems, contender: Contender) -> Callable[[], Search]:
    """Compiles all trials as one program, and returns what runs it."""
    optimizer, thetas = contender.optimizer, contender.thetas
    checks = metrics.checks(problem.steps)
    try:
        size = state_bytes(problems, optimizer, thetas)
        runner = make_runner(problems, optimizer, checks=checks, told=problem.told, measure=metrics.kept)
        program = runner.compile(thetas)
    except ValueError as error:
        raise Unsuitable(f"{contender.name} cannot work on {problem.label}: {error}") from error

    def run() -> Search:
        start = time.perf_counter()
        runs = program()
        rounds = math.ceil(problems.seeds / local_mesh().size)  # seeds are padded to equally many on each device
        seconds = (time.perf_counter() - start) / (rounds * problem.steps)
        return trials.search(runs, seconds if contender.trials == 1 else math.nan, size)

    return run


def _description(problem: Problem, contender: Contender, seeds: int, data: str) -> dict[str, Any]:
    """Everything that the numbers of a search depend on but rounding, in which machines and versions of JAX differ."""
    return {
        "task": problem.entry,
        "data": data,
        "steps": problem.steps,
        "told": problem.told or problem.steps,
        "seeds": seeds,
        "contender": contender.identity,
    }


def digest(data: PyTree) -> str:
    """sha256 of a pytree of arrays."""
    return array_digest({name: np.asarray(leaf) for name, leaf in named_leaves(data)})


def machine() -> str:
    """What a time belongs to; a hash, since files are passed on."""
    device = jax.local_devices()[0]
    text = f"{platform.node()} {device.platform} {device.device_kind} x{jax.local_device_count()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def validate(
    tasks: Sequence[Task], optimizer: LearnedOptimizer, *, steps: int, seeds: int
) -> Callable[[PyTree], float]:
    """Returns score(theta) -> mean over tasks and seeds of the normalised final loss; lower is better, finite always.

    The programs are compiled in the first call; later ones, with another theta, only run them.
    """

    def make(task: Task) -> Callable[[PyTree], PyTree]:
        def normalized(cfg: PyTree, losses: jax.Array, valid: jax.Array) -> jax.Array:
            return task.normalize(cfg, metrics.final_loss(losses))

        return make_runner(prepare(task, task.data(), steps=steps, seeds=seeds), optimizer, measure=normalized).run

    with ThreadPoolExecutor(WORKERS) as pool:
        runners = list(pool.map(make, tasks))

    def score(theta: PyTree) -> float:
        single = jax.tree.map(lambda x: np.asarray(x)[None], theta)
        with ThreadPoolExecutor(WORKERS) as pool:
            return float(np.mean(list(pool.map(lambda runner: runner(single), runners))))

    return score
