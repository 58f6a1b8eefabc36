"""Run configurations: YAML files, typed, with overrides `a.b.c=value`, and every error of a file at once.

Nothing here imports jax: names, keywords and defaults of the registries come from source text (see `entry`).
"""

import re
from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from metaopt import registry
from metaopt.entry import Entry, NameOf, Of, WeightedEntry, fail, lookup, nearest, problem
from metaopt.overrides import BadOverride, Dumper, Loader, apply, show
from metaopt.registry import OUTER, keywords

__all__ = [
    "ConfigError",
    "Entry",
    "Problem",
    "RunConfig",
    "entry",
    "json_schema",
    "load",
    "one_of",
    "parse",
    "resolved",
    "to_yaml",
]


class Problem(NamedTuple):
    """One thing that is wrong: where (file or override, dotted key), what was expected, what was given instead."""

    origin: str
    key: str
    expected: str
    given: str
    nearest: str | None = None

    def __str__(self) -> str:
        hint = f"; did you mean {self.nearest}?" if self.nearest else ""
        where = f"{self.origin}: {self.key}" if self.key else self.origin
        return f"{where}: expected {self.expected}, got {self.given}{hint}"


class ConfigError(Exception):
    """All that is wrong with a configuration, in `problems`."""

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, problems)))


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)


Suite = Annotated[str, NameOf("suites")]
Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Outer(_Section):
    """The optimizer of theta."""

    optimizer: Annotated[Entry, Of(OUTER)] = Field(
        default=Entry(name="adam"), description="learned, or any optax optimizer, with keywords but for learning_rate"
    )
    learning_rate: Positive = Field(
        default=1e-3, description="peak of the schedule; for learned a factor of its updates, by default 1.0"
    )
    schedule: Annotated[Entry, Of("schedules")] = Field(
        default=Entry(name="constant"), description="of the learning rate, over `steps`; `metaopt list schedules`"
    )
    warmup: int = Field(default=0, ge=0, description="outer steps of linear warm-up in front of the schedule")
    accumulate: Count = Field(default=1, description="outer steps whose mean meta-gradient makes one update of theta")
    clip_value: Positive | None = Field(
        default=None, description="clip of each coordinate of the meta-gradient, before the global one; null: none"
    )
    clip: Positive | None = Field(default=None, description="global-norm clip of the meta-gradient; null: none")

    @model_validator(mode="before")
    @classmethod
    def _learned_steps_stay(cls, raw: Any) -> Any:
        optimizer = raw.get("optimizer") if isinstance(raw, dict) else None
        name = optimizer.get("name") if isinstance(optimizer, dict) else optimizer
        return {"learning_rate": 1.0, **raw} if name == "learned" else raw


class Valid(_Section):
    """The periodic evaluation, which chooses the best weights."""

    suite: Suite = Field(default="valid_small", description="a list of tasks by name")
    every: Count = Field(default=500, description="outer steps between evaluations")
    steps: Count = Field(default=200, description="inner steps")
    seeds: Count = Field(default=2, description="inner runs per task")


class Heldout(_Section):
    """The evaluation at the end, on tasks that were never trained on."""

    suite: Suite = Field(default="heldout_small", description="a list of tasks by name")
    steps: Count = Field(default=1000, description="inner steps")
    seeds: Count = Field(default=3, description="inner runs per task")


class RunConfig(_Section):
    """One meta-training run. Entries hold every argument of their factories, defaults included."""

    seed: int = Field(default=0, ge=0, lt=2**32)
    steps: Count = Field(default=1000, description="outer steps")
    optimizer: Annotated[Entry, Of("optimizers")] = Field(description="the learned optimizer")
    start: str | None = Field(default=None, description="weights where theta begins: run folder or file; null: fresh")
    freeze: str | None = Field(
        default=None,
        description="regular expression, searched for in paths of theta's leaves: which stay as they are; null: none",
    )
    estimator: Annotated[Entry, Of("estimators")] = Field(description="the estimator of the meta-gradient")
    tasks: tuple[Annotated[WeightedEntry, Of("tasks")], ...] = Field(
        strict=False, description="families of inner problems", json_schema_extra={"minItems": 1}
    )
    outer: Outer = Field(default_factory=Outer)
    chunk: Count = Field(default=50, description="outer steps per device call")
    checkpoint_every: Count = Field(default=500, description="outer steps, rounded up to the end of a chunk")
    valid: Valid | None = Field(default_factory=Valid, description="periodic evaluation; null: none")
    heldout: Heldout | None = Field(default_factory=Heldout, description="evaluation at the end; null: none")
    tensorboard: bool = Field(default=False, description="write TensorBoard event files as well")

    @field_validator("tasks")
    @classmethod
    def _some_task(cls, tasks: tuple[WeightedEntry, ...]) -> tuple[WeightedEntry, ...]:
        fail([] if tasks else [problem((), "at least one task", "none")])
        return tasks

    @field_validator("freeze")
    @classmethod
    def _is_pattern(cls, freeze: str | None) -> str | None:
        try:
            re.compile(freeze or "")
        except re.error as error:
            fail([problem((), f"a regular expression ({error})", freeze)])
        return freeze

    @field_validator("outer")
    @classmethod
    def _fits_steps(cls, outer: Outer, info: ValidationInfo) -> Outer:
        steps, problems = info.data.get("steps"), []
        if steps is not None and outer.warmup > steps:
            problems.append(problem(("warmup",), f"at most steps ({steps})", outer.warmup))
        if steps is not None and steps % outer.accumulate:
            problems.append(problem(("accumulate",), f"a divisor of steps ({steps})", outer.accumulate))
        fail(problems)
        return outer

    @field_validator("heldout")
    @classmethod
    def _never_trained_on(cls, heldout: Heldout | None, info: ValidationInfo) -> Heldout | None:
        if heldout is not None:
            held_out = {_pair(Entry(**entry)) for entry in registry.literal(*registry.SUITES)[heldout.suite]}
            expected = f"no task of the held-out suite {heldout.suite}: held-out tasks are never trained on"
            trained = enumerate(map(_pair, info.data.get("tasks", ())))
            fail([problem(("tasks", i), expected, " on ".join(filter(None, p))) for i, p in trained if p in held_out])
        return heldout


SECTIONS: dict[str, type[BaseModel]] = {"": RunConfig, "outer": Outer, "valid": Valid, "heldout": Heldout}


def _pair(entry: Entry) -> tuple[str, str | None]:
    """What makes two tasks the same for the held-out rule: the family and its data set, whatever wraps them."""
    if isinstance(entry.kwargs.get("base"), Entry):
        return _pair(entry.kwargs["base"])
    parameter = keywords("tasks", lookup("tasks", entry.name)).get("dataset")
    return entry.name, entry.kwargs.get("dataset", parameter.default if parameter else None)


def load(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Reads a config file and applies overrides `a.b.c=value`. Raises ConfigError with everything that is wrong."""
    path = Path(path)
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except OSError as error:
        raise ConfigError([Problem(str(path), "", "a readable file", error.strerror or str(error))]) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(str(path), "", "YAML", " ".join(str(error).split()))]) from None
    return parse({} if raw is None else raw, str(path), overrides)


def parse(raw: Any, origin: str, overrides: Iterable[str] = ()) -> RunConfig:
    """The configuration of a nested dict; `origin` names its source in errors. Raises ConfigError."""
    return _validated(RunConfig, raw, origin, overrides)


def entry(kind: str, raw: Any, origin: str, overrides: Iterable[str] = ()) -> Entry:
    """One entry, of a registry, by itself; otherwise as `parse`."""
    return _validated(Annotated[Entry, Of(kind)], raw, origin, overrides)


def one_of(option: str, given: str, known: Iterable[str], why: str = "") -> None:
    """Raises ConfigError when what an option of the command line was given is not known."""
    names = list(known)
    if given not in names:
        expected = f"one of {', '.join(names)}" + (f": {why}" if why else "")
        raise ConfigError([Problem("command line", option, expected, given, nearest(given, names))])


def _validated(kind: Any, raw: Any, origin: str, overrides: Iterable[str]) -> Any:
    if not isinstance(raw, dict):
        raise ConfigError([Problem(origin, "", "a mapping", show(raw))])
    raw = deepcopy(raw)
    problems: list[Problem] = []
    given = {}
    for override in overrides:
        try:
            given[apply(raw, override)] = f"override {override}"
        except BadOverride as error:
            problems.append(Problem(f"override {override}", *error.args))
    try:
        value = TypeAdapter(kind).validate_python(raw)
    except ValidationError as error:
        for details in error.errors():
            found = _problem(origin, details)
            sources = [given[path] for path in given if _related(path, found.key)]
            problems.append(found._replace(origin=sources[-1]) if sources else found)
    if problems:
        raise ConfigError(problems)
    return value


def _related(first: str, second: str) -> bool:
    """Whether one dotted key lies in the other."""
    return f"{first}.".startswith(f"{second}.") or f"{second}.".startswith(f"{first}.")


def resolved(config: RunConfig) -> dict[str, Any]:
    """Plain dicts, lists and scalars, every default filled in; `parse` gives an equal config back."""
    return _plain(config.model_dump())


def to_yaml(config: RunConfig) -> str:
    """The resolved config as a file that can be launched again as it is."""
    return yaml.dump(resolved(config), Dumper=Dumper, sort_keys=False, default_flow_style=None, width=120)


def json_schema() -> dict[str, Any]:
    """JSON schema of config files, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **RunConfig.model_json_schema()}


def _plain(value: Any) -> Any:
    """Tuples become lists; pydantic's own JSON mode would turn infinities into null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _problem(origin: str, details: ErrorDetails) -> Problem:
    *parents, last = map(str, details["loc"])
    context = details.get("ctx", {})
    if details["type"] == "metaopt":
        at = details["loc"]
        at = at[1:] if at[:2] == ("heldout", "tasks") else at  # the held-out rule is checked there, broken here
        return Problem(origin, ".".join(map(str, at)), context["expected"], show(context["given"]), context["nearest"])
    key = ".".join([*parents, last])
    if details["type"] == "extra_forbidden":
        valid = SECTIONS[".".join(parents)].model_fields
        return Problem(origin, key, f"one of {', '.join(valid)}", last, nearest(last, valid))
    if details["type"] == "missing":
        return Problem(origin, key, "a value", "nothing")
    expected = re.sub(r"^Input should (be )?|^(\w+) should ", "", details["msg"])
    return Problem(origin, key, expected, show(details["input"]))
