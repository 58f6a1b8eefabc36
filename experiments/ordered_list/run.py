"""An ordered list of NAdamW's hyper-parameters: the first k are the strongest baseline of k trials that a person can
have without tuning (the OptList of Metz et al. 2020, arXiv 2002.11887, section 4; ours is made of our own trials).

    python experiments/ordered_list/run.py

runs all 1,000 draws of the space nadamw8p on the tasks of `train_small` but its convolutions, which would take as long
as all others (never on a held-out task), orders them greedily and writes metaopt/evaluate/ordered_list.json. About ten
minutes on two cores; interrupted, it goes on.
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from metaopt import contenders, evaluation, runtime
from metaopt.evaluate import spaces
from metaopt.evaluate.suite import compare
from metaopt.evaluate.trials import Cache
from metaopt.files import write_atomic

SUITE, LEFT_OUT, STEPS, SEEDS = "train_small", "image_conv", 1000, 2
LENGTH = 100
TARGET = Path(spaces.__file__).with_name("ordered_list.json")


def scores(finals: np.ndarray, initial: np.ndarray) -> np.ndarray:
    """Losses [trials, seeds] on a scale on which tasks can be averaged: the rank among all trials, as a share.

    0 is the best trial of the seed, 1 the worst; what ends above the initial loss [seeds], or not finite, has 1. Losses
    themselves span decades on one task and per cents on another.
    """
    failed = ~(finals <= initial)
    order = np.where(failed, np.inf, finals).argsort(axis=0, kind="stable").argsort(axis=0)
    return np.where(failed, 1.0, order / len(finals))


def main(cache: Annotated[Path | None, typer.Option(help="Where trials are kept.")] = None) -> None:
    """Runs the trials, writes the list."""
    runtime.setup()
    trials = contenders.contenders([f"nadamw8p@{spaces.size('nadamw8p')}"], 1)[:1]
    problems = [problem for problem in evaluation.problems(SUITE, STEPS) if problem.entry["name"] != LEFT_OUT]
    store = Cache(cache or evaluation.cache_folder())
    found = compare(problems, trials, seeds=SEEDS, cache=store, progress=lambda *x: print(*x, flush=True))
    if found.skipped:
        raise SystemExit(f"tasks are missing: {found.skipped}")
    searches = [found.searches[problem.label][trials[0].name] for problem in problems]
    # Trial 0 is always kept: the initial loss of a seed is the same for every trial
    rows = np.concatenate([scores(s.finals, s.runs.smooth[0, :, 0]).T for s in searches])
    draws = spaces.greedy_order(rows, LENGTH)
    best = np.minimum.accumulate(rows[:, draws], axis=1).mean(axis=0)
    content = {
        "space": "nadamw8p",
        "tasks": [problem.label for problem in problems],
        "steps": STEPS,
        "seeds": SEEDS,
        "rank of the best of the first k": [round(float(x), 5) for x in best[[0, 1, 4, 9, 29, 99]]],
        "k": [1, 2, 5, 10, 30, 100],
        "draws": draws,
    }
    write_atomic(TARGET, (json.dumps(content, indent=1) + "\n").encode())
    print(json.dumps(content))


if __name__ == "__main__":
    typer.run(main)
