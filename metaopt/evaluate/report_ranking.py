"""The report's sections on whole suites: ranking with intervals, performance profile, aggregates, sweeps."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from metaopt.evaluate import statistics, summary
from metaopt.evaluate._svg import Axis, Line, chart, mark, strip, strip_axis, ticks
from metaopt.evaluate.baselines import USUAL
from metaopt.evaluate.report_html import bounds, figure, label, legend, plural, section, styles, table, times
from metaopt.evaluate.statistics import Interval
from metaopt.evaluate.summary import Standing

LEAST_SPEEDUP = 0.05  # where the logarithmic axis ends; a failed run has 0
SPAN = (4, 96)  # percent of a strip
JUDGED = {"faster": ("good", "▲"), "slower": ("bad", "▼"), "not told apart": ("", "◆")}
AXES = {
    "horizon": "length of the run, times the usual",
    "num_steps": "steps that the optimizer is told, times the true number",
    "width": "width of the network, times the usual",
    "depth": "hidden layers",
    "batch_size": "batch size, times the usual",
    "data_size": "share of the training rows",
}


def ranking(results: Mapping[str, Any], standings: Sequence[Standing]) -> str:
    """Who wins, with intervals."""
    reference = results["reference"]
    looks = styles(summary.contenders(results["rows"]), reference)
    note = (
        "The dot is the interquartile mean, over all tasks and seeds, of the speed-up over "
        f"<code>{escape(reference)}</code>, which is tuned on every task: how many times fewer steps a run needs to "
        "the same loss. The bar is its 95&#8239;% interval, for other tasks like these: seeds <em>and</em> tasks are "
        "resampled. ▲ and ▼: the interval leaves 1 out. ◆: it does not, and this comparison does not tell the two "
        "apart."
    )
    return section("Ranking", note, _speedups(standings, looks, reference), _improvements(standings, looks, reference))


def _speedups(standings: Sequence[Standing], looks: Mapping[str, str], reference: str) -> str:
    lowest = min((x for s in standings for x in s.iqm if x > 0), default=1.0)
    highest = max(x for s in standings for x in s.iqm)
    axis = Axis(max(LEAST_SPEEDUP, min(lowest / 1.1, 0.5)), max(1.1 * highest, 2.0), SPAN, log=True)
    items = []
    for s in standings:
        if s.name == reference:
            figures = "<b>1</b><small>by definition</small>"
        else:
            word = summary.judgement(s.iqm)
            colour, sign = JUDGED[word]
            figures = f"<b>{times(s.iqm.value)}</b><small>{bounds(s.iqm)}</small><i class='{colour}'>{sign} {word}</i>"
        items.append((_name(s.name, looks[s.name], _record(s, reference)), looks[s.name], s.iqm, figures))
    return figure("Speed-up", "", _strips(items, axis, ticks(axis), 1.0, "×"))


def _improvements(standings: Sequence[Standing], looks: Mapping[str, str], reference: str) -> str:
    axis = Axis(0.0, 1.0, SPAN)
    items = []
    for s in standings:
        if s.name != reference:
            figures = f"<b>{s.improvement.value:.2f}</b><small>{bounds(s.improvement)}</small>"
            items.append((_name(s.name, looks[s.name]), looks[s.name], s.improvement, figures))
    caption = f"That a run ends with a lower loss than one of <code>{escape(reference)}</code>; 0.5: neither is better."
    return figure("Probability of improvement", caption, _strips(items, axis, ticks(axis, 4), 0.5, ""))


def _strips(
    items: Sequence[tuple[str, str, Interval, str]], axis: Axis, at: Sequence[float], level: float, unit: str
) -> str:
    """Items: name, style, interval, figures."""
    rows = "".join(
        f"<li>{name}{strip(style, *found, axis, at, level)}<div class='figures'>{figures}</div></li>"
        for name, style, found, figures in items
    )
    return f"<ol class='strips'>{rows}<li class='axis'><i></i>{strip_axis(axis, at, unit)}<i></i></li></ol>"


def _record(s: Standing, reference: str) -> str:
    """What a contender did, in a line."""
    wins = [f"tuned Adam on {s.below_reference}/{s.tasks} tasks"] if s.name != reference else []
    wins += [f"Adam at 1e-3 on {s.below_usual}/{s.tasks}"] if s.name != USUAL else []
    failed = f" · <i class='bad'>{s.diverged} of {s.runs} runs failed</i>" if s.diverged else ""
    return f"below {', '.join(wins)}{failed}"


def _name(name: str, style: str, record: str = "") -> str:
    icon = f"<svg class='icon' viewBox='-7 -7 14 14' aria-hidden='true'>{mark(style, 0, 0, 1.35)}</svg>"
    return (
        f"<div class='name'>{icon}<div><b>{label(name)}</b>{f'<small>{record}</small>' if record else ''}</div></div>"
    )


def profile(results: Mapping[str, Any], standings: Sequence[Standing]) -> str:
    """Performance profiles."""
    rows, reference = results["rows"], results["reference"]
    looks = styles(summary.contenders(rows), reference)
    taus = np.linspace(1, statistics.MAX_RATIO, 301)
    lines = [
        Line(looks[name], taus.tolist(), statistics.profile(ratios, taus).tolist())
        for name, ratios in summary.profile_ratios(rows).items()
    ]
    x_label = "τ, times the steps of the fastest"
    svg = chart(lines, title="performance profile", x_label=x_label, y_range=(-0.02, 1.02), x_ticks=(1, 2, 3, 4))
    note = (
        f"The share of tasks on which a contender gets down to the final loss of <code>{escape(reference)}</code> "
        "within τ times the steps of the fastest contender (Dolan and Moré; steps are the median over seeds). The "
        f"area under it, over τ from 1 to {statistics.MAX_RATIO:g}, is AlgoPerf's score: 1 is fastest everywhere."
    )
    drawn = {s.name: looks[s.name] for s in standings}
    return section("Performance profile", note, f"<figure class='wide'><div>{svg}</div>{legend(drawn)}</figure>")


def aggregates(standings: Sequence[Standing], reference: str) -> str:
    """A row per contender."""
    head = ["contender", "speed-up, IQM", "median", "mean", "mean rank", "P(better)", "profile area"]
    head += ["below Adam 1e-3", "below tuned", "failed", "time per step", "state"]
    rows = []
    for s in standings:
        cells = [f"<b>{label(s.name)}</b>"]
        cells += [f"{times(x.value)}<small>{bounds(x)}</small>" for x in (s.iqm, s.median, s.mean)]
        cells += [f"{x.value:.2f}<small>{bounds(x)}</small>" for x in (s.rank, s.improvement)]
        below = ((USUAL, s.below_usual), (reference, s.below_reference))
        cells += [f"{s.area:.2f}", *("–" if s.name == other else f"{count} of {s.tasks}" for other, count in below)]
        cells.append(f"<span class='bad'>{s.diverged} of {s.runs}</span>" if s.diverged else f"0 of {s.runs}")
        cells.append(f"{s.seconds:.2f}×" if s.seconds is not None else "–")
        size = "" if s.state_bytes is None else f"<small>{_bytes(s.state_bytes)}</small>"
        cells.append((f"{s.state:.2f}×" if s.state is not None else "–") + size)
        rows.append(cells)
    note = (
        "Small numbers are 95&#8239;% intervals over tasks and seeds. Mean rank: by final loss, on every task and "
        "seed, ties shared; 1 is best. Below: tasks on which the mean final loss is lower. Failed: the final loss is "
        "not finite, or above the first. Time of a step, the problem's gradient included, as measured when each was "
        f"run, over that of <code>{USUAL}</code>, for what is one trial; state over that of "
        f"<code>{escape(reference)}</code>, and the largest in bytes: medians over tasks."
    )
    return section("Aggregates", note, table(head, rows))


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g}&#8239;{unit}"
        size /= 1000
    return f"{size:.3g}&#8239;GB"


def sweeps(results: Mapping[str, Any]) -> str:
    """One chart per axis; nothing without sweeps."""
    reference = results["reference"]
    figures, looks = [], styles(summary.contenders(results["rows"]), reference)
    for axis, sweep in results.get("sweeps", {}).items():
        if not sweep["rows"]:
            continue
        values, lines = sweep["values"], []
        for name, found in summary.sweep_speedups(sweep).items():
            parts = [[None if x is None else x[i] for x in found] for i in range(3)]
            if name != reference:  # it is the rule at 1
                lines.append(Line(looks[name], values, *parts))
        x_label = AXES.get(axis, axis)
        svg = chart(
            lines, title=f"speed-up over {axis}", x_label=x_label, x_ticks=values, level=1.0, base=sweep["base"]
        )
        tasks = len({row["task"] for row in sweep["rows"]})
        figures.append(figure(axis.replace("_", " "), f"speed-up on {plural(tasks, 'task')}", svg))
    if not figures:
        return ""
    note = (
        f"Interquartile mean of the speed-up over <code>{escape(reference)}</code>, tuned again at every value; bands "
        "are 95&#8239;% intervals over tasks and seeds. The upright rule is where everything else on this page was "
        "measured."
    )
    shown = {name: style for name, style in looks.items() if name != reference}
    return section("Generalisation", note, legend(shown), f"<div class='charts'>{''.join(figures)}</div>")
