"""The optimizer that ships, its sister seeds and its baselines on the tasks that nothing was trained or chosen on.

    python experiments/flagship/held_out.py            # half an hour on two cores

compares them on `heldout_small` (with random search) and on `heldout_full`, 1,000 steps, three seeds; prints the tables
of README.md, writes results.json beside this file. What was measured before is read from the cache of `metaopt eval`.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metaopt import contenders, evaluation, runtime, weights
from metaopt.evaluate.baselines import REFERENCE, USUAL
from metaopt.evaluate.statistics import interval
from metaopt.evaluate.summary import grouped
from metaopt.evaluate.trials import Cache
from metaopt.optimizers import make

HERE = Path(__file__).parent
STEPS, SEEDS = 1000, 3
COSINE = "adamw:schedule=cosine,warmup=0.05@14"
TRIALS = 100  # of random search, which a run's worth is counted in
TASKS = (weights.FLAGSHIP, USUAL, REFERENCE, COSINE)  # the columns of the tables by task
KEPT = ("task", "optimizer", "seed", "final_loss", "valid_final", "speedup", "diverged")

Row = dict[str, Any]


def main() -> None:
    """Measures what is missing, prints the tables, writes the numbers."""
    runtime.setup()
    cache, found = Cache(evaluation.cache_folder()), {}
    for suite, more in {"heldout_small": [f"nadamw8p@{TRIALS}"], "heldout_full": []}.items():
        entrants = [*learned(), *contenders.contenders([COSINE, *more], 14)]
        results = evaluation.evaluate(entrants, evaluation.Settings(suite, STEPS, SEEDS), cache, told)
        found[suite] = {"steps": STEPS, "rows": kept(results["rows"]), "worth": results["worth"]}
        print(f"### {suite}\n\n{standings(results['rows'], results['worth'])}\n{by_task(results['rows'])}")
    (HERE / "results.json").write_text(json.dumps(found) + "\n", encoding="utf-8")


def learned() -> Iterator[contenders.Contender]:
    """The shipped one, the other seeds, and what they have without a part."""
    shipped = weights.read(weights.FLAGSHIP)
    entry = shipped.meta["optimizer"]
    yield contenders.learned(weights.FLAGSHIP, shipped.optimizer, shipped.theta, entry)
    for file in sorted(HERE.glob("seed*.safetensors")):
        found = weights.read(file)
        yield contenders.learned(f"meta-training {file.stem}", found.optimizer, found.theta, found.meta["optimizer"])
    alone = make(entry["base"])
    yield contenders.learned(f"{weights.FLAGSHIP} less quasi-Newton steps", alone, shipped.theta, entry["base"])
    fresh = shipped.optimizer.init(jax.random.key(0))
    yield contenders.learned("without meta-training", shipped.optimizer, fresh, entry)


def told(label: str, done: int, total: int) -> None:
    print(f"{done} of {total}: {label}", file=sys.stderr)


def kept(rows: Sequence[Row]) -> list[Row]:
    return [{key: row[key] for key in KEPT} for row in rows]


def speedups(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """{contender: [tasks, seeds]}"""
    groups = grouped(rows).values()
    names = dict.fromkeys(row["optimizer"] for row in rows)
    return {name: np.array([[row["speedup"] for row in named[name]] for named in groups]) for name in names}


def losses(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """{contender: [tasks]}, means over seeds; infinite where one is not finite"""
    groups = grouped(rows).values()
    names = dict.fromkeys(row["optimizer"] for row in rows)
    return {name: np.array([_mean_loss(named[name]) for named in groups]) for name in names}


def _mean_loss(runs: Sequence[Row]) -> float:
    return float(np.mean([np.inf if run["final_loss"] is None else run["final_loss"] for run in runs]))


def standings(rows: Sequence[Row], worth: dict[str, dict[str, float | None]]) -> str:
    """Markdown: a contender a row, the fastest first."""
    head = ["", "speed-up over tuned Adam, IQM", "geometric mean", "below Adam at 1e-3", "below tuned Adam"]
    head += ["below tuned AdamW with cosine", "worth", "failed runs"]
    lines, final = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"], losses(rows)
    faster = speedups(rows)
    cells = {name: interval(x) for name, x in faster.items()}
    for name, iqm in sorted(cells.items(), key=lambda item: -item[1].value):
        below = [f"{np.sum(final[name] < final[other])}/{len(final[name])}" for other in (USUAL, REFERENCE, COSINE)]
        failed = [row["diverged"] for row in rows if row["optimizer"] == name]
        trials = [np.inf if t[name] is None else t[name] for t in worth.values() if name in t]
        said = "" if not trials else f"{np.median(trials):.0f}" if np.isfinite(np.median(trials)) else f"> {TRIALS}"
        mean = np.exp(np.log(np.maximum(faster[name], 0.01)).mean())
        row = [name, f"{iqm.value:.2f} [{iqm.low:.2f}, {iqm.high:.2f}]", f"{mean:.2f}", *below, said]
        lines.append("| " + " | ".join([*row, f"{sum(failed)}/{len(failed)}"]) + " |")
    return "\n".join(lines) + "\n"


def by_task(rows: Sequence[Row]) -> str:
    """Markdown: final losses, and the speed-up of the shipped one."""
    final, faster = losses(rows), speedups(rows)[weights.FLAGSHIP].mean(1)
    lines = ["| final training loss | " + " | ".join(TASKS) + " | speed-up |", "|---" * 6 + "|"]
    for i, task in enumerate(grouped(rows)):
        values = [final[name][i] for name in TASKS]
        cells = [f"**{x:.2g}**" if x == min(values) else f"{x:.2g}" for x in values]
        lines.append(f"| {task} | " + " | ".join(cells) + f" | {faster[i]:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
