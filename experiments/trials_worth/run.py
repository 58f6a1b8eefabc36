"""How many trials of random search one untuned run of a learned optimizer is worth (the comparison of Metz et al. 2020,
arXiv 2009.11243, appendix: learned optimizers against 1, 10, 100 and 1,000 trials of NAdamW).

    python experiments/trials_worth/run.py WEIGHTS

compares the weights (a name, a file or a run folder; without an argument those beside this file) on `heldout_small`
with the best of the first 1, 10, 100 and 1,000 random draws of the space nadamw8p on each task, and of the first 1, 10
and 100 of the ordered list. Prints the table, writes results.json and worth.png beside this file. Interrupted, it goes
on where it stopped.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from matplotlib.figure import Figure

from metaopt import contenders, evaluation, runtime
from metaopt.evaluate.statistics import trials_worth
from metaopt.evaluate.suite import compare
from metaopt.evaluate.trials import Cache, Search

HERE = Path(__file__).parent
SUITE, STEPS, SEEDS = "heldout_small", 1000, 3
RANDOM, ORDERED = (1, 10, 100, 1000), (1, 10, 100)
HEAD = (
    "task",
    "learned",
    *(f"random {k}" for k in RANDOM),
    *(f"ordered {k}" for k in ORDERED),
    "worth",
    "failed trials",
)


def main(
    weights: Annotated[str, typer.Argument(help="A learned optimizer.")] = str(HERE / "theta.safetensors"),
    cache: Annotated[Path | None, typer.Option(help="Where trials are kept.")] = None,
) -> None:
    """Runs what is missing, writes the table and the picture."""
    runtime.setup()
    searched = [f"nadamw8p@{k}" for k in RANDOM] + [f"ordered@{k}" for k in ORDERED]
    entrants = contenders.contenders([weights, *searched], 1)
    problems = evaluation.problems(SUITE, STEPS)
    store = Cache(cache or evaluation.cache_folder())
    largest = [entrants[0], *(c for c in entrants if c.name in (f"nadamw8p@{RANDOM[-1]}", f"ordered@{ORDERED[-1]}"))]
    found = compare(problems, largest, seeds=SEEDS, cache=store, progress=lambda *x: print(*x, flush=True))
    rows = [row(task, searches, [c.name for c in largest]) for task, searches in found.searches.items()]
    content = {"weights": Path(weights).name, "steps": STEPS, "seeds": SEEDS, "rows": rows, "skipped": found.skipped}
    (HERE / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draw(rows).savefig(HERE / "worth.png", dpi=90)
    print(table(rows))


def row(task: str, searches: Mapping[str, Search], names: Sequence[str]) -> dict[str, Any]:
    """Mean final losses over the seeds: of the learned optimizer, and of the best of the first k trials."""
    learned, random, ordered = (searches[name] for name in names)
    initial = random.runs.smooth[0, :, 0]  # of every trial of a seed: the first trial is always kept
    means = {name: searches[name].finals.astype(np.float64).mean(axis=-1) for name in names}
    loss = float(means[names[0]][0])
    failed = ~(random.finals <= initial)
    return {
        "task": task,
        "learned": finite(loss),
        "learned failed": int((~(learned.finals[0] <= initial)).sum()),
        "random": [finite(means[names[1]][:k].min()) for k in RANDOM],
        "ordered": [finite(means[names[2]][:k].min()) for k in ORDERED],
        "worth": finite(trials_worth(loss, means[names[1]])),
        "failed trials": float(failed.mean()),
        "trials": len(random.finals),
    }


def finite(x: float) -> float | None:
    return float(f"{x:.6g}") if math.isfinite(x) else None


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown; a loss that the learned optimizer's is below is in italics, its own failures in words."""
    lines = ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    for r in rows:
        losses = [loss(x, r["learned"]) for x in (*r["random"], *r["ordered"])]
        own = "failed" if r["learned"] is None else f"{r['learned']:.3g}"
        own += f" ({r['learned failed']} of {SEEDS} failed)" if r["learned failed"] else ""
        worth = f"> {r['trials']}" if r["worth"] is None else f"{r['worth']:.0f}"
        cells = [r["task"], own, *losses, worth, f"{r['failed trials']:.0%}"]
        lines.append("| " + " | ".join(cells) + " |")
    wins = [
        sum(below(r, kind, i) for r in rows)
        for kind, ks in (("random", RANDOM), ("ordered", ORDERED))
        for i in range(len(ks))
    ]
    worth = np.median([math.inf if r["worth"] is None else r["worth"] for r in rows])
    lines.append(
        "| **learned is below** | | " + " | ".join(f"{n} of {len(rows)}" for n in wins) + f" | median {worth:.0f} | |"
    )
    return "\n".join(lines) + "\n"


def below(r: Mapping[str, Any], kind: str, i: int) -> bool:
    return r["learned"] is not None and (r[kind][i] is None or r["learned"] < r[kind][i])


def loss(x: float | None, learned: float | None) -> str:
    if x is None:
        return "*failed*"
    return f"*{x:.3g}*" if learned is not None and learned < x else f"{x:.3g}"


def draw(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Share of the tasks on which one run is worth at least k trials, over k."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    worths = np.array([r["trials"] if r["worth"] is None else r["worth"] for r in rows])
    ks = np.geomspace(1, 1000, 200)
    axes.plot(ks, [(worths >= k).mean() for k in ks], color="#d55e00", drawstyle="steps-post")
    axes.set(xscale="log", ylim=(0, 1.02), xlabel="trials of random search", ylabel="share of tasks worth as many")
    axes.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    typer.run(main)
