"""curves.png: meta-training and every held-out task in one picture."""

import math
from pathlib import Path

from metaopt.evaluate import summary
from metaopt.evaluate.artefacts import Artefacts, binned
from metaopt.evaluate.report_html import styles

LOOKS = {  # as on the page: Okabe and Ito's colours, dashes
    "k0": ("#0072b2", "-"),
    "k1": ("#d55e00", (0, (5, 2))),
    "k2": ("#009e73", "-."),
    "k3": ("#cc79a7", (0, (2, 1.5))),
    "k4": ("#e69f00", (0, (8, 2))),
    "k5": ("#56b4e9", (0, (1, 1.5))),
    "k6": ("#857a00", (0, (7, 1.5, 1, 1.5, 1, 1.5))),
    "k7": ("#7a4f2b", (0, (3, 1, 1, 1))),
    "reference": ("#000000", "--"),
    "usual": ("#7c838b", ":"),
}
COLUMNS = 3


def write_curves(run: Artefacts, path: Path) -> None:
    """Meta-loss per family, validation, then the losses on held-out tasks with bands over the seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = run.results.get("curves", {})
    looks = styles(summary.contenders(run.results.get("rows", [])), run.results.get("reference", ""))
    rows = math.ceil((2 + len(tasks)) / COLUMNS)
    figure = Figure(figsize=(4.2 * COLUMNS, 2.9 * rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for unused in axes[2 + len(tasks) :]:
        unused.set_axis_off()
    _training(run, axes[0], axes[1])
    for ax, (task, curves) in zip(axes[2:], tasks.items(), strict=False):
        _heldout(ax, task, curves, looks)
    figure.savefig(path)


def _training(run: Artefacts, losses, validation) -> None:
    for i, family in enumerate(run.families()):
        bins = binned(*run.series(f"{family}/meta_loss"))
        _draw(losses, family, f"k{i % 8}", bins["x"], bins)
    losses.set_title("meta-loss", fontsize=9)
    x, y = run.series("valid/score")
    validation.plot(x, _floats(y), marker="o", markersize=3, color=LOOKS["k0"][0])
    validation.set_title("validation: normalised final loss", fontsize=9)
    if run.families():
        losses.legend(fontsize=7, frameon=False)


def _heldout(ax, task: str, curves: dict[str, dict[str, list]], looks: dict[str, str]) -> None:
    for name, curve in curves.items():
        _draw(ax, name, looks[name], curve["steps"], {**curve, "y": curve["mean"]})
    means = [v for curve in curves.values() for v in curve["mean"] if v is not None]
    starts = [curve["mean"][0] for curve in curves.values() if curve["mean"][0] is not None]
    if starts:
        top = 1.1 * min(max(means), 2 * max(starts))
        if min(means) >= 0 < top:
            ax.set_yscale("log")
            ax.set_ylim(max(0.5 * min((v for v in means if v > 0), default=top / 10), 1e-6 * top), top)
        else:
            ax.set_ylim(top=top)
    ax.set_title(task, fontsize=9)
    ax.legend(fontsize=7, frameon=False)


def _draw(ax, label: str, look: str, x: list, curve: dict[str, list]) -> None:
    color, dash = LOOKS[look]
    ax.plot(x, _floats(curve["y"]), linestyle=dash, color=color, label=label, linewidth=1.4)
    ax.fill_between(x, _floats(curve["low"]), _floats(curve["high"]), color=color, alpha=0.18, linewidth=0)


def _floats(values: list) -> list[float]:
    return [math.nan if v is None else v for v in values]
