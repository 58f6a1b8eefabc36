"""From a config to running code: the only module that knows every registry."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import optax
from jax.sharding import NamedSharding, PartitionSpec
from rich.console import Console

from metaopt import config as configs
from metaopt import runner, schedules, sharding, train
from metaopt.data import available
from metaopt.entry import Entry
from metaopt.estimators import ESTIMATORS
from metaopt.evaluate.suite import validate
from metaopt.optimizers import OPTIMIZERS
from metaopt.tasks import TASKS
from metaopt.tasks.suites import SUITES
from metaopt.train import RunError
from metaopt.types import Estimator, LearnedOptimizer, PyTree, Task


def optimizer(entry: Entry) -> LearnedOptimizer:
    """Raises RunError with the config's key when the factory refuses the arguments; so do the others."""
    return _make("optimizer", entry.name, OPTIMIZERS[entry.name], **entry.kwargs)


def task(entry: Entry, key: str = "task") -> Task:
    return _make(key, entry.name, TASKS[entry.name], **entry.kwargs)


def estimator(entry: Entry, of: Task, learned: LearnedOptimizer) -> Estimator:
    return _make("estimator", entry.name, ESTIMATORS[entry.name], of, learned, **entry.kwargs)


def outer(settings: configs.Outer, steps: int) -> optax.GradientTransformation:
    """The optax optimizer of the config on its schedule over `steps`, behind the clip of the global norm."""
    rate = schedules.schedule(settings.schedule, settings.learning_rate, steps, settings.warmup)
    entry = settings.optimizer
    tx = _make("outer.optimizer", entry.name, getattr(optax, entry.name), rate, **entry.kwargs)
    return tx if settings.clip is None else optax.chain(optax.clip_by_global_norm(settings.clip), tx)


def families(config: configs.RunConfig, learned: LearnedOptimizer) -> list[train.Family]:
    """One family per task of the config, named by `labels`."""
    tasks = [task(entry, f"tasks.{i}") for i, entry in enumerate(config.tasks)]
    return [
        train.Family(label, estimator(config.estimator, member, learned), entry.weight, member.data())
        for label, entry, member in zip(labels(config.tasks), config.tasks, tasks, strict=True)
    ]


def place(members: Sequence[train.Family]) -> tuple[PyTree, ...]:
    """The families' data on every device of the mesh."""
    return train.place(members, NamedSharding(sharding.mesh(), PartitionSpec()))


def labels(entries: Iterable[Entry]) -> list[str]:
    """Distinct names such as image_mlp-wine-hidden=64x64: family, data set, and what differs from the defaults."""
    names: list[str] = []
    for entry in entries:
        factory: Any = TASKS[entry.name]
        defaults = inspect.signature(factory).parameters
        parts = [entry.name]
        for key, value in sorted(entry.kwargs.items(), key=lambda pair: pair[0] != "dataset"):
            if key == "dataset" or _plain(value) != _plain(defaults[key].default):
                parts.append(_plain(value) if key == "dataset" else f"{key}={_plain(value)}")
        name = "-".join(parts)
        same = sum(other.partition("#")[0] == name for other in names)
        names.append(f"{name}#{same + 1}" if same else name)
    return names


def suite(name: str, note: Callable[[str], None]) -> list[tuple[str, Task]]:
    """The (label, task) pairs of a suite that this machine has the data for; `note` is told of the others.

    Raises RunError when none is left.
    """
    entries = [Entry(**entry) for entry in SUITES[name]]
    tasks = []
    for label, entry in zip(labels(entries), entries, strict=True):
        missing = available(entry.kwargs["dataset"]) if "dataset" in entry.kwargs else None
        if missing:
            note(f"{name}: {label} left out: {missing}")
        else:
            tasks.append((label, task(entry, f"suite {name}")))
    if not tasks:
        raise RunError(f"suite {name}: this machine has the data of none of its tasks")
    return tasks


def run(config: configs.RunConfig, out: str | Path, resume: bool = False) -> None:
    """Meta-trains in the folder `out`, evaluates on held-out tasks, writes the report.

    Raises RunError, DataError or CheckpointError for all that the user must see, runner.Interrupted after a signal.
    """
    out, console = Path(out), Console()
    resolved = configs.resolved(config)
    text = configs.to_yaml(config)
    if not runner.claim(out, resolved, text, lambda path: configs.resolved(configs.load(path)), resume):
        console.print(f"the run in {out} is over: see {out / 'report.html'}")
        return
    runner.run(_plan(config, resolved, console), out, console)


def _plan(config: configs.RunConfig, resolved: dict[str, Any], console: Console) -> runner.Plan:
    learned = optimizer(config.optimizer)
    members = families(config, learned)
    init, step = train.make_train(learned, members, outer(config.outer, config.steps))
    return runner.Plan(
        init=init,
        step=step,
        data=place(members),
        families=tuple(family.name for family in members),
        inner_steps=train.inner_steps(members),
        steps=config.steps,
        chunk=config.chunk,
        checkpoint_every=config.checkpoint_every,
        seed=config.seed,
        meta={"optimizer": resolved["optimizer"], "config": resolved},
        validate=_validation(config, learned, console),
        valid_every=config.valid.every if config.valid else config.steps,
        finish=lambda folder, theta, summary: summary,
        tensorboard=config.tensorboard,
    )


def _validation(
    config: configs.RunConfig, learned: LearnedOptimizer, console: Console
) -> Callable[[PyTree], float] | None:
    if config.valid is None:
        return None
    tasks = [member for _, member in suite(config.valid.suite, console.print)]
    return validate(tasks, learned, steps=config.valid.steps, seeds=config.valid.seeds)


def _make(key: str, name: str, factory: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return factory(*args, **kwargs)
    except (TypeError, ValueError) as error:
        raise RunError(f"{key} ({name}): {error}") from error


def _plain(value: Any) -> str:
    """[32, 8, 32] -> 32x8x32"""
    return "x".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)
