"""The result of an evaluation in the terminal: ranking, final losses, sweeps, failures, a verdict on each contender."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from metaopt.evaluate import summary
from metaopt.evaluate.baselines import REFERENCE, USUAL
from metaopt.evaluate.statistics import Interval
from metaopt.evaluate.summary import Cell, Row


def table(results: Mapping[str, Any]) -> Group:
    """Everything that results.json says but the curves."""
    rows, reference = results["rows"], results["reference"]
    parts: list[Any] = []
    if rows:
        parts += [_ranking(rows, reference), _losses(rows)]
        parts += [_sweep(axis, sweep) for axis, sweep in results.get("sweeps", {}).items() if sweep["rows"]]
    for name, failed in summary.failures(rows).items():
        where = ", ".join(f"{task} {cell.diverged}/{cell.runs}" for task, cell in failed.items())
        parts.append(f"[red]failed[/] {escape(name)}: {escape(where)}")
    parts += [f"[yellow]skipped[/] {escape(t)}: {escape(w)}" for t, w in summary.by_reason(results["skipped"]).items()]
    parts += [escape(verdict(rows, name, reference)) for name in summary.challengers(rows, reference)]
    return Group(*parts)


def verdict(rows: Sequence[Row], name: str, reference: str = REFERENCE) -> str:
    """One line of plain text on one contender."""
    s = summary.summarize(rows, name, reference)
    speedup = Interval(s["speedup_iqm"], s["speedup_low"], s["speedup_high"])
    return (
        f"{name}: final loss below Adam at 1e-3 on {s['below_adam']} of {s['tasks']} tasks, "
        f"below tuned Adam on {s['below_tuned']} of {s['tasks']}; "
        f"speed-up over tuned Adam: interquartile mean {times(speedup)}, {summary.judgement(speedup)}; "
        f"{s['diverged']} of {s['runs']} runs failed"
    )


def _ranking(rows: Sequence[Row], reference: str) -> Table:
    title = f"speed-up over {reference}: interquartile mean [95 % over tasks and seeds]; P: of a lower loss than it"
    result = _table(title, "contender", "speed-up", "rank", "P", "< 1e-3", "< tuned", "failed")
    for column in result.columns[1:]:
        column.no_wrap = True
    for s in summary.standings(rows, reference):
        below = [f"{count}/{s.tasks}" for count in (s.below_usual, s.below_reference)]
        if s.name in (USUAL, reference):  # not below itself
            below[s.name == reference] = "–"
        failed = f"[red]{s.diverged}/{s.runs}[/]" if s.diverged else "0"
        numbers = [f"{s.rank.value:.2f}", f"{s.improvement.value:.2f}"]
        result.add_row(escape(s.name), times(s.iqm), *numbers, *below, failed)
    return result


def _losses(rows: Sequence[Row]) -> Table:
    names = summary.contenders(rows)
    result = _table("final loss: training, its deviation over seeds, validation", "task", *names)
    for task, named in summary.cells(rows).items():
        best = min(cell.loss for cell in named.values())
        best_valid = min((cell.valid for cell in named.values() if cell.valid is not None), default=None)
        texts = [_loss(named[name], best, best_valid) if name in named else "–" for name in names]
        result.add_row(escape(task), *texts)
    return result


def _sweep(axis: str, sweep: Mapping[str, Any]) -> Table:
    values = [f"{value:g}{'*' if value == sweep['base'] else ''}" for value in sweep["values"]]
    result = _table(f"speed-up over {axis} (* as everywhere else)", "contender", *values)
    for name, intervals in summary.sweep_speedups(sweep).items():
        result.add_row(escape(name), *(times(i) if i else "–" for i in intervals))
    return result


def _table(title: str, *head: str) -> Table:
    result = Table(title=escape(title), title_justify="left", title_style="bold")
    for i, name in enumerate(head):
        result.add_column(escape(name), justify="right" if i else "left", overflow="fold")
    return result


def number(x: float) -> str:
    """Four significant digits; "failed" where it is not finite."""
    return f"{x:.4g}" if math.isfinite(x) else "failed"


def times(x: Interval) -> str:
    """1.52x [1.10, 2.03]"""
    return f"{x.value:.2f}x [{x.low:.2f}, {x.high:.2f}]"


def _loss(cell: Cell, best: float, best_valid: float | None) -> str:
    if not math.isfinite(cell.loss):
        return f"[red]failed[/] {cell.diverged}/{cell.runs}"
    text = f"{_bold(number(cell.loss), cell.loss == best)}\n±{cell.spread:.2g}"
    return text if cell.valid is None else f"{text}\n[dim]{_bold(number(cell.valid), cell.valid == best_valid)}[/]"


def _bold(text: str, bold: bool) -> str:
    return f"[bold]{text}[/]" if bold else text
