"""Optimizers that were meta-trained at width 32, at widths 16 to 512, with muP and without:

    python experiments/mup_width_transfer/width_transfer.py runs/mup_width_transfer

The folder holds the runs standard-SEED and mup-SEED (see README.md). Writes results.json and width_transfer.png beside
this file and prints the table.
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
from metaopt.evaluate import baselines, metrics
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
Losses = dict[str, dict[int, list]]  # by optimizer and width, [candidates, seeds]
Results = dict[str, Losses]


class Arm(NamedTuple):
    """An optimizer with its values of theta, leading axis [candidates], and how the models are parametrised."""

    parametrization: str
    optimizer: LearnedOptimizer
    thetas: PyTree


def main(
    runs: Annotated[Path, typer.Argument(help="The folder with the run folders.")],
    widths: Annotated[list[int] | None, typer.Option("--width", help="Instead of 16 to 512.")] = None,
    steps: Annotated[int, typer.Option(help="Inner steps.")] = STEPS,
    out: Annotated[Path, typer.Option(help="The folder for results.json and width_transfer.png.")] = HERE,
) -> None:
    """Prints final losses by width, writes them as JSON and draws them."""
    runtime.setup()
    arms = learned(runs) | {name: tuned(arm, steps) for name, arm in adams().items()}
    results: Results = {measure: {name: {} for name in arms} for measure in MEASURES}
    for width in widths or WIDTHS:
        for name, arm in arms.items():
            began = time.perf_counter()
            losses = curves(arm, width, steps)
            for measure, of in MEASURES.items():
                results[measure][name][width] = of(losses).tolist()
            print(f"width {width}, {name}: {time.perf_counter() - began:.0f} s", flush=True)
    (out / "results.json").write_text(json.dumps({"steps": steps, "losses": results}) + "\n")
    for measure, by_arm in results.items():
        print(f"\n{measure}\n\n{table(by_arm)}")
    draw(results).savefig(out / "width_transfer.png", dpi=80)


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
    return {
        "Adam": Arm("standard", adam, baselines.adam_thetas()),
        "Adam in muP": Arm("mup", OPTIMIZERS["mup"](base=adam, width=TRAINED), baselines.adam_thetas()),
    }


def tuned(arm: Arm, steps: int) -> Arm:
    """The arm with the candidate that is best at the width of meta-training."""
    best = baselines.tune(curves(arm, TRAINED, steps))
    print(f"best rate at width {TRAINED} in {arm.parametrization}: {baselines.ADAM_RATES[best]:g}", flush=True)
    return arm._replace(thetas=jax.tree.map(lambda x: x[best][None], arm.thetas))


def curves(arm: Arm, width: int, steps: int) -> np.ndarray:
    """Training losses [candidates, seeds, steps] on classifiers of digits with two hidden layers."""
    task: Task = TASKS["image_mlp"]("digits", hidden=(width, width), parametrization=arm.parametrization)
    return run_curves(task, arm.optimizer, arm.thetas, task.data(), steps=steps, seeds=SEEDS)


def intervals(by_width: dict[int, list]) -> list[tuple[float, float, float]]:
    """By width (mean, lowest, highest) final loss over thetas, each a mean over inner seeds; of Adam over the seeds."""
    rows = []
    for losses in map(np.asarray, by_width.values()):
        values = losses.mean(axis=1) if len(losses) > 1 else losses[0]
        rows.append((values.mean(), values.min(), values.max()))
    return rows


def table(losses: Losses) -> str:
    widths = list(next(iter(losses.values())))
    lines = ["| optimizer | " + " | ".join(map(str, widths)) + " |", "|---" * (1 + len(widths)) + "|"]
    for name, by_width in losses.items():
        cells = [f"{mean:.2g} ({low:.2g}–{high:.2g})" for mean, low, high in intervals(by_width)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(results: Results) -> Figure:
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels: Any = figure.subplots(1, len(results))
    for axes, (measure, losses) in zip(panels, results.items(), strict=True):
        for i, (name, by_width) in enumerate(losses.items()):
            mean, low, high = np.array(intervals(by_width)).T
            style = "--" if "Adam" in name else "-"
            axes.plot(list(by_width), mean, style, color=f"C{i}", marker="o", markersize=4, label=name)
            axes.fill_between(list(by_width), low, high, color=f"C{i}", alpha=0.15, linewidth=0)
        axes.axvline(TRAINED, color="0.7", linewidth=1, zorder=0)
        axes.set(xscale="log", yscale="log", xlabel="width (learned, or tuned, at the grey line)", title=measure)
        axes.set_xticks(list(by_width), map(str, by_width))
        axes.minorticks_off()
    panels[0].legend(frameon=False)
    return figure


if __name__ == "__main__":
    typer.run(main)
