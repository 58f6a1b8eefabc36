"""Speed of meta-training: inner steps per second through the very path that `metaopt train` takes.

    python experiments/benchmarks/meta_train.py --task digits_mlp --optimizer adafac_mlp --estimator pes

prints one line of JSON; README.md beside this file says what its fields mean. The floor, the same task and estimator
under SGD with momentum, takes turns with it in the same process.
"""

import json
from collections.abc import Callable
from typing import Annotated, Any

import _measure as M
import numpy as np
import typer

TASKS = {  # what a name stands for, where it is not simply an entry of the registry
    "digits_mlp": {"name": "image_mlp", "dataset": "digits", "hidden": [32], "batch_size": 64},
    "quadratic": {"name": "quadratic", "dim": 10},
}
SGD = {"name": "hyper", "base": "sgd", "learnable": {"learning_rate": 0.01}, "fixed": {"momentum": 0.9}}


def main(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="e.g. tasks.0.hidden=[64] optimizer.hidden=8 estimator.std=0.02"),
    ] = None,
    task: Annotated[str, typer.Option(help=f"{', '.join(TASKS)}, or any task's name.")] = "digits_mlp",
    optimizer: Annotated[str, typer.Option(help="Any learned optimizer's name.")] = "adafac_mlp",
    estimator: Annotated[str, typer.Option(help="Any estimator's name.")] = "pes",
    num_tasks: Annotated[int, typer.Option(min=1, help="Antithetic pairs; runs for tbptt.")] = 8,
    truncation: Annotated[int, typer.Option(min=1, help="Inner steps per outer step.")] = 20,
    chunk: Annotated[int, typer.Option(min=1, help="Outer steps per device call.")] = 20,
    repeats: Annotated[int, typer.Option(min=1, help="Timed device calls of either program.")] = 30,
    cache: Annotated[str, typer.Option(help="Folder of compiled programs, or off.")] = "off",
) -> None:
    """Prints one line of JSON."""
    M.compilation_cache(cache)
    from metaopt import config, registry, runtime

    whole = registry.literal(*registry.WHOLE_RUNS)

    # Estimators of whole runs get runs of one truncation, so that all take equally many steps; the others of ten.
    length = {"truncation": truncation, "horizon": truncation * (1 if estimator in whole else 10)}
    raw = {
        "optimizer": optimizer,
        "estimator": {"name": estimator, "num_tasks": num_tasks, **length},
        "tasks": [TASKS.get(task, {"name": task})],
        "heldout": None,
    }
    try:
        asked = config.parse(raw, "command line", arguments or ())
    except config.ConfigError as error:
        raise typer.BadParameter(str(error)) from None
    same = [argument for argument in arguments or () if not argument.startswith("optimizer")]
    floor = config.parse({**raw, "optimizer": SGD}, "floor", same)
    runtime.setup()
    result = measure(asked, floor, chunk, repeats)
    given = {"task": task, "optimizer": optimizer, "estimator": estimator, "num_tasks": num_tasks}
    given |= {"truncation": truncation, "arguments": arguments or [], "chunk": chunk, "repeats": repeats}
    print(json.dumps({k: M.rounded(v) for k, v in {**given, **result, "cache": cache, **M.machine()}.items()}))


def program(config: Any, chunk: int) -> tuple[Callable[[], None], int]:
    """A meta-training run as `metaopt train` builds it: its next device call, of `chunk` outer steps, as a function
    that waits for it; and the inner steps of an outer step."""
    import jax

    from metaopt import build, train

    learned = build.optimizer(config.optimizer)
    families = build.families(config, learned)
    init, step = train.make_train(learned, families, build.outer(config.outer, config.steps))
    data, state = build.place(families), init(jax.random.key(config.seed))
    state = jax.device_put(state, jax.tree.map(lambda x: x.sharding, state))  # as the run loop does

    def run() -> None:
        nonlocal state
        state, metrics = step(state, data, chunk)
        jax.block_until_ready((state, metrics))

    return run, train.inner_steps(families)


def measure(asked: Any, floor: Any, chunk: int, repeats: int) -> dict[str, Any]:
    """The figures. Memory and the first step are read before the floor's program exists."""
    counts = M.count_compiles()
    learned, inner_steps = program(asked, chunk)
    learned()
    first_step, hits = M.process_age(), counts["cache_hits"]
    learned()
    peak = M.peak_rss_mb()
    sgd, _ = program(floor, chunk)
    sgd()
    compiled = counts["compiled"]
    seconds = [x / chunk for x in M.interleaved([learned, sgd], repeats)]
    outer_step, sgd_step = map(np.median, seconds)
    return {
        "inner_steps": inner_steps,
        "inner_steps_per_s": inner_steps / outer_step,
        "best_inner_steps_per_s": inner_steps / seconds[0].min(),
        "outer_step_ms": 1e3 * outer_step,
        "sgd_inner_steps_per_s": inner_steps / sgd_step,
        "ratio_to_sgd": sgd_step / outer_step,
        "first_step_s": first_step,
        "cache_hits": hits,
        "peak_rss_mb": peak,
        "recompiles": counts["compiled"] - compiled,
    }


if __name__ == "__main__":
    typer.run(main)
