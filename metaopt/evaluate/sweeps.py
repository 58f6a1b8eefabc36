"""Generalisation sweeps: how one knob of a task changes, as its config entry says it. Pure functions of entries.

horizon     factors of the steps of the run
num_steps   factors of the steps that optimizers are told, of a run that stays as it is
width       factors of what a family calls hidden, widths or width
depth       numbers of hidden layers: of equal ones in `hidden`, of layers or blocks
batch_size  factors of the batch size
data_size   shares of the training rows
"""

from collections.abc import Callable
from typing import Any, NamedTuple


class Axis(NamedTuple):
    """values to sweep over, in ascending order, and the one that changes nothing (None: it depends on the task)."""

    values: tuple[float, ...]
    base: float | None


class Point(NamedTuple):
    """A task at a value: its entry, its steps, what optimizers are told, the share of its training rows."""

    entry: dict[str, Any]
    steps: int
    told: int | None = None
    rows: float = 1.0


class Inapplicable(Exception):
    """A task has no such knob; the message says which."""


AXES = {
    "horizon": Axis((0.1, 0.3, 1.0, 3.0, 10.0), 1.0),
    "num_steps": Axis((0.1, 0.3, 1.0, 3.0, 10.0), 1.0),
    "width": Axis((0.25, 0.5, 1.0, 2.0, 4.0), 1.0),
    "depth": Axis((1, 2, 4, 8), None),
    "batch_size": Axis((0.125, 0.25, 0.5, 1.0, 2.0, 4.0), 1.0),
    "data_size": Axis((0.03, 0.1, 0.3, 1.0), 1.0),
}


def point(axis: str, value: float, entry: dict[str, Any], steps: int) -> Point:
    """The task of the entry at a value of the axis. Raises Inapplicable."""
    match axis:
        case "horizon":
            return Point(entry, _scaled(steps, value))
        case "num_steps":
            return Point(entry, steps, told=_scaled(steps, value))
        case "data_size":
            if "dataset" not in entry:
                raise Inapplicable("it has no data set")
            return Point(entry, steps, rows=value)
    return Point(KNOBS[axis](entry, value), steps)


def _width(entry: dict[str, Any], factor: float) -> dict[str, Any]:
    keys = [key for key in ("hidden", "widths", "width") if entry.get(key)]
    if not keys:
        raise Inapplicable("it has no width")
    return entry | {key: _each(entry[key], factor) for key in keys}


def _each(size: int | list[int] | tuple[int, ...], factor: float) -> int | list[int]:
    return [_scaled(n, factor) for n in size] if isinstance(size, list | tuple) else _scaled(size, factor)


def _depth(entry: dict[str, Any], layers: float) -> dict[str, Any]:
    hidden = entry.get("hidden")
    if isinstance(hidden, list | tuple) and hidden and len(set(hidden)) == 1:
        return entry | {"hidden": [hidden[0]] * int(layers)}
    for key in ("layers", "blocks"):
        if key in entry:
            return entry | {key: int(layers)}
    raise Inapplicable("it has no depth, or layers of different widths")


def _batch_size(entry: dict[str, Any], factor: float) -> dict[str, Any]:
    if "batch_size" not in entry:
        raise Inapplicable("it has no batch size")
    return entry | {"batch_size": _scaled(entry["batch_size"], factor)}


KNOBS: dict[str, Callable[[dict[str, Any], float], dict[str, Any]]] = {
    "width": _width,
    "depth": _depth,
    "batch_size": _batch_size,
}


def _scaled(n: int, factor: float) -> int:
    return max(1, round(n * factor))
