"""What the rows of an evaluation add up to: cells of a table, the contenders' standings, one verdict on each.

A row is a run: task, optimizer (the contender's name), seed and what was measured, null where it was not finite.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metaopt.evaluate import statistics
from metaopt.evaluate.baselines import REFERENCE, USUAL
from metaopt.evaluate.statistics import Interval

Row = Mapping[str, Any]
Groups = dict[str, dict[str, list[Row]]]


class Cell(NamedTuple):
    """All seeds of one contender on one task."""

    loss: float  # mean of the final training losses; inf when one of them is not finite
    spread: float  # their standard deviation (n - 1), 0 for a single seed
    valid: float | None  # mean of the final validation losses; inf as above, None where the task has none
    speedup: float  # mean over the reference
    diverged: int
    runs: int


class Standing(NamedTuple):
    """All runs of one contender. Intervals are of 95 %, tasks resampled too: what other tasks like these would give."""

    name: str
    iqm: Interval  # of the speed-ups over the reference
    median: Interval
    mean: Interval
    rank: Interval  # mean over problems of the rank by final loss
    improvement: Interval  # probability that a run ends below one of the reference
    area: float  # of the performance profile
    below_usual: int  # tasks on which its mean final loss is below that of Adam at 1e-3; a tie is not
    below_reference: int
    tasks: int
    diverged: int
    runs: int
    seconds: float | None  # per step over those of Adam at 1e-3 (the reference is many runs), median over tasks
    state: float | None  # bytes of state over the reference's, median over tasks
    state_bytes: float | None  # on the task where they are the most


def grouped(rows: Iterable[Row]) -> Groups:
    """{task: {contender: rows by seed}}, tasks and contenders in the order in which the rows first name them."""
    groups: Groups = {}
    for row in rows:
        groups.setdefault(row["task"], {}).setdefault(row["optimizer"], []).append(row)
    for named in groups.values():
        for runs in named.values():
            runs.sort(key=lambda row: row["seed"])
    return groups


def cells(rows: Iterable[Row]) -> dict[str, dict[str, Cell]]:
    """{task: {contender: Cell}}."""
    return {task: {name: _cell(runs) for name, runs in named.items()} for task, named in grouped(rows).items()}


def _cell(rows: list[Row]) -> Cell:
    losses = _losses(rows)
    finite = bool(np.isfinite(losses).all())
    # no run has one where the task has no validation split; a run that failed has none where it does
    valid = _losses(rows, "valid_final") if any(row.get("valid_final") is not None for row in rows) else None
    return Cell(
        loss=float(losses.mean()),
        spread=float(losses.std(ddof=1)) if finite and len(losses) > 1 else 0.0,
        valid=None if valid is None else float(valid.mean()),
        speedup=float(np.mean(_speedups(rows))),
        diverged=sum(bool(row["diverged"]) for row in rows),
        runs=len(rows),
    )


def _losses(rows: Iterable[Row], key: str = "final_loss") -> np.ndarray:
    """[seeds], +inf for null."""
    return statistics.worst(np.array([row[key] for row in rows], np.float64))


def _speedups(rows: Iterable[Row]) -> list[float]:
    return [row["speedup"] or 0.0 for row in rows]


def contenders(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row["optimizer"] for row in rows))


def challengers(rows: Iterable[Row], reference: str = REFERENCE) -> list[str]:
    """The contenders that are not among the two that are always there."""
    return [name for name in contenders(rows) if name not in (USUAL, reference)]


def standings(rows: Sequence[Row], reference: str = REFERENCE) -> list[Standing]:
    """Every contender, the best first: by the interquartile mean of its speed-ups, then by its mean rank.

    A contender that did not run on a task is judged on those on which it did; only its performance profile counts the
    task as not solved.
    """
    groups, ratios = grouped(rows), profile_ratios(rows)
    ranks: dict[str, list[np.ndarray]] = {}
    for named in groups.values():
        for name, rank in zip(named, statistics.ranks(np.stack([_losses(r) for r in named.values()])), strict=True):
            ranks.setdefault(name, []).append(rank)
    found = [_standing(groups, name, reference, np.stack(ranks[name]), ratios[name]) for name in contenders(rows)]
    return sorted(found, key=lambda s: (-s.iqm.value, s.rank.value))


def _standing(groups: Groups, name: str, reference: str, ranks: np.ndarray, ratios: np.ndarray) -> Standing:
    runs = [named[name] for named in groups.values() if name in named]
    rows = [row for group in runs for row in group]
    speedups = np.array([_speedups(group) for group in runs])
    return Standing(
        name=name,
        iqm=statistics.interval(speedups, statistics.iqm),
        median=statistics.interval(speedups, statistics.median),
        mean=statistics.interval(speedups, statistics.mean),
        rank=statistics.interval(ranks, statistics.mean),
        improvement=_improvement(groups, name, reference),
        area=float(statistics.profile_area(ratios)),
        below_usual=_below(groups, name, USUAL),
        below_reference=_below(groups, name, reference),
        tasks=len(runs),
        diverged=sum(bool(row["diverged"]) for row in rows),
        runs=len(rows),
        seconds=_relative(groups, name, USUAL, "seconds_per_step"),
        state=_relative(groups, name, reference, "state_bytes"),
        state_bytes=max((row["state_bytes"] for row in rows if row.get("state_bytes") is not None), default=None),
    )


def _below(groups: Groups, name: str, other: str) -> int:
    """Tasks on which the mean final loss is below the other's; a tie is not."""
    both = [named for named in groups.values() if name in named and other in named]
    return sum(bool(_losses(named[name]).mean() < _losses(named[other]).mean()) for named in both)


def _improvement(groups: Groups, name: str, reference: str) -> Interval:
    both = [
        (_losses(named[name]), _losses(named[reference])) for named in groups.values() if {name, reference} <= {*named}
    ]
    ours, theirs = (np.stack(x) for x in zip(*both, strict=True))
    return statistics.bootstrap(statistics.probability_of_improvement, ours, theirs)


def _relative(groups: Groups, name: str, reference: str, key: str) -> float | None:
    """Median over tasks of mean(contender) / mean(reference); None where either was not measured."""
    found = []
    for named in groups.values():
        means = [_mean([row.get(key) for row in named.get(who, [])]) for who in (name, reference)]
        if means[0] is not None and means[1]:
            found.append(means[0] / means[1])
    return float(np.median(found)) if found else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def profile_ratios(rows: Iterable[Row]) -> dict[str, np.ndarray]:
    """{contender: r [tasks]} for performance profiles: steps to the reference's final loss, over the fastest one's.

    A task's steps are the median over seeds (as AlgoPerf takes it over its studies), a seed that never gets there, and
    one that is missing, counting as infinitely many.
    """
    groups, names = grouped(rows), contenders(rows)

    def steps(runs: list[Row]) -> float:
        return float(statistics.median(statistics.worst(np.array([row["steps_to_reference"] for row in runs], float))))

    times = np.array([[steps(named[n]) if n in named else math.inf for named in groups.values()] for n in names])
    return dict(zip(names, statistics.time_ratios(times), strict=True))


def sweep_speedups(sweep: Mapping[str, Any]) -> dict[str, list[Interval | None]]:
    """{contender: interquartile mean of the speed-up at every one of the sweep's values}, None where it did not run."""
    found: dict[str, list[Interval | None]] = {}
    for name in contenders(sweep["rows"]):
        found[name] = []
        for value in sweep["values"]:
            mine = [row for row in sweep["rows"] if row["optimizer"] == name and row["value"] == value]
            scores = np.array([_speedups(named[name]) for named in grouped(mine).values()])
            found[name].append(statistics.interval(scores) if mine else None)
    return found


def failures(rows: Iterable[Row]) -> dict[str, dict[str, Cell]]:
    """{contender: {task: its cell}} of those with a run that failed, most failures first."""
    found: dict[str, dict[str, Cell]] = {}
    for task, named in cells(rows).items():
        for name, cell in named.items():
            if cell.diverged:
                found.setdefault(name, {})[task] = cell
    return dict(sorted(found.items(), key=lambda item: -sum(cell.diverged for cell in item[1].values())))


def by_reason(skipped: Mapping[str, str]) -> dict[str, str]:
    """{tasks that were skipped for the same reason, joined: the reason}."""
    reasons: dict[str, list[str]] = {}
    for task, why in skipped.items():
        reasons.setdefault(why, []).append(task)
    return {", ".join(tasks): why for why, tasks in reasons.items()}


def summarize(rows: Sequence[Row], optimizer: str = "learned", reference: str = REFERENCE) -> dict[str, Any]:
    """The verdict on one contender, as plain JSON.

    tasks; below_adam and below_tuned: tasks where its mean final loss is below that of Adam at 1e-3, of tuned Adam (a
    tie is not); speedup_median, speedup_iqm and speedup_low, speedup_high, its interval: of the speed-ups over tuned
    Adam, over all tasks and seeds; diverged and runs: how many of its runs failed, and how many there were.
    """
    groups = grouped(rows)
    runs = [named[optimizer] for named in groups.values() if optimizer in named]
    speedups = np.array([_speedups(group) for group in runs])
    iqm = statistics.interval(speedups) if runs else None
    return {
        "tasks": len(runs),
        "below_adam": _below(groups, optimizer, USUAL),
        "below_tuned": _below(groups, optimizer, reference),
        "speedup_median": float(np.median(speedups)) if runs else None,
        "speedup_iqm": iqm and iqm.value,
        "speedup_low": iqm and iqm.low,
        "speedup_high": iqm and iqm.high,
        "diverged": sum(bool(row["diverged"]) for group in runs for row in group),
        "runs": speedups.size,
    }


def judgement(speedup: Interval) -> str:
    """Whether the interval of the speed-up leaves 1 out."""
    return "faster" if speedup.low > 1 else "slower" if speedup.high < 1 else "not told apart"
