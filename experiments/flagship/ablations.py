"""What the parts of the shipped optimizer are worth: left out of a meta-training, or silenced in the weights that ship.

    python experiments/flagship/ablations.py

meta-trains configs/flagship.yaml with a sixth of its inner steps, as it is and with one part left out, compares the
results, and the weights that ship with themselves less a part, on the suites `valid`, two seeds, and `valid_tiny`,
three, at 1,000 steps. Prints the tables and writes ablations.json beside this file. No held-out task is touched.
Trainings go to runs/flagship/ablations; what is there is not run again.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metaopt import contenders, evaluation, runtime, weights
from metaopt.evaluate.statistics import interval
from metaopt.evaluate.summary import grouped
from metaopt.evaluate.trials import Cache
from metaopt.optimizers import make

HERE = Path(__file__).parent
CONFIG = HERE.parents[1] / "configs" / "flagship.yaml"
RUNS = Path("runs/flagship/ablations")
SETTINGS = (evaluation.Settings("valid", steps=1000, seeds=2), evaluation.Settings("valid_tiny", steps=1000, seeds=3))
KEPT = ("task", "optimizer", "seed", "final_loss", "speedup", "diverged")

COSINE = "adamw:schedule=cosine,warmup=0.05@14"
SHORT = ["steps=260", "estimator.num_tasks=8", "heldout=null"]
TRAINED: dict[str, list[str]] = {
    "trained for 260 steps": [],
    "without quasi-Newton steps": ["optimizer={name: anchored}"],
    "without the learned direction": ["optimizer.base.direction=adam"],
    "without the learned schedule and rest": ["optimizer.base.schedule=false"],
    "without the eigenbasis": ["optimizer.base.side=0"],
}
# Which outputs of which network become zero
SILENCED: dict[str, tuple[str, slice]] = {
    "the learned direction, L": ("coordinate", np.s_[:1]),
    "the learned schedule, c": ("tensor", np.s_[:1]),
    "the learned rest, q": ("tensor", np.s_[1:2]),
    "what steers the direction": ("tensor", np.s_[2:]),
}


def main() -> None:
    """Trains what is missing, compares, prints the table, writes the numbers."""
    runtime.setup()
    entrants = [*contenders.contenders([COSINE], 14), *trained(), *silenced()]
    suites = {}
    for settings in SETTINGS:
        found = evaluation.evaluate(entrants, settings, Cache(evaluation.cache_folder()), lambda *x: None)
        suites[settings.suite] = [{key: row[key] for key in KEPT} for row in found["rows"]]
        print(f"{settings.suite}\n\n{table(suites[settings.suite])}")
    (HERE / "ablations.json").write_text(json.dumps({"training": SHORT, "rows": suites}) + "\n", encoding="utf-8")


def trained() -> Iterator[contenders.Contender]:
    for name, overrides in TRAINED.items():
        out = RUNS / name.replace(" ", "-")
        command = ["train", str(CONFIG), "--out", str(out), "--resume", *SHORT, *overrides]
        subprocess.run([sys.executable, "-m", "metaopt", *command], check=True)
        learned = weights.read(out / "last.safetensors")
        yield of(name, learned.meta["optimizer"], learned.theta)


def silenced() -> Iterator[contenders.Contender]:
    learned = weights.read(weights.FLAGSHIP)
    entry = learned.meta["optimizer"]
    yield of(weights.FLAGSHIP, entry, learned.theta)
    for name, (network, outputs) in SILENCED.items():
        yield of(f"{weights.FLAGSHIP} less {name}", entry, without(learned.theta, network, outputs))
    flat = {**entry, "base": {**entry["base"], "side": 0}}
    yield of(f"{weights.FLAGSHIP} less the eigenbasis", flat, learned.theta)
    yield of(f"{weights.FLAGSHIP} less quasi-Newton steps", entry["base"], learned.theta)


def of(name: str, entry: dict[str, Any], theta: Any) -> contenders.Contender:
    return contenders.learned(name, make(entry), theta, entry)


def without(theta: Any, network: str, outputs: slice) -> Any:
    """A copy of theta in which these outputs of a network are zero."""
    theta = jax.tree.map(np.array, theta)
    if network == "coordinate":
        layer, names = theta["coordinate"], ("w2", "b2")
    else:
        layer, names = theta["tensor"]["out"], ("w", "b")
    for name in names:
        layer[name][..., outputs] = 0
    return theta


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: IQM of the speed-up, its geometric mean, and the mean on each task."""
    groups = grouped(rows)
    lines = ["| | IQM | geometric mean | " + " | ".join(groups) + " |", "|---" * (len(groups) + 3) + "|"]
    for name in dict.fromkeys(row["optimizer"] for row in rows):
        speedups = np.array([[row["speedup"] for row in named[name]] for named in groups.values()])
        iqm = interval(speedups)
        cells = [f"{iqm.value:.2f} [{iqm.low:.2f}, {iqm.high:.2f}]", f"{geometric(speedups):.2f}"]
        lines.append(f"| {name} | " + " | ".join([*cells, *(f"{x:.2f}" for x in speedups.mean(axis=1))]) + " |")
    return "\n".join(lines) + "\n"


def geometric(speedups: np.ndarray) -> float:
    """A run that failed counts as one that is a hundred times slower."""
    return float(np.exp(np.log(np.maximum(speedups, 0.01)).mean()))


if __name__ == "__main__":
    main()
