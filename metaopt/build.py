"""From a config to running code: the only module that knows every registry."""

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import optax
from jax.sharding import NamedSharding, PartitionSpec

from metaopt import config as configs
from metaopt import data, schedules, sharding, tasks, train
from metaopt import outer as outers
from metaopt.begin import keyed
from metaopt.entry import Entry
from metaopt.estimators import ESTIMATORS, HORIZONS, OUTER_LOSSES
from metaopt.evaluate.suite import digest
from metaopt.optimizers import make
from metaopt.train import RunError
from metaopt.types import Estimator, LearnedOptimizer, PyTree, Task


def optimizer(entry: Entry) -> LearnedOptimizer:
    """Raises RunError with the config's key when the factory refuses the arguments; so do the others."""
    try:
        return make(entry.model_dump())
    except ValueError as error:
        raise RunError(str(error)) from error


def task(entry: Entry, key: str = "task") -> Task:
    arguments = {name: value for name, value in entry.model_dump().items() if name != "weight"}
    try:
        return tasks.make(arguments, key)
    except ValueError as error:
        raise RunError(str(error)) from error


def estimator(entry: Entry, of: Task, learned: LearnedOptimizer) -> Estimator:
    arguments = dict(entry.kwargs)
    for key, registry in (("horizon", HORIZONS), ("outer_loss", OUTER_LOSSES)):
        if isinstance(value := arguments.get(key), Entry):
            arguments[key] = _make(f"estimator.{key}", value.name, registry[value.name], **value.kwargs)
    return _make("estimator", entry.name, ESTIMATORS[entry.name], of, learned, **arguments)


def outer(settings: configs.Outer, steps: int) -> optax.GradientTransformationExtraArgs:
    """Mean over `accumulate` outer steps -> clip of each coordinate -> clip of the global norm -> the optimizer.

    Update u = 0, 1, ... has the learning rate of the schedule over `steps` at outer step u · accumulate, the first of
    those it is made of. An optimizer that counts its updates counts steps / accumulate.
    """
    entry, every, key = settings.optimizer, settings.accumulate, "outer.optimizer"
    schedule = (settings.schedule.model_dump(), settings.learning_rate, steps, settings.warmup, every)
    rate = _make("outer.schedule", settings.schedule.name, schedules.scale_by, *schedule)
    with keyed(f"{key}.weights"):
        tx = _make(key, entry.name, outers.make, entry.name, rate, steps // every, **entry.kwargs)
    if settings.clip is not None:
        tx = optax.chain(optax.clip_by_global_norm(settings.clip), tx)
    if settings.clip_value is not None:
        tx = optax.chain(optax.clip(settings.clip_value), tx)
    if entry.name in outers.COORDINATEWISE:
        tx = optax.flatten(tx)  # a loop for each leaf of theta takes longer to compile than to run
    return outers.accumulated(tx, every)


def families(config: configs.RunConfig, learned: LearnedOptimizer) -> list[train.Family]:
    """One family per task of the config, named by `labels`."""
    problems = [task(entry, f"tasks.{i}") for i, entry in enumerate(config.tasks)]
    return [
        train.Family(label, estimator(config.estimator, member, learned), entry.weight, member.data())
        for label, entry, member in zip(labels(config.tasks), config.tasks, problems, strict=True)
    ]


def place(members: Sequence[train.Family]) -> tuple[PyTree, ...]:
    """The families' data on every device of the mesh."""
    return train.place(members, NamedSharding(sharding.mesh(), PartitionSpec()))


def origins(entries: Iterable[Entry], members: Sequence[train.Family]) -> dict[str, dict[str, Any]]:
    """{family: {"dataset", "sha256", "synthetic"}} of the families that have data.

    The sum is over the splits of the data set that the entry names, as `data.load` gives them; where it names none, as
    a task of a user's own may, "dataset" is None and the sum over the arrays of the family.
    """
    found: dict[str, dict[str, Any]] = {}
    for entry, member in zip(entries, members, strict=True):
        name = _dataset(entry)
        splits = member.data if name is None else data.load(name)
        if jax.tree.leaves(splits):
            found[member.name] = {"dataset": name, "sha256": digest(splits), "synthetic": name in data.SYNTHETIC}
    return found


def _dataset(entry: Entry) -> str | None:
    """The data set that a task names, or the one that a wrapper wraps."""
    for value in entry.kwargs.values():
        if isinstance(value, Entry):
            return _dataset(value)
    return entry.kwargs.get("dataset")


def labels(entries: Iterable[Entry]) -> list[str]:
    """Distinct names such as image_mlp-wine-hidden=64x64: family, data set, and what differs from the defaults."""
    names: list[str] = []
    for entry in entries:
        name = _label(entry)
        same = sum(other.partition("#")[0] == name for other in names)
        names.append(f"{name}#{same + 1}" if same else name)
    return names


def _label(entry: Entry) -> str:
    """A wrapper's has that of its base in parentheses."""
    defaults = inspect.signature(tasks.resolve(entry.name)).parameters
    parts, base = [entry.name], ""
    for key, value in sorted(entry.kwargs.items(), key=lambda pair: pair[0] != "dataset"):
        if isinstance(value, Entry | dict):
            base = f"({_label(value if isinstance(value, Entry) else Entry(**value))})"
        elif key == "dataset" or _plain(value) != _plain(defaults[key].default):
            parts.append(_plain(value) if key == "dataset" else f"{key}={_plain(value)}")
    return "-".join(parts) + base


def _make(key: str, name: str, factory: Any, /, *args: Any, **kwargs: Any) -> Any:
    try:
        return factory(*args, **kwargs)
    except (TypeError, ValueError) as error:
        raise RunError(f"{key} ({name}): {error}") from error


def _plain(value: Any) -> str:
    """[32, 8, 32] -> 32x8x32"""
    return "x".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)
