"""What the parts of the shipped optimizer do in it: each silenced in turn, without meta-training anew.

    python experiments/flagship/parts.py [WEIGHTS]

compares, on the suite `valid` at 1,000 steps, the weights with themselves less a part, and with a fresh theta with and
without the eigenbasis. Prints the table and writes parts.json beside this file. No held-out task is touched.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer

from metaopt import contenders, evaluation, runtime, weights
from metaopt.evaluate.statistics import interval
from metaopt.evaluate.summary import grouped
from metaopt.evaluate.trials import Cache
from metaopt.optimizers import make

HERE = Path(__file__).parent
SETTINGS = evaluation.Settings("valid", steps=1000, seeds=2)
KEPT = ("task", "optimizer", "seed", "final_loss", "speedup", "diverged")

# Which outputs of which network become zero
SILENCED: dict[str, tuple[str, slice]] = {
    "without the learned direction, L = 0": ("coordinate", np.s_[:1]),
    "without the learned schedule, c = 0": ("tensor", np.s_[:1]),
    "without the learned rest, q = 0": ("tensor", np.s_[1:2]),
    "without steering of the direction": ("tensor", np.s_[2:]),
}


def main(name: Annotated[str, typer.Argument(metavar="[WEIGHTS]")] = weights.FLAGSHIP) -> None:
    """Evaluates, prints the table, writes the numbers."""
    runtime.setup()
    entrants = list(parts(weights.read(name)))
    found = evaluation.evaluate(entrants, SETTINGS, Cache(evaluation.cache_folder()), lambda *x: None)
    rows = [{key: row[key] for key in KEPT} for row in found["rows"]]
    (HERE / "parts.json").write_text(json.dumps({"weights": name, "rows": rows}) + "\n", encoding="utf-8")
    print(table(rows))


def parts(learned: Any) -> Iterator[contenders.Contender]:
    entry = learned.meta["config"]["optimizer"]
    flat = {**entry, "side": 0}
    fresh = make(entry).init(jax.random.key(0))
    yield of("all parts", entry, learned.theta)
    for label, (network, outputs) in SILENCED.items():
        yield of(label, entry, silenced(learned.theta, network, outputs))
    yield of("without the eigenbasis, as it is", flat, learned.theta)
    yield of("not meta-trained", entry, fresh)
    yield of("not meta-trained, without the eigenbasis", flat, fresh)


def of(label: str, entry: dict[str, Any], theta: Any) -> contenders.Contender:
    return contenders.learned(label, make(entry), theta, entry)


def silenced(theta: Any, network: str, outputs: slice) -> Any:
    """A copy of theta in which these outputs of a network are zero."""
    theta = jax.tree.map(np.array, theta)
    layer, names = (
        (theta["coordinate"], ("w2", "b2")) if network == "coordinate" else (theta["tensor"]["out"], ("w", "b"))
    )
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
    typer.run(main)
