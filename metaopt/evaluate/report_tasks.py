"""The report's sections on single tasks: final losses, curves, what tuning chose, what an untuned run is worth."""

import math
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from metaopt.evaluate import summary
from metaopt.evaluate._svg import Line, chart, sample
from metaopt.evaluate.report_html import fold, label, section, styles, table, times
from metaopt.evaluate.summary import Cell
from metaopt.evaluate.table import number

SEARCH = "nadamw8p@"  # the random search that a run's worth is counted in


def losses(results: Mapping[str, Any]) -> str:
    """The table: a row per task, a column per contender."""
    names = summary.contenders(results["rows"])
    rows = []
    for task, named in summary.cells(results["rows"]).items():
        best = min(cell.loss for cell in named.values())
        best_valid = min((cell.valid for cell in named.values() if cell.valid is not None), default=None)
        rows.append([label(task), *(_cell(named.get(name), best, best_valid) for name in names)])
    note = (
        "Final training loss: the mean of the last 5&#8239;% of the steps and over seeds, ± their standard "
        "deviation; then the validation loss where the task has one. The lowest are bold."
    )
    return section("Final losses", note, table(("task", *names), rows))


def _cell(cell: Cell | None, best: float, best_valid: float | None) -> str:
    if cell is None:
        return "–"
    if not math.isfinite(cell.loss):
        return f"<span class='bad'>failed</span><small>{cell.diverged} of {cell.runs}</small>"
    text = f"{_bold(number(cell.loss), cell.loss == best)}<small>± {cell.spread:.2g}</small>"
    if cell.valid is not None:
        text += f"<small>valid {_bold(number(cell.valid), cell.valid == best_valid)}</small>"
    return text + (f"<small class='bad'>{cell.diverged} of {cell.runs} failed</small>" if cell.diverged else "")


def _bold(text: str, bold: bool) -> str:
    return f"<b>{text}</b>" if bold else text


def curves(results: Mapping[str, Any]) -> str:
    """A row of pictures per task: training, validation, and who came out where."""
    rows = results["rows"]
    looks = styles(summary.contenders(rows), results["reference"])
    cards = "".join(_card(task, named, results, looks) for task, named in summary.cells(rows).items())
    note = (
        "Loss over steps, mean over seeds; bands span all seeds. Training losses are smoothed over 5&#8239;% of the "
        "run. Pictures are cut at twice the first loss, and six decades lower. Beside each: contenders by final "
        "training loss, with their speed-up."
    )
    return section("Curves", note, cards)


def _card(task: str, named: Mapping[str, Cell], results: Mapping[str, Any], looks: Mapping[str, str]) -> str:
    pictures = [
        f"<div><h4>{kind}</h4>{_picture(f'{kind} loss on {task}', found[task], looks)}</div>"
        for kind, found in (("training", results["curves"]), ("validation", results.get("valid_curves", {})))
        if any(value is not None for curve in found.get(task, {}).values() for value in curve["mean"])
    ]
    order = sorted(named, key=lambda name: named[name].loss)
    places = "".join(_place(name, named[name], looks[name]) for name in order)
    panels = f"<div class='panels'>{''.join(pictures)}<ol class='places'>{places}</ol></div>"
    return f"<article><h3>{escape(task)}</h3>{panels}</article>"


def _place(name: str, cell: Cell, style: str) -> str:
    figures = f"<b>{number(cell.loss)}</b><i>{times(cell.speedup)}</i>"
    return f"<li>{sample(style)}<span>{label(name)}</span>{figures}</li>"


def _picture(title: str, found: Mapping[str, Mapping[str, list]], looks: Mapping[str, str]) -> str:
    lines = [Line(looks[name], c["steps"], c["mean"], c["low"], c["high"]) for name, c in found.items()]
    starts = [line.y[0] for line in lines if line.y and line.y[0] is not None]
    return chart(lines, title=title, x_label="step", ceiling=2 * max(starts, default=math.inf))


def worth(results: Mapping[str, Any]) -> str:
    """How many trials of random search a run is worth; nothing where no search was among the contenders."""
    found = results.get("worth") or {}
    if not any(found.values()):
        return ""
    searches = [name for name in results["contenders"] if name.startswith(SEARCH)]
    trials = max((results["contenders"][name]["trials"] for name in searches), default=0)
    names = list(dict.fromkeys(name for named in found.values() for name in named))

    def text(count: float | None) -> str:
        return f"&gt;&#8239;{trials:,}" if count is None or math.isinf(count) else f"{count:,.0f}"

    rows = [
        [label(task), *(text(named[name]) if name in named else "–" for name in names)] for task, named in found.items()
    ]
    medians = [np.median([_infinite(named[name]) for named in found.values() if name in named]) for name in names]
    rows.append(["<b>median</b>", *(f"<b>{text(float(x))}</b>" for x in medians)])
    note = (
        "How many random draws of eight hyper-parameters of NAdamW, tried on that very task, it takes in the median "
        f"until one is as good as a single run with nothing tuned. “&gt;&#8239;{trials:,}”: none of the {trials:,} "
        "trials was. 0: the run failed."
    )
    return section("What a run without tuning is worth, in trials", note, table(("task", *names), rows))


def _infinite(count: float | None) -> float:
    return math.inf if count is None else count


def tuning(results: Mapping[str, Any]) -> str:
    """What tuning chose: a table per tuned contender, folded away."""
    names = list(dict.fromkeys(name for named in results["tuned"].values() for name in named))
    folds = []
    for name in names:
        chosen = {task: named[name] for task, named in results["tuned"].items() if name in named}
        keys = list(dict.fromkeys(key for values in chosen.values() for key in values))
        rows = [[label(task), *(_value(values.get(key)) for key in keys)] for task, values in chosen.items()]
        folds.append(fold(name, table(("task", *keys), rows)))
    note = (
        "Tuning takes the lowest final training loss, averaged over the seeds that are reported: it favours the tuned."
    )
    return section("What tuning chose", note, *folds) if folds else ""


def _value(x: Any) -> str:
    return "–" if x is None else f"{x:.3g}" if isinstance(x, float) else escape(str(x))
