"""Contenders on tasks: every search that the cache does not have yet is compiled, run and written to it.

Interrupted, it goes on where it stopped: what was written is found again.
"""

import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
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
BATCH = 8  # tasks whose programs are held at the same time


class Contender(NamedTuple):
    """An optimizer with the candidates that its tuning may choose from; one candidate: nothing is tuned."""

    name: str
    kind: str  # learned | fixed | tuned
    about: str  # in words
    optimizer: LearnedOptimizer
    thetas: PyTree  # leading axis [trials]
    values: dict[str, np.ndarray]  # the candidates' hyper-parameters as people read them, [trials]
    identity: dict[str, Any]  # JSON: what candidate i is, for every i; "optimizer" names the update rule

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
    found: Found = Found({}, {})
    missing: list[tuple[Problem, list[Contender]]] = []
    descriptions: dict[tuple[str, str], dict[str, Any]] = {}
    for problem in problems:
        try:
            data = digest(problem.task.data())
        except DataError as error:
            found.skipped[problem.label] = str(error)
            continue
        here: dict[str, Search] = {}
        for contender in contenders:
            description = _description(problem, contender, seeds, data)
            descriptions[problem.label, contender.name] = description
            known = cache.get(description, contender.trials, machine())
            if known is not None:
                here[contender.name] = known
        found.searches[problem.label] = here
        missing += [(problem, wanted)] if (wanted := [c for c in contenders if c.name not in here]) else []

    done, total = 0, sum(len(wanted) for _, wanted in missing)
    for first in range(0, len(missing), BATCH):
        batch = missing[first : first + BATCH]
        progress("compiling", done, total)
        with ThreadPoolExecutor(WORKERS) as pool:
            try:
                compiled = list(pool.map(lambda pair: _compiled(pair[0], pair[1], seeds), batch))
            finally:
                pool.shutdown(cancel_futures=True)
        for (problem, _), programs in zip(batch, compiled, strict=True):
            for group in programs:
                progress(problem.label, done, total)
                for name, search in group():
                    found.searches[problem.label][name] = search
                    cache.put(descriptions[problem.label, name], search, machine())
                    done += 1
    order = [contender.name for contender in contenders]
    return Found({task: {name: here[name] for name in order} for task, here in found.searches.items()}, found.skipped)


class Unsuitable(Exception):
    """A contender cannot work on a task, which both are named."""


Thunk = Callable[[], list[tuple[str, Search]]]


def _compiled(problem: Problem, contenders: Iterable[Contender], seeds: int) -> list[Thunk]:
    """A thunk per update rule: contenders that share one run as the candidates of one program."""
    rules: dict[str, list[Contender]] = {}
    for contender in contenders:
        rules.setdefault(json.dumps(contender.identity["optimizer"], sort_keys=True), []).append(contender)
    problems = prepare(problem.task, problem.task.data(), steps=problem.steps, seeds=seeds)
    return [_group(problem, problems, group) for group in rules.values()]


def _group(problem: Problem, problems: Problems, group: Sequence[Contender]) -> Thunk:
    """Runs all candidates at once, and one alone for the time of a step."""
    optimizer, steps = group[0].optimizer, problem.steps
    checks = metrics.checks(steps)
    runner = make_runner(problems, optimizer, checks=checks, told=problem.told, measure=metrics.kept)
    thetas = jax.tree.map(lambda *x: np.concatenate(x), *(contender.thetas for contender in group))
    one = jax.tree.map(lambda x: x[:1], thetas)
    try:
        together = runner.compile(thetas)
        alone = runner.compile(one) if len(jax.tree.leaves(thetas)[0]) > 1 else together
        size = state_bytes(problems, optimizer, thetas)
    except ValueError as error:
        raise Unsuitable(f"{group[0].name} cannot work on {problem.label}: {error}") from error

    def run() -> list[tuple[str, Search]]:
        start = time.perf_counter()
        runs = alone()
        devices = local_mesh().size
        rounds = math.ceil(problems.seeds / devices)  # runs of a device; seeds are padded to equally many on each
        seconds = (time.perf_counter() - start) / (rounds * steps)
        runs = together() if alone is not together else runs
        ends = np.cumsum([contender.trials for contender in group])
        parts = [metrics.Runs(*(x[end - c.trials : end] for x in runs)) for c, end in zip(group, ends, strict=True)]
        return [(c.name, trials.search(part, seconds, size)) for c, part in zip(group, parts, strict=True)]

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
