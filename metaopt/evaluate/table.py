"""The result of an evaluation in the terminal."""

from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from metaopt.evaluate.baselines import TUNED
from metaopt.evaluate.summary import Cell, Row, cells, challengers, summarize


def table(rows: Sequence[Row], tuned: Mapping[str, float], skipped: Mapping[str, str]) -> Group:
    """Final losses per task (mean ± standard deviation over seeds, lowest in bold), speed-ups, failures, a verdict."""
    names = list(dict.fromkeys(row["optimizer"] for row in rows))
    ours = challengers(rows)
    head = ["task", *names, *(f"speed-up of {name}" for name in ours), "diverged"]
    result = Table(*head, title="final loss on held-out tasks", title_justify="left", caption_justify="left")
    for column in result.columns[1:]:
        column.justify = "right"
    for task, named in cells(rows).items():
        best = min(cell.loss for cell in named.values())
        losses = [_loss(named[name], named[name].loss == best) for name in names]
        losses[names.index(TUNED)] += f" [dim]@{tuned[task]:.2g}[/]"
        speedups = [f"{named[name].speedup:.2f}x" for name in ours]
        failures = ", ".join(f"{named[name].diverged}/{named[name].runs} {escape(name)}" for name in _failed(named))
        result.add_row(escape(task), *losses, *speedups, failures or "0")
    notes = [f"skipped {escape(task)}: {escape(reason)}" for task, reason in skipped.items()]
    return Group(result, *notes, *(verdict(rows, name) for name in ours))


def verdict(rows: Sequence[Row], name: str) -> str:
    """One line of plain text on one optimizer."""
    s = summarize(rows, name)
    return (
        f"{name}: final loss below Adam at 1e-3 on {s['below_adam']} of {s['tasks']} tasks, "
        f"below tuned Adam on {s['below_tuned']} of {s['tasks']}; "
        f"speed-up over tuned Adam: median {s['speedup_median']:.2f}x, interquartile mean {s['speedup_iqm']:.2f}x; "
        f"{s['diverged']} of {s['runs']} runs diverged"
    )


def number(x: float) -> str:
    """Four significant digits."""
    return f"{x:.4g}"


def _loss(cell: Cell, best: bool) -> str:
    text = f"{number(cell.loss)} ± {cell.spread:.2g}"
    return f"[bold]{text}[/]" if best else text


def _failed(named: Mapping[str, Cell]) -> list[str]:
    return [name for name, cell in named.items() if cell.diverged]
