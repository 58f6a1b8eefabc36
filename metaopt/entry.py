"""An entry of a config: `name:` plus keyword arguments, checked against the signature of the factory it names.

The factory's signature is the only place where defaults and types live. It is read from source (`registry`), so that a
wrong name, key or value is reported before jax is imported. Defaults are filled in: an entry holds every argument.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from types import SimpleNamespace
from typing import Any, Literal, Optional, Union

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from metaopt import registry, rules
from metaopt.registry import OUTER, REQUIRED, Factory, Parameter, Source, keywords
from metaopt.rules import fail, names, nearest, problem

NUMBERS = {"horizons": "int | tuple[int, int]"}  # what may stand for an entry of that registry
# What an annotation may say to be checked; any other name in it, and its values pass unchecked.
TYPES = {
    **{cls.__name__: cls for cls in (int, float, bool, str, list, tuple, dict)},
    **{
        "Any": Any,
        "Callable": Callable,
        "Literal": Literal,
        "Optional": Optional,
        "Sequence": Sequence,
        "Union": Union,
    },
    "jax": SimpleNamespace(typing=SimpleNamespace(ArrayLike=float)),
    "base": SimpleNamespace(ScalarOrSchedule=float),
}


class Entry(BaseModel):
    """`{name: pes, truncation: 20}`, or just `pes`. After validation `kwargs` holds the factory's defaults as well."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)
    name: str

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def kwargs(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class WeightedEntry(Entry):
    """An entry with a weight in the mean over families."""

    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="weight of this family's meta-gradient")


def lookup(kind: str, name: str) -> Factory:
    """The factory of a name. Raises LookupError, with what is missing, for a `module:function` that is not there."""
    if kind == "tasks" and ":" in name:
        return _users_own(name)
    own = registry.registry(*registry.REGISTRIES[kind])
    return registry.factory("optax", name) if kind == OUTER and name not in own else own[name]


def _users_own(name: str) -> Factory:
    """What `module:function` stands for: of an importable module, or of a file in the working directory."""
    module, _, function = name.partition(":")
    sys.path.insert(0, "")  # the working directory, which a console script does not have
    try:
        return registry.factory(module, function)
    except ModuleNotFoundError as error:
        raise LookupError("MODULE:FUNCTION, of an importable module or a file in the working directory") from error
    except AttributeError as error:
        raise LookupError(f"a function of module {module}") from error
    finally:
        sys.path.remove("")


@cache
def adapter(annotation: str | None) -> TypeAdapter[Any]:
    """The checker of an annotation."""
    try:
        kind = eval(annotation or "Any", {"__builtins__": {}}, TYPES)  # the source text of installed code
    except (AttributeError, NameError, TypeError):
        kind = Any
    return TypeAdapter(kind)


def coerce(parameter: Parameter, value: Any) -> Any:
    """The value in the parameter's type (lists become tuples, integers floats). Raises ValueError where it has none."""
    if parameter.nested in NUMBERS and not isinstance(value, dict | str):
        try:
            return _checked(NUMBERS[parameter.nested], value)
        except ValidationError:
            fail([problem((), f"{NUMBERS[parameter.nested]} or one of {', '.join(names(parameter.nested))}", value)])
    if parameter.nested:
        return _nested(parameter.nested, parameter.default, value)
    return _checked(parameter.annotation, value)


def _checked(annotation: str | None, value: Any) -> Any:
    # As JSON, because strict JSON is just what a config needs: [1, 2] may be a tuple, but "1" and true are no integers.
    return adapter(annotation).validate_json(json.dumps(value, default=str), strict=True)


def _nested(kind: str, default: Any, value: Any) -> Entry:
    """An entry in an entry, checked. One without a name is the default one with these arguments instead of its own."""
    if isinstance(value, dict) and "name" not in value and isinstance(default, Source):
        value = registry.entry_of(default) | value
    return check(kind, Entry.model_validate(value))


def check(kind: str, entry: Entry) -> Entry:
    """The entry with every argument filled in and in its type; raises ValidationError with all that is wrong."""
    known = names(kind)
    if entry.name not in known and not (kind == "tasks" and ":" in entry.name):
        what = "learned or the name of an optax optimizer" if kind == OUTER else f"one of {', '.join(known)}"
        fail([problem(("name",), what, entry.name, nearest(entry.name, known))])
    try:
        factory = lookup(kind, entry.name)
    except LookupError as error:
        fail([problem(("name",), str(error.args[0]), entry.name)])
    valid = keywords(kind, factory)
    problems, values = [], {}
    for key, value in entry.kwargs.items():
        if key not in valid:
            problems.append(_unknown(kind, factory, key, value))
    for key, parameter in valid.items():
        try:
            if key in entry.kwargs or parameter.nested and parameter.default is not REQUIRED:
                default = {} if isinstance(parameter.default, Source) else parameter.default
                values[key] = coerce(parameter, entry.kwargs.get(key, default))
            elif parameter.default is REQUIRED:
                problems.append(problem((key,), f"a value: {entry.name} needs {key}: {parameter.annotation}", None))
            elif not isinstance(parameter.default, Source):
                values[key] = parameter.default
        except ValueError as error:
            if parameter.nested and isinstance(error, ValidationError):
                problems += _below(key, error)
            else:
                problems.append(problem((key,), parameter.annotation or "a value", entry.kwargs[key]))
    fail(problems + rules.broken(kind, entry.name, valid, values))
    fields = {name: getattr(entry, name) for name in type(entry).model_fields}
    return type(entry).model_construct(**fields, **values)


def _below(key: str, error: ValidationError) -> list[InitErrorDetails]:
    """The problems of the entry that is given as `key`."""
    return [
        InitErrorDetails(
            type=PydanticCustomError(e["type"], e["msg"], e.get("ctx")),
            loc=(key, *e["loc"]),
            input=e["input"],
        )
        for e in error.errors()
    ]


def _unknown(kind: str, factory: Factory, key: str, value: Any) -> InitErrorDetails:
    valid = keywords(kind, factory)
    if any(p.name == key for p in factory.parameters):
        elsewhere = ": set outer.learning_rate" if kind == OUTER and key.endswith("learning_rate") else ""
        return problem((key,), f"no {key} here, the program supplies it{elsewhere}", value)
    return problem((key,), f"a keyword of {factory.name} ({', '.join(valid)})", key, nearest(key, valid))


@dataclass(frozen=True)
class Of:
    """`Annotated[Entry, Of("tasks")]`: the entry is checked against that registry, and described in the JSON schema."""

    kind: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(partial(check, self.kind), handler(source))

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: Any) -> dict[str, Any]:
        fields = handler.resolve_ref_schema(handler(schema))["properties"]
        return _any_of(self.kind, fields)


@dataclass(frozen=True)
class NameOf:
    """`Annotated[str, NameOf("suites")]`: one of the names of that registry."""

    kind: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: Any) -> dict[str, Any]:
        return {**handler(schema), "enum": names(self.kind)}

    def _check(self, name: str) -> str:
        known = names(self.kind)
        if name not in known:
            fail([problem((), f"one of {', '.join(known)}", name, nearest(name, known))])
        return name


def _any_of(kind: str, fields: dict[str, Any], depth: int = 1) -> dict[str, Any]:
    """Any entry of a registry; entries in entries are described `depth` deep, and any below."""
    bare = [{"enum": names(kind)}] + [{"pattern": r"^[\w.]+:\w+$"}] * (kind == "tasks")
    return {"anyOf": [*bare, *(_schema(kind, name, fields, depth) for name in names(kind))]}


def _schema(kind: str, name: str, fields: dict[str, Any], depth: int) -> dict[str, Any]:
    factory = lookup(kind, name)
    valid = keywords(kind, factory)
    properties = {**fields, "name": {"const": name}}
    for key, parameter in valid.items():
        about = ": ".join(text for text in (parameter.annotation, factory.describe(key)) if text)
        properties[key] = {**adapter(parameter.annotation).json_schema(), "description": about}
        if parameter.nested and depth > 0:
            properties[key] |= _any_of(parameter.nested, {}, depth - 1)
            if parameter.nested in NUMBERS:
                properties[key]["anyOf"].append(adapter(NUMBERS[parameter.nested]).json_schema())
        if kind == "tasks" and key == "dataset":
            properties[key] |= {"anyOf": [{"enum": names("datasets")}, {"pattern": "^(tfds|user):"}]}
        if parameter.default is not REQUIRED and not isinstance(parameter.default, Source):
            properties[key]["default"] = parameter.default
    required = [key for key, parameter in valid.items() if parameter.default is REQUIRED]
    return {
        "type": "object",
        "title": name,
        "description": factory.headline,
        "properties": properties,
        "required": ["name"] * ("name" in fields) + required,  # an entry in an entry has the default's
        "additionalProperties": False,
    }
