"""Bias and variance of every estimator of the outer gradient against compute, on three problems, and the memory of
backpropagation over the length of the unroll:

    python experiments/estimators/run.py            # some minutes; writes results.json and the figures beside this file
    python experiments/estimators/run.py --quick    # a minute or two: one problem, few repetitions, noisy

Prints the tables of README.md, which says what the numbers mean.
"""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from metaopt import runtime

HERE = Path(__file__).parent
QUICK = Path("runs/estimators-quick")
COMPARED = ("pes", "gpes", "es")  # variances over that of nres


def main(
    quick: Annotated[bool, typer.Option(help="A smoke run on one problem.")] = False,
    out: Annotated[Path | None, typer.Option(help=f"Folder to write to; this one, or with --quick {QUICK}.")] = None,
) -> None:
    """Writes results.json and three figures, prints the tables."""
    runtime.setup()
    import _figures
    import _memory
    import _tables
    from _problems import PROBLEMS

    from metaopt import record

    out = out or (QUICK if quick else HERE)
    out.mkdir(parents=True, exist_ok=True)
    chosen = list(PROBLEMS)[:1] if quick else list(PROBLEMS)  # compilation is most of the time
    lengths = _memory.LENGTHS[:3] if quick else _memory.LENGTHS
    results = {
        "problems": {name: compare(PROBLEMS[name](), name, quick) for name in chosen},
        "memory": _memory.study(lengths, 1600),
        "versions": record.environment()["versions"],
    }
    (out / "results.json").write_text(json.dumps(rounded(results), indent=1) + "\n")
    print("\n" + _tables.tables(results))
    for name, figure in _figures.figures(results).items():
        figure.savefig(out / f"{name}.png", dpi=100)


def compare(problem: Any, name: str, quick: bool) -> dict[str, Any]:
    """What is measured on one problem; every Measured as [value, low, high]."""
    import _bias
    import _chains
    import jax
    import numpy as np
    from _problems import REFERENCES, ROWS

    count, began = 8 if quick else problem.repetitions, time.perf_counter()
    data = jax.device_put(problem.task.data())
    chains = _chains.compile_all(problem, {**ROWS, "final": REFERENCES[True]}, data)
    compiled = time.perf_counter()
    exact = {False: chains["full_grad"], True: chains.pop("final")}
    grads, seconds = _chains.repetitions(problem, chains, data, count)
    reference = {final: _chains.references(problem, one, data, count // 2) for final, one in exact.items()}
    print(f"{name}: {compiled - began:.0f} s to compile, {time.perf_counter() - compiled:.0f} s to run", flush=True)
    rows = {}
    for label, row in ROWS.items():
        cycle = 1 if row.whole else problem.cycle
        rows[label] = _bias.measure(grads[label], reference[row.final], cycle, problem.num_tasks, row.perturbed)
        cost = seconds[label] / seconds["plain"]
        rows[label]["compute"] = _bias.Measured(*map(float, np.quantile(cost, (0.5, 0.25, 0.75))))
        rows[label]["inner_steps"] = problem.horizon * inner_steps(row, problem)
    return {
        "problem": {k: v for k, v in problem._asdict().items() if isinstance(v, int | float)},
        "theta_size": reference[False].shape[-1],
        "repetitions": count,
        "plain_step_us": float(1e6 * np.median(seconds["plain"])),
        "smoothing": {"mean": _bias.smoothing(reference[False]), "final": _bias.smoothing(reference[True])},
        "over_nres": over_nres(problem, grads),
        "rows": rows,
    }


def inner_steps(row: Any, problem: Any) -> float:
    """Inner steps that an estimate counts for each step of each task."""
    from _problems import build

    length = problem.horizon if row.whole else problem.truncation
    return build(row, problem).inner_steps / problem.num_tasks / length


def over_nres(problem: Any, grads: dict[str, Any]) -> dict[str, Any]:
    """Variances over those of nres. `es` is compared over as many whole runs as nres has cycles, and has no ages."""
    import _bias

    ratios = {}
    for name in COMPARED:
        cycle = 1 if name == "es" else problem.cycle
        ratios[name] = _bias.ratio(grads[name], grads["nres"], (cycle, problem.cycle))
    return ratios


def rounded(value: Any) -> Any:
    """Floats to four significant digits."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    typer.run(main)
