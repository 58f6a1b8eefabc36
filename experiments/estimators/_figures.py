"""The figures of README.md from the results."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

KINDS = {  # what an estimator is, as a colour (Okabe and Ito), and which are of the kind
    "exact gradient of whole runs": ("#000000", ("full_grad",)),
    "blind to earlier truncations": ("#d55e00", ("tbptt", "tbptt, first order", "truncated_es", "combined")),
    "unbiased, no backpropagation": ("#0072b2", ("es", "pes", "gpes", "nres", "pes, final loss")),
    "unbiased, with backpropagation": ("#009e73", ("pes, analytic",)),
}
COLOR = {name: color for color, names in KINDS.values() for name in names}
LINE = {  # of estimators with the mean loss, in one picture
    "full_grad": ("#000000", "-"),
    "tbptt": ("#d55e00", "-"),
    "tbptt, first order": ("#e69f00", ":"),
    "truncated_es": ("#e69f00", "--"),
    "combined": ("#d55e00", "-."),
    "es": ("#0072b2", "-"),
    "pes": ("#56b4e9", "--"),
    "gpes": ("#cc79a7", ":"),
    "nres": ("#0072b2", "-."),
    "pes, analytic": ("#009e73", "-"),
}
FLOOR = 1e-3  # what is smaller is drawn here
PANELS = {  # title, of what
    "bias": "bias / |gradient|",
    "variance": "variance of a cycle\n(trace / |gradient|$^2$, one task)",
    "compute": "compute\n(plain runs' worth of time)",
    "product": "variance × compute",
}
BUDGETS = np.geomspace(1, 1e5, 61)


def figures(results: dict[str, Any]) -> dict[str, Figure]:
    return {
        "bias_variance": dots(results["problems"]),
        "error_against_compute": errors(results["problems"]),
        "memory": memory(results["memory"]),
    }


def dots(problems: dict[str, Any]) -> Figure:
    """Each number with its interval; a row of panels a problem."""
    figure = Figure(figsize=(12, 2.9 * len(problems) + 0.6), layout="constrained")
    grid: Any = figure.subplots(len(problems), len(PANELS), sharey="row", squeeze=False)
    for axes, (problem, one) in zip(grid, problems.items(), strict=True):
        names = list(one["rows"])[::-1]
        for ax, key in zip(axes, PANELS, strict=True):
            for y, name in enumerate(names):
                dot(ax, y, quantity(one["rows"][name], key), COLOR[name])
            ax.set(xscale="log", ylim=(-0.6, len(names) - 0.4))
            ax.margins(x=0.08)
            ticks(ax, *ax.get_xlim())
            ax.grid(axis="x", color="0.9")
            ax.set_axisbelow(True)
        axes[0].set_yticks(range(len(names)), names)
        axes[0].set_ylabel(problem, fontweight="bold")
    for ax, title in zip(grid[0], PANELS.values(), strict=True):
        ax.set_title(title, fontsize=10)
    for color, names in KINDS.values():
        grid[0, 0].plot([], [], "o", color=color, label=next(k for k, v in KINDS.items() if v == (color, names)))
    grid[0, 0].plot([], [], "<", color="0.5", label=f"zero within the interval (bound), or below {FLOOR:g}")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def ticks(ax: Any, low: float, high: float) -> None:
    """Round numbers at equal distances or nearly, as many as there is room for."""
    for steps, decades in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3)):
        marks = [m * 10.0**k for k in range(-9, 9, decades) for m in steps if low <= m * 10.0**k <= high]
        if len(marks) <= 6:
            break
    ax.set_xticks(marks, [f"{x:g}" for x in marks])
    ax.minorticks_off()


def quantity(row: dict[str, Any], key: str) -> list[float]:
    return [x * row["compute"][0] for x in row["variance"]] if key == "product" else row[key]


def dot(ax: Any, y: int, measured: list[float], color: str) -> None:
    """A number with its interval, or an arrow at its upper bound."""
    value, low, high = measured
    if low <= 0 or high < FLOOR:
        ax.plot(max(high, FLOOR), y, "<", color=color, markersize=6)
    else:
        ax.plot([low, high], [y, y], color=color, linewidth=2)
        ax.plot(value, y, "o", color=color, markersize=5)


def errors(problems: dict[str, Any]) -> Figure:
    """Root mean square error of what a budget of compute buys: sqrt(bias^2 + variance × compute / budget)."""
    figure = Figure(figsize=(13, 5), layout="constrained")
    axes: Any = figure.subplots(1, len(problems), squeeze=False)[0]
    for ax, (problem, one) in zip(axes, problems.items(), strict=True):
        for name, (color, style) in LINE.items():
            row = one["rows"][name]
            bias = row["total_bias"][0] if row["total_bias"][1] > 0 else 0.0
            error = np.sqrt(bias**2 + quantity(row, "product")[0] / BUDGETS)
            ax.plot(BUDGETS, np.maximum(error, FLOOR), style, color=color, label=name, linewidth=2)
        ax.set(
            xscale="log", yscale="log", ylim=(FLOOR, None), title=problem, xlabel="compute (plain runs' worth of time)"
        )
        ax.grid(color="0.92")
    axes[0].set_ylabel("error / |gradient|")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return figure


def memory(study: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    ax: Any = figure.subplots()
    for (name, by_length), color, marker in zip(study["bytes"].items(), ("#d55e00", "#0072b2"), "os", strict=True):
        x, y = [float(n) for n in by_length], np.array(list(by_length.values())) / 1e6
        exponent = study["exponents"][name]["growth"]
        ax.plot(x, y, "-", color=color, marker=marker, label=f"{name}: a + b · steps^{exponent:.2f}")
        if check := study["check"][name]:
            resident = check["resident"] / 1e6 / study["runs"]
            ax.plot(study["probe"], resident, "x", color=color, markersize=11, markeredgewidth=2)
    ax.plot([], [], "x", color="0.4", label="resident memory of the process, a run")
    ax.set(xscale="log", yscale="log", xlabel="steps unrolled", ylabel="temporary memory of a run (MB)")
    ax.grid(color="0.92")
    ax.legend(frameon=False)
    return figure
