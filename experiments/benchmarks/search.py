"""How long a search takes: all trials of a contender on one task, as `metaopt eval` runs them, and as many runs of SGD.

    python experiments/benchmarks/search.py --contender nadamw8p@1000 --task image_mlp --steps 1000

prints one line of JSON: seconds to compile, seconds to run, inner steps a second, their ratio to SGD's.
"""

import json
from typing import Annotated, Any

import _measure as M
import numpy as np
import typer


def main(
    contender: Annotated[str, typer.Option(help="As `metaopt eval` takes it.")] = "nadamw8p@1000",
    task: Annotated[str, typer.Option(help="A family with its default arguments.")] = "image_mlp",
    steps: Annotated[int, typer.Option(min=1, help="Inner steps of a run.")] = 1000,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of a trial.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Calls; the median counts.")] = 1,
) -> None:
    """Measures one search."""
    from metaopt import config, runtime

    entry = config.entry("tasks", {"name": task}, "--task")
    runtime.setup()
    from metaopt import contenders

    asked = contenders.contenders([contender], 1)[0]
    floor = contenders.contenders(["sgd:lr=0.001"], 1)[0]
    print(json.dumps(M.rounded(measure(entry, asked, floor, steps, seeds, repeats))))


def measure(entry: Any, asked: Any, floor: Any, steps: int, seeds: int, repeats: int) -> dict[str, Any]:
    """The search and SGD take turns; both run as many trials."""
    import time

    import jax

    from metaopt import build
    from metaopt.evaluate import metrics
    from metaopt.evaluate.curves import make_runner, prepare

    member = build.task(entry)
    problems = prepare(member, member.data(), steps=steps, seeds=seeds)
    programs, seconds = [], []
    for one in (asked, floor):
        thetas = jax.tree.map(lambda x: np.resize(x, (asked.trials, *x.shape[1:])), one.thetas)
        start = time.perf_counter()
        checks = metrics.checks(steps)
        programs.append(make_runner(problems, one.optimizer, checks=checks, measure=metrics.kept).compile(thetas))
        seconds.append(time.perf_counter() - start)
    mine, sgd = (float(np.median(times)) for times in M.interleaved(programs, repeats))
    inner_steps = asked.trials * seeds * steps
    return {
        "contender": asked.name,
        "task": entry.name,
        "steps": steps,
        "seeds": seeds,
        "compile_s": seconds[0],
        "run_s": mine,
        "inner_steps_per_s": inner_steps / mine,
        "sgd_inner_steps_per_s": inner_steps / sgd,
        "ratio_to_sgd": sgd / mine,
        "peak_rss_mb": M.peak_rss_mb(),
        **M.machine(),
    }


if __name__ == "__main__":
    typer.run(main)
