"""The first experiment of Andrychowicz et al. 2016 (arXiv 1606.04474, section 3.1 and figure 4, left): a learned LSTM
against tuned SGD, momentum, RMSProp and Adam on random quadratics of ten dimensions.

    metaopt train configs/l2l_quadratic.yaml
    python experiments/l2l_quadratic/run.py runs/l2l_quadratic

writes results.json and curves.png beside this file. Without an argument the weights are those beside it.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer
from matplotlib.figure import Figure

from metaopt import runtime, weights
from metaopt.evaluate.curves import run_curves
from metaopt.optimizers import OPTIMIZERS
from metaopt.tasks import TASKS
from metaopt.types import LearnedOptimizer, PyTree

Runs = dict[str, tuple[str, np.ndarray]]  # optimizer -> (what tuning chose, losses [TEST, steps + 1])
HERE = Path(__file__).parent
LENGTHS = (100, 200)  # steps; meta-trained for the first
TUNING, TEST = 512, 1024  # functions: the rates are chosen on the first, all figures are of the others
RATES = np.geomspace(1e-4, 10, 41)
BASELINES: dict[str, list[dict[str, Any]]] = {  # name -> settings; every setting with every rate
    "SGD": [{"base": "sgd"}],
    "momentum": [{"base": "sgd", "fixed": {"momentum": m}} for m in (0.5, 0.9, 0.95)],
    "RMSProp": [{"base": "rmsprop"}],
    "Adam": [{"base": "adam"}],
}
COLOURS = {"LSTM": "#d55e00", "SGD": "#999999", "momentum": "#0072b2", "RMSProp": "#009e73", "Adam": "#000000"}
STYLES = {"LSTM": "-", "SGD": ":", "momentum": "--", "RMSProp": "-.", "Adam": (0, (5, 1))}


def main(learned: Annotated[Path, typer.Argument(help="Run folder or weights file.")] = HERE / "theta.safetensors"):
    """Prints the tables, writes results.json and curves.png."""
    runtime.setup()
    curves = {steps: measure(learned, steps) for steps in LENGTHS}
    results = {steps: {name: summary(name, runs) for name in runs} for steps, runs in curves.items()}
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    for steps, rows in results.items():
        print(f"\n| {steps} steps | tuned | mean loss [95 %] | median | the LSTM is lower on |\n|---|---|---|---|---|")
        for name, row in rows.items():
            low, high = row["interval"]
            lower = "" if row["lstm_lower"] is None else f"{row['lstm_lower']:.1%}"
            numbers = f"{row['mean']:.4g} [{low:.4g}, {high:.4g}] | {row['median']:.4g}"
            print(f"| {name} | {row['tuned']} | {numbers} | {lower} |")
    draw(curves)


def measure(learned: Path, steps: int) -> Runs:
    """All on the same functions and starting points. Losses after 0 to `steps` updates. One above the first means that
    the run diverges, and the first stands in for it: else one function of a thousand would be the mean."""
    task, lstm = TASKS["quadratic"](dim=10), weights.read(learned)

    def losses(optimizer: LearnedOptimizer, thetas: PyTree) -> np.ndarray:
        curves = run_curves(task, optimizer, thetas, task.data(), steps=steps + 1, seeds=TUNING + TEST)
        return np.fmin(curves, curves[..., :1])

    theta = jax.tree.map(lambda x: np.asarray(x)[None], lstm.theta)
    found = {"LSTM": ("", losses(lstm.optimizer, theta)[0, TUNING:])}
    for name, settings in BASELINES.items():
        tried = []
        for setting in settings:
            optimizer = OPTIMIZERS["hyper"](**setting, learnable={"learning_rate": 1e-3})
            runs = losses(optimizer, {"learning_rate": np.log(RATES).astype(np.float32)})
            best = int(np.argmin(np.nan_to_num(runs[:, :TUNING, -1].mean(axis=1), nan=np.inf)))
            what = ", ".join([f"rate {RATES[best]:.2g}", *(f"{k} {v}" for k, v in setting.get("fixed", {}).items())])
            tried.append((runs[best, :TUNING, -1].mean(), what, runs[best, TUNING:]))
        found[name] = min(tried, key=lambda x: x[0])[1:]
    return found


def summary(name: str, runs: Runs) -> dict[str, Any]:
    """Of the last losses over the test functions; the interval of the mean by bootstrap."""
    tuned, losses = runs[name]
    final = losses[:, -1]
    means = np.random.default_rng(0).choice(final, (2000, len(final))).mean(1)
    return {
        "tuned": tuned,
        "mean": float(final.mean()),
        "interval": np.quantile(means, [0.025, 0.975]).tolist(),
        "median": float(np.median(final)),
        "lstm_lower": None if name == "LSTM" else float(np.mean(runs["LSTM"][1][:, -1] < final)),
    }


def draw(curves: dict[int, Runs]) -> None:
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots(1, len(curves), sharey=True)
    for axis, (steps, runs) in zip(axes, curves.items(), strict=True):
        x = np.arange(steps + 1)
        for name, (_, losses) in runs.items():
            look = {"color": COLOURS[name], "linestyle": STYLES[name], "lw": 2.2 if name == "LSTM" else 1.4}
            axis.plot(x, losses.mean(0), label=name, **look)
            axis.fill_between(x, *np.quantile(losses, [0.25, 0.75], axis=0), color=COLOURS[name], alpha=0.08, lw=0)
        trained = "as long as in meta-training" if steps == LENGTHS[0] else "twice as long"
        axis.set(yscale="log", xlabel="updates", title=f"{steps} steps: {trained}")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"loss: mean over {TEST:,} functions\n(band: the middle half of them)")
    axes[0].legend()
    figure.savefig(HERE / "curves.png", dpi=130)


if __name__ == "__main__":
    typer.run(main)
