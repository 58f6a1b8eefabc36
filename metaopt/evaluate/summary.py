"""What the rows of an evaluation add up to: a cell per task and optimizer, and one verdict on an optimizer."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from metaopt.evaluate import statistics
from metaopt.evaluate.baselines import TUNED, USUAL

Row = dict[str, Any]


class Cell(NamedTuple):
    """All seeds of one optimizer on one task."""

    loss: float  # mean of the final losses; inf when one of them is not finite
    spread: float  # their standard deviation (n - 1), 0 for a single seed
    speedup: float  # mean over tuned Adam
    diverged: int
    runs: int


def cells(rows: Sequence[Row]) -> dict[str, dict[str, Cell]]:
    """{task: {optimizer: Cell}}, both in the order in which the rows first name them."""
    groups: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        groups.setdefault(row["task"], {}).setdefault(row["optimizer"], []).append(row)
    return {task: {name: _cell(group) for name, group in named.items()} for task, named in groups.items()}


def _cell(rows: list[Row]) -> Cell:
    losses = [math.inf if row["final_loss"] is None else row["final_loss"] for row in rows]
    finite = math.isfinite(sum(losses))
    return Cell(
        loss=float(np.mean(losses)) if finite else math.inf,
        spread=float(np.std(losses, ddof=1)) if finite and len(losses) > 1 else 0.0,
        speedup=float(np.mean([row["speedup_over_tuned_adam"] for row in rows])),
        diverged=sum(row["diverged"] for row in rows),
        runs=len(rows),
    )


def challengers(rows: Sequence[Row]) -> list[str]:
    """The optimizers that are not baselines."""
    return [name for name in dict.fromkeys(row["optimizer"] for row in rows) if name not in (USUAL, TUNED)]


def summarize(rows: Sequence[Row], optimizer: str = "learned") -> dict[str, Any]:
    """The verdict on one optimizer, as plain JSON.

    tasks; below_adam and below_tuned: tasks where its mean final loss is below that of Adam at 1e-3, of tuned Adam (a
    tie is not); speedup_median, speedup_iqm: of its speed-ups over tuned Adam, over all tasks and seeds; diverged and
    runs: how many of its runs failed, and how many there were.
    """
    table = [named for named in cells(rows).values() if optimizer in named]
    speedups = np.array([row["speedup_over_tuned_adam"] for row in rows if row["optimizer"] == optimizer])
    return {
        "tasks": len(table),
        "below_adam": sum(named[optimizer].loss < named[USUAL].loss for named in table),
        "below_tuned": sum(named[optimizer].loss < named[TUNED].loss for named in table),
        "speedup_median": float(np.median(speedups)) if speedups.size else None,
        "speedup_iqm": float(statistics.iqm(speedups)) if speedups.size else None,
        "diverged": sum(named[optimizer].diverged for named in table),
        "runs": len(speedups),
    }
