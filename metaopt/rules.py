"""What a config's types do not say: rules over the arguments of an entry. Like all of the config, it imports no jax."""

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from metaopt import registry
from metaopt.registry import OUTER, Parameter

# Keywords of estimators that are positive, or null where they may be
POSITIVE = {"num_tasks", "truncation", "std", "pairs", "period", "clip_diff", "sign_diff", "chunk"}


def problem(key: tuple[int | str, ...], expected: str, given: Any, nearest: str | None = None) -> InitErrorDetails:
    """One error of a `ValidationError`; `given` is shown as it is."""
    context = {"expected": expected, "given": given, "nearest": nearest}
    return InitErrorDetails(type=PydanticCustomError("metaopt", "expected {expected}", context), loc=key, input=given)


def fail(problems: list[InitErrorDetails]) -> None:
    """Raises the problems, if any, as one ValidationError."""
    if problems:
        raise ValidationError.from_exception_data("config", problems)


def nearest(name: object, valid: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(str(name), list(valid), 1, 0.5)), None)


def names(kind: str) -> list[str]:
    """The valid names of a kind: a registry, which for `outer` has optax's optimizers as well, or `suites`."""
    if kind == "suites":
        return list(registry.literal(*registry.SUITES))
    own = list(registry.registry(*registry.REGISTRIES[kind]))
    return own + registry.reexports(*registry.OPTAX) if kind == OUTER else own


def broken(kind: str, name: str, valid: dict[str, Parameter], values: dict[str, Any]) -> list[InitErrorDetails]:
    """The problems with the arguments of the entry `name`; `valid` are its parameters."""
    match kind:
        case "tasks":
            return _dataset(values.get("dataset"))
        case "estimators":
            zero = {key for key, parameter in valid.items() if parameter.default == 0}  # 0 is its default: allowed
            checks = [_at_least(key, values[key], key in zero) for key in values if key in POSITIVE]
            return sum(checks, _horizon(name, values) + _outer_loss(name, values.get("outer_loss")))
        case "horizons":
            return sum((_at_least(key, value) for key, value in values.items()), _ordered(values))
        case "outer_losses":
            return _batches(values)
    return []


def _at_least(key: str, value: Any, zero: bool = False) -> list[InitErrorDetails]:
    if value is None or (value >= 0 if zero else value > 0):
        return []
    return [problem((key,), "0 or a positive number" if zero else "a positive number", value)]


def _dataset(name: Any) -> list[InitErrorDetails]:
    known = names("datasets")
    if not isinstance(name, str) or name in known or name.startswith(("tfds:", "user:")):
        return []
    expected = f"one of {', '.join(known)}, tfds:NAME or user:NAME"
    return [problem(("dataset",), expected, name, nearest(name, known))]


def _ordered(values: dict[str, Any]) -> list[InitErrorDetails]:
    low, high = values.get("low"), values.get("high")
    return [problem(("low",), f"at most high ({high})", low)] if low is not None and low > high else []


def _horizon(name: str, values: dict[str, Any]) -> list[InitErrorDetails]:
    """Of an estimator: its ends are positive multiples of the truncation, and so is a period."""
    given, truncation = values.get("horizon"), values.get("truncation")
    if given is None or truncation is None or truncation <= 0:
        return []
    if isinstance(given, int | tuple):
        ends = given if isinstance(given, tuple) else (given,)
        places: list[tuple[tuple[str, ...], Any, int]] = [(("horizon",), given, end) for end in ends]
        problems = [problem(("horizon",), "a positive number", given)] if min(ends) <= 0 else []
        problems += [problem(("horizon",), "the shorter horizon first", given)] if ends[0] > ends[-1] else []
    else:  # an entry, which has been checked by itself
        places = [(("horizon", key), end, end) for key, end in given.kwargs.items() if key in ("steps", "low", "high")]
        problems = []
    places = [place for place in places if place[2] % truncation][:1]
    problems += [problem(key, f"a multiple of truncation ({truncation})", shown) for key, shown, _ in places]
    if values.get("period") is not None and name != "gpes":
        problems.append(problem(("period",), f"null: in {name} a perturbation lasts the whole run", values["period"]))
    elif values.get("period") is not None and values["period"] % truncation:
        problems.append(problem(("period",), f"a multiple of truncation ({truncation})", values["period"]))
    return problems


def _outer_loss(estimator: str, loss: Any) -> list[InitErrorDetails]:
    whole = registry.literal(*registry.WHOLE_RUNS)
    if loss is None or loss.name != "minimum" or estimator in whole:
        return []
    expected = (
        f"mean, weighted or final: {estimator} sees truncations, the minimum is of whole runs ({', '.join(whole)})"
    )
    return [problem(("outer_loss", "name"), expected, loss.name)]


def _batches(values: dict[str, Any]) -> list[InitErrorDetails]:
    """Of an outer loss."""
    split, batches = values.get("split", "train"), values.get("batches", 0)
    if batches < 0 or split != "train" and batches == 0:
        why = f" for split {split}, which no step trains on" if split != "train" else ", or 0"
        return [problem(("batches",), f"a positive number{why}", batches)]
    return []
