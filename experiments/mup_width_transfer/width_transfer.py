"""Optimizers that were meta-trained at width 32, at widths 16 to 512, with muP and without:

    python experiments/mup_width_transfer/width_transfer.py runs/mup_width_transfer

The folder holds the runs standard-SEED and mup-SEED (see README.md). Writes results.json and width_transfer.png beside
this file and prints the tables.
"""

import json
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import typer
from matplotlib.figure import Figure

from metaopt import runtime, weights
from metaopt.evaluate import metrics, spaces
from metaopt.evaluate.curves import run_curves
from metaopt.optimizers import OPTIMIZERS
from metaopt.tasks import TASKS
from metaopt.types import LearnedOptimizer, PyTree, Task

HERE = Path(__file__).parent
WIDTHS = (16, 32, 64, 128, 256, 512)
TRAINED = 32
STEPS, SEEDS = 400, 3  # of an inner run; inner runs for every theta
MEASURES = {
    "mean training loss of the run": lambda losses: losses.mean(axis=-1),  # what meta-training minimised
    "final training loss": metrics.final_loss,
}
Losses = dict[str, dict[str, list]]  # by optimizer and width, [candidates, seeds]
Results = dict[str, Losses]


class Arm(NamedTuple):
    """An optimizer with its values of theta, leading axis [candidates], and how the models are parametrised."""

    parametrization: str
    optimizer: LearnedOptimizer
    thetas: PyTree


def main(runs: Annotated[Path, typer.Argument(help="The folder with the run folders.")]) -> None:
    """Prints losses by width, writes them as JSON and draws them."""
    runtime.setup()
    arms = learned(runs) | {name: tuned(arm) for name, arm in adams().items()}
    results: Results = {measure: {name: {} for name in arms} for measure in MEASURES}
    for width in WIDTHS:
        for name, arm in arms.items():
            began = time.perf_counter()
            losses = curves(arm, width)
            for measure, of in MEASURES.items():
                results[measure][name][str(width)] = [[float(f"{x:.5g}") for x in row] for row in of(losses)]
            print(f"width {width}, {name}: {time.perf_counter() - began:.0f} s", flush=True)
    (HERE / "results.json").write_text(json.dumps(results) + "\n")
    for measure, by_arm in results.items():
        print(f"\n{measure}\n\n{table(by_arm)}")
    draw(results).savefig(HERE / "width_transfer.png", dpi=80)


def learned(runs: Path) -> dict[str, Arm]:
    """The learned optimizers; one of them is only wrapped when it is used."""
    standard, mup = ([weights.read(path) for path in sorted(runs.glob(f"{kind}-*"))] for kind in ("standard", "mup"))
    wrapped = OPTIMIZERS["mup"](base=standard[0].optimizer, width=TRAINED)
    return {
        "learned": Arm("standard", standard[0].optimizer, stacked(standard)),
        "learned, wrapped afterwards": Arm("standard", wrapped, stacked(standard)),
        "learned in muP": Arm("mup", mup[0].optimizer, stacked(mup)),
    }


def stacked(learned: list[weights.Learned]) -> PyTree:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *(x.theta for x in learned))


def adams() -> dict[str, Arm]:
    """Adam with 14 learning rates."""
    adam = OPTIMIZERS["hyper"]("adam", {"learning_rate": 1e-3})
    rates = {"learning_rate": np.log(np.array(spaces.RATES, np.float32))}
    return {
        "Adam": Arm("standard", adam, rates),
        "Adam in muP": Arm("mup", OPTIMIZERS["mup"](base=adam, width=TRAINED), rates),
    }


def tuned(arm: Arm) -> Arm:
    """The arm with the candidate that is best at the width of meta-training."""
    finals = metrics.final_loss(curves(arm, TRAINED)).mean(axis=-1)
    best = int(np.argmin(np.nan_to_num(finals, nan=np.inf)))
    print(f"best rate at width {TRAINED} in {arm.parametrization}: {spaces.RATES[best]:g}", flush=True)
    return arm._replace(thetas=jax.tree.map(lambda x: x[best][None], arm.thetas))


def curves(arm: Arm, width: int) -> np.ndarray:
    """Training losses [candidates, seeds, steps] on classifiers of digits with two hidden layers."""
    task: Task = TASKS["image_mlp"]("digits", hidden=(width, width), parametrization=arm.parametrization)
    return run_curves(task, arm.optimizer, arm.thetas, task.data(), steps=STEPS, seeds=SEEDS)


def means(by_width: dict[str, list]) -> np.ndarray:
    """[widths, thetas]: means over inner seeds; of Adam, which has one theta, [widths, inner seeds]."""
    losses = np.array(list(by_width.values()))
    return losses.mean(axis=2) if losses.shape[1] > 1 else losses[:, 0]


def table(losses: Losses) -> str:
    """Mean and range over the thetas (Adam's: the inner seeds); last, that of the ratio of the widest to width 32."""
    lines = [f"| optimizer | {' | '.join(map(str, WIDTHS))} | {WIDTHS[-1]} over {TRAINED} |"]
    lines.append("|---" * (2 + len(WIDTHS)) + "|")
    for name, by_width in losses.items():
        values = means(by_width)
        cells = [f"{x.mean():.2g} ({x.min():.2g}–{x.max():.2g})" for x in values]
        ratio = values[-1] / values[WIDTHS.index(TRAINED)]
        lines.append(f"| {name} | {' | '.join(cells)} | {ratio.min():.2g}–{ratio.max():.2g} |")
    return "\n".join(lines)


def draw(results: Results) -> Figure:
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels: Any = figure.subplots(1, len(results))
    for axes, (measure, losses) in zip(panels, results.items(), strict=True):
        for i, (name, by_width) in enumerate(losses.items()):
            values = means(by_width)
            style = "--" if "Adam" in name else "-"
            axes.plot(WIDTHS, values.mean(1), style, color=f"C{i}", marker="o", markersize=4, label=name)
            axes.fill_between(WIDTHS, values.min(1), values.max(1), color=f"C{i}", alpha=0.15, linewidth=0)
        axes.axvline(TRAINED, color="0.7", linewidth=1, zorder=0)
        axes.set(xscale="log", yscale="log", xlabel="width (learned, or tuned, at the grey line)", title=measure)
        axes.set_xticks(WIDTHS, map(str, WIDTHS))
        axes.minorticks_off()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return figure


if __name__ == "__main__":
    typer.run(main)
