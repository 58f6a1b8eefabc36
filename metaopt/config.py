"""Run configurations: YAML files, typed, with overrides `a.b.c=value`, and every error of a file at once.

Nothing here imports jax: names, keywords and defaults of the registries come from source text (see `entry`).
"""

import re
from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from metaopt import registry
from metaopt.entry import Entry, NameOf, Of, WeightedEntry, fail, lookup, nearest, problem
from metaopt.registry import OPTAX, keywords

__all__ = [
    "ConfigError",
    "Entry",
    "Problem",
    "RunConfig",
    "entry",
    "json_schema",
    "load",
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

    optimizer: Annotated[Entry, Of(OPTAX)] = Field(
        default=Entry(name="adam"), description="any optax optimizer and its keywords, but for learning_rate"
    )
    learning_rate: Positive = Field(default=1e-3, description="peak of the schedule")
    schedule: Annotated[str, NameOf("schedules")] = Field(default="constant", description="schedule over `steps`")
    warmup: int = Field(default=0, ge=0, description="outer steps of linear warm-up in front of the schedule")
    clip: Positive | None = Field(default=None, description="global-norm clip of the meta-gradient; null: none")


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

    @field_validator("outer")
    @classmethod
    def _warmup_ends(cls, outer: Outer, info: ValidationInfo) -> Outer:
        steps = info.data.get("steps")
        if steps is not None and outer.warmup > steps:
            fail([problem(("warmup",), f"at most steps ({steps})", outer.warmup)])
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
    """What makes two tasks the same for the held-out rule: the family and its data set."""
    parameter = keywords("tasks", lookup("tasks", entry.name)).get("dataset")
    return entry.name, entry.kwargs.get("dataset", parameter.default if parameter else None)


def load(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Reads a config file and applies overrides `a.b.c=value`. Raises ConfigError with everything that is wrong."""
    path = Path(path)
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
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


def _validated(kind: Any, raw: Any, origin: str, overrides: Iterable[str]) -> Any:
    if not isinstance(raw, dict):
        raise ConfigError([Problem(origin, "", "a mapping", _show(raw))])
    raw = deepcopy(raw)
    problems: list[Problem] = []
    given = {}
    for override in overrides:
        try:
            given[_apply(raw, override)] = f"override {override}"
        except _BadOverride as error:
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
    return yaml.dump(resolved(config), Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120)


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
        return Problem(origin, ".".join(map(str, at)), context["expected"], _show(context["given"]), context["nearest"])
    key = ".".join([*parents, last])
    if details["type"] == "extra_forbidden":
        valid = SECTIONS[".".join(parents)].model_fields
        return Problem(origin, key, f"one of {', '.join(valid)}", last, nearest(last, valid))
    if details["type"] == "missing":
        return Problem(origin, key, "a value", "nothing")
    expected = re.sub(r"^Input should (be )?|^(\w+) should ", "", details["msg"])
    return Problem(origin, key, expected, _show(details["input"]))


def _show(value: Any) -> str:
    return "nothing" if value is None else value if isinstance(value, str) else repr(value)


class _BadOverride(Exception):
    """args: key, expected, given."""


def _apply(raw: dict[str, Any], override: str) -> str:
    """Sets one value in place and returns its dotted key."""
    path, equals, text = override.partition("=")
    parts = path.split(".")
    if not equals or not all(parts):
        raise _BadOverride("", "key=value or key.key=value", override)
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise _BadOverride(path, "a YAML value", text) from None
    node: Any = raw
    for depth, part in enumerate(parts[:-1]):
        key = _key(node, part, parts[:depth])
        if isinstance(node, dict) and node.get(key) is None:
            node[key] = {"name": "adam"} if parts[: depth + 1] == ["outer", "optimizer"] else {}
        elif isinstance(node[key], str):
            node[key] = {"name": node[key]}  # the short form of an entry
        node = node[key]
    node[_key(node, parts[-1], parts[:-1])] = value
    return path


def _key(node: Any, part: str, path: list[str]) -> str | int:
    """`part` as a key of a dict or an index of a list."""
    if isinstance(node, dict):
        return part
    where = ".".join(path)
    if not isinstance(node, list):
        raise _BadOverride(f"{where}.{part}", f"an existing key: {where} holds a value", _show(node))
    if not part.isdecimal() or int(part) >= len(node):
        raise _BadOverride(f"{where}.{part}", f"an index of {where}, 0 to {len(node) - 1}", part)
    return int(part)


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key, (key_node, _) in zip(keys, node.value, strict=True):
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} given twice", key_node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes the strings that `_Loader` would take for numbers."""


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d[\d_]*(\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789")
    )
