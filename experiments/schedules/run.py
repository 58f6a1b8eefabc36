"""SGD under classical learning-rate schedules, with momentum and without, each at its best learning rate:

    python experiments/schedules/run.py                    # Fashion-MNIST where the machine has it, else digits

Writes results.json and curves.png beside this file and prints the tables.
"""

import json
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer
from matplotlib.figure import Figure
from scipy import stats

from metaopt import runtime, unroll
from metaopt.data import DataError
from metaopt.optimizers import OPTIMIZERS
from metaopt.optimizers._values import theta_of
from metaopt.tasks.image_mlp import image_mlp
from metaopt.types import LearnedOptimizer, PyTree, Task

HERE = Path(__file__).parent
SCHEDULES = ("constant", "exponential", "step_drop", "cosine", "plateau")  # with their default arguments
MOMENTA = {"SGD": 0.0, "SGD with momentum 0.9": 0.9}
NOISE = {"clean": 0.0, "noisy": 0.2}  # share of the labels of every minibatch that are drawn anew
RATES = tuple(float(f"{10.0**e:.3g}") for e in np.arange(-3, 1, 0.5))
BATCH = 64
EPOCHS = {"digits": 30, "fashion_mnist": 10}
SPLITS = ("train", "inner_valid", "test")
LOOKS = {  # Okabe and Ito's colours, dashes
    "constant": ("#000000", "--"),
    "exponential": ("#0072b2", "-"),
    "step_drop": ("#d55e00", (0, (5, 2))),
    "cosine": ("#009e73", "-."),
    "plateau": ("#cc79a7", (0, (2, 1.5))),
}
Curves = dict[str, np.ndarray]  # "split loss" or "split accuracy" -> [..., epochs + 1]


def main(
    dataset: Annotated[str, typer.Option(help="digits, fashion_mnist or another classification set.")] = "",
    seeds: Annotated[int, typer.Option(help="Initial weights and orders of batches.")] = 10,
) -> None:
    """Prints losses and accuracies, writes them as JSON and draws them."""
    runtime.setup()
    name, data = load([dataset] if dataset else ["fashion_mnist", "digits"])
    epochs, steps = EPOCHS.get(name, 10), len(data["train"]["y"]) // BATCH
    results: dict[str, Any] = {"dataset": name, "epochs": epochs, "steps_per_epoch": steps, "seeds": seeds, "arms": {}}
    for labels, noise in NOISE.items():
        task = image_mlp(name, hidden=(32,), batch_size=BATCH, label_noise=noise)
        arms: dict[str, Any] = {momentum: {} for momentum in MOMENTA}
        for schedule in SCHEDULES:
            began = time.perf_counter()
            curves = train(task, data, schedule, epochs, steps, seeds)
            for i, momentum in enumerate(MOMENTA):
                arms[momentum][schedule] = best({key: x[i] for key, x in curves.items()})
            print(f"{labels} labels, {schedule}: {time.perf_counter() - began:.0f} s", flush=True)
        results["arms"] |= {f"{momentum}, {labels} labels": arm for momentum, arm in arms.items()}
        for momentum, arm in arms.items():
            print(f"\n**{momentum}, {labels} labels**\n\n{table(arm)}\n")
        print(f"**Momentum against none, {labels} labels**\n\n{gain(*arms.values())}\n")
    (HERE / "results.json").write_text(json.dumps(results) + "\n")
    draw(results).savefig(HERE / "curves.png", dpi=90)


def load(names: list[str]) -> tuple[str, PyTree]:
    """The first data set of these that the machine has, and its arrays."""
    *others, last = names
    for name in others:
        try:
            return name, image_mlp(name).data()
        except DataError as error:
            print(error)
    return last, image_mlp(last).data()


def train(task: Task, data: PyTree, schedule: str, epochs: int, steps: int, seeds: int) -> Curves:
    """Of every run [momenta, rates, seeds, epochs + 1], from the initial weights on."""
    grid = np.meshgrid(list(MOMENTA.values()), RATES, indexing="ij")
    thetas = theta_of({"momentum": grid[0].ravel(), "learning_rate": grid[1].ravel()})
    optimizer = OPTIMIZERS["hyper"]("sgd", {"learning_rate": 0.1, "momentum": 0.9}, schedule=schedule)
    one = partial(run, task, optimizer, epochs, steps)
    every = jax.jit(
        lambda thetas, data: jax.lax.map(
            lambda theta: jax.vmap(lambda seed: one(theta, seed, data))(jnp.arange(seeds)), thetas
        )
    )
    curves = every(thetas, data)
    return {key: np.asarray(x).reshape(len(MOMENTA), len(RATES), seeds, -1) for key, x in curves.items()}


def run(
    task: Task, optimizer: LearnedOptimizer, epochs: int, steps: int, theta: PyTree, seed: jax.Array, data: PyTree
) -> dict[str, jax.Array]:
    """One training: loss and accuracy on the whole of each split, at the start and after each epoch."""
    inner = unroll.start(task, optimizer, theta, epochs * steps, jax.random.key(seed))

    def measure(params: PyTree) -> dict[str, jax.Array]:
        found = {}
        for split in SPLITS:
            loss, aux = task.loss(inner.cfg, params, data[split], inner.key)
            found |= {f"{split} loss": loss, f"{split} accuracy": aux["accuracy"]}
        return found

    def epoch(inner: Any, _: None) -> tuple[Any, dict[str, jax.Array]]:
        inner, _ = unroll.unroll(task, optimizer, theta, inner, data, steps)
        return inner, measure(inner.params)

    _, curves = jax.lax.scan(epoch, inner, None, epochs)
    return jax.tree.map(lambda first, rest: jnp.append(first, rest), measure(inner.params), curves)


def best(curves: Curves) -> dict[str, Any]:
    """The arm at the learning rate with the lowest mean loss on the validation split at the end: {"rate", "curves"}."""
    final = curves["inner_valid loss"][..., -1].mean(axis=1)  # [rates]
    chosen = int(np.argmin(np.where(np.isfinite(final), final, np.inf)))
    kept = {key: x[chosen] for key, x in curves.items() if not key.startswith("inner_valid")}
    rounded = {key: [[float(f"{value:.4g}") for value in row] for row in x] for key, x in kept.items()}
    return {"rate": RATES[chosen], "curves": rounded}


def interval(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over seeds [seeds, ...] and half the width of its 95% interval (Student's t)."""
    return x.mean(axis=0), stats.t.ppf(0.975, len(x) - 1) * x.std(axis=0, ddof=1) / np.sqrt(len(x))


def final(arm: dict[str, Any], key: str) -> np.ndarray:
    """[seeds] at the last epoch; accuracies as percentages."""
    return np.array(arm["curves"][key])[:, -1] * (100 if key.endswith("accuracy") else 1)


def shown(x: np.ndarray, digits: int) -> str:
    mean, half = interval(x)
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def table(arms: dict[str, Any]) -> str:
    """Schedules against final numbers; the last two columns are paired by seed."""
    head = ["schedule", "learning rate", "train loss", "test loss", "test accuracy (%)"]
    rows = [[*head, "train loss over constant's", "test loss minus constant's"], ["---"] * 7]
    for name, arm in arms.items():
        ratio, difference = "", ""
        if name != "constant":
            mean, half = interval(np.log(final(arm, "train loss") / final(arms["constant"], "train loss")))
            ratio = f"{np.exp(mean):.2f} ({np.exp(mean - half):.2f}–{np.exp(mean + half):.2f})"
            difference = shown(final(arm, "test loss") - final(arms["constant"], "test loss"), 4)
        numbers = [shown(final(arm, "train loss"), 4), shown(final(arm, "test loss"), 4)]
        rows.append([name, f"{arm['rate']:g}", *numbers, shown(final(arm, "test accuracy"), 1), ratio, difference])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def gain(without: dict[str, Any], with_: dict[str, Any]) -> str:
    """What momentum changes, paired by seed, under each schedule."""
    rows = [["schedule", "train loss: ratio", "test loss: difference", "epochs to the loss that none ends with"]]
    rows.append(["---"] * 4)
    for name in SCHEDULES:
        mean, half = interval(np.log(final(with_[name], "train loss") / final(without[name], "train loss")))
        ratio = f"{np.exp(mean):.2f} ({np.exp(mean - half):.2f}–{np.exp(mean + half):.2f})"
        losses = np.array(with_[name]["curves"]["train loss"])
        reached = losses <= final(without[name], "train loss")[:, None]  # [seeds, epochs + 1]
        epochs = np.where(reached.any(1), reached.argmax(1), losses.shape[1])
        late = f", {np.sum(~reached.any(1))} never" if not reached.any(1).all() else ""
        difference = shown(final(with_[name], "test loss") - final(without[name], "test loss"), 4)
        rows.append([name, ratio, difference, f"{np.median(epochs):g} ({epochs.min()}–{epochs.max()}){late}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def draw(results: dict[str, Any]) -> Figure:
    """Loss and accuracy, train and test, over epochs; a row for each momentum and kind of labels."""
    figure = Figure(figsize=(13, 12), layout="constrained")
    panels = ("train loss", "test loss", "train accuracy", "test accuracy")
    axes = figure.subplots(len(results["arms"]), len(panels), sharex=True)
    for row, (name, arms) in zip(axes, results["arms"].items(), strict=True):
        for ax, key in zip(row, panels, strict=True):
            for schedule, arm in arms.items():
                middle, low, high = band(np.array(arm["curves"][key]), key)
                color, dashes = LOOKS[schedule]
                ax.plot(middle, color=color, linestyle=dashes, label=f"{schedule}, {arm['rate']:g}")
                ax.fill_between(np.arange(len(middle)), low, high, color=color, alpha=0.15, linewidth=0)
            if key.endswith("loss"):
                ax.set_yscale("log")
            else:
                ax.set_ylim(*((94, 100.2) if key.startswith("train") else (90, 98)))
            ax.grid(alpha=0.3)
        row[0].set_ylabel(name)
        row[0].legend(fontsize=8, title="schedule, learning rate", title_fontsize=8)
    for ax, key in zip(axes[0], panels, strict=True):
        ax.set_title(f"{key} (%)" if key.endswith("accuracy") else key)
    for ax in axes[-1]:
        ax.set_xlabel("epoch")
    return figure


def band(curves: np.ndarray, key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and 95% interval over seeds [seeds, n]; of losses, which are drawn by their logarithm, of that."""
    if key.endswith("accuracy"):
        mean, half = interval(100 * curves)
        return mean, mean - half, mean + half
    mean, half = interval(np.log(curves))
    return np.exp(mean), np.exp(mean - half), np.exp(mean + half)


if __name__ == "__main__":
    typer.run(main)
