"""The run loop around the outer step: what a run folder holds, and how a run survives being killed.

A run is cut into chunks that end at multiples of `chunk` (and at the last step); validation and checkpoints come at the
ends of chunks, at outer steps that depend on the config alone. Whatever interrupts a run, the resumed one therefore
makes the same device calls from the same state, and ends bit for bit where it would have ended.

    config.yaml         the resolved config, written first     metrics.jsonl        a line per outer step
    environment.json    versions, devices and data, per start  checkpoints/         the last three run states
    theta.safetensors   the best weights by validation         last.safetensors     the last weights
    results.json        the comparison on held-out tasks       summary.json         written last: the run is over
    report.html, curves.png                                    made of the others

Weights that a run begins with are copied into the folder, just before config.yaml, and a resumed run reads the copies:
what the config names may be changed or removed meanwhile, and frozen leaves are in no checkpoint.

    start.safetensors   theta before the first step, if `start` or `freeze` is given
    outer.safetensors   the outer optimizer's weights, if it is a learned one

theta.safetensors and last.safetensors hold the whole theta, frozen leaves included; `checkpoints/` the trained part.
"""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from metaopt import checkpoint, record
from metaopt.progress import Chunk, display
from metaopt.train import Init, Metrics, RunError, Step, TrainState, throughput
from metaopt.types import PyTree


class Plan(NamedTuple):
    """A run as built from its config."""

    config: str  # the text of config.yaml
    copies: dict[str, tuple[PyTree, dict[str, Any]]]  # files of weights to begin with: (theta, metadata)
    init: Init
    step: Step
    data: tuple[PyTree, ...]
    families: dict[str, int]  # their inner steps per outer step
    origins: dict[str, dict[str, Any]]  # where their data are from, see `build.origins`
    steps: int
    chunk: int
    checkpoint_every: int
    seed: int
    meta: dict[str, Any]  # of the weights files
    whole: Callable[[PyTree], PyTree]  # the trained part of theta, which the train state holds -> theta
    validate: Callable[[PyTree], float] | None  # trained part of theta -> score, lower is better
    valid_every: int
    finish: Callable[[Path, PyTree, dict[str, Any]], dict[str, Any]]  # (folder, best trained part, summary)
    tensorboard: bool


class Progress(NamedTuple):
    """What a checkpoint holds beside the train state."""

    best: PyTree  # trained part of theta
    best_step: int | None = None  # None: no validation yet
    best_score: float | None = None
    score: float | None = None  # the last
    seconds: float = 0.0  # over all starts
    throughput: dict[str, float | None] | None = None  # inner steps per second of each family alone, at the last start


class Interrupted(SystemExit):
    """A signal has ended a run, after saving. The exit code is 128 + signal: 130 for Ctrl-C, 143 for SIGTERM."""


def begun(out: Path) -> bool:
    """Whether there is a run in the folder."""
    return (out / "config.yaml").exists()


def wanted(out: Path, config: dict[str, Any], load: Callable[[Path], dict[str, Any]], resume: bool) -> bool:
    """Whether there is something to run for the folder; False when the run in it is already over.

    `config` is resolved, `load` reads one from a file. Raises RunError for a folder with a run in it when `resume` is
    False, or with the run of another config when it is True.
    """
    if not begun(out):
        return True
    if not resume:
        raise RunError(f"{out} already holds a run: go on with it by --resume, choose another --out, or remove it")
    ours, theirs = _flat(config), _flat(load(out / "config.yaml"))
    keys = [key for key in {**theirs, **ours} if ours.get(key, _MISSING) != theirs.get(key, _MISSING)]
    if keys:
        lines = [f"{key}: {theirs.get(key, _MISSING)!r} there, {ours.get(key, _MISSING)!r} here" for key in keys]
        hint = (
            "schedules depend on it, so a longer run is another run" if "steps" in keys else "start it in another --out"
        )
        raise RunError("\n  ".join([f"{out} holds the run of another config ({hint}):", *lines]))
    return not (out / "summary.json").exists()


def run(plan: Plan, out: Path, console: Console) -> dict[str, Any]:
    """Runs to the end, from the newest checkpoint in the folder if there is one; returns the summary.

    Raises Interrupted after Ctrl-C or SIGTERM: the chunk is finished and saved, and the way to go on printed.
    """
    _begin(plan, out)
    state, progress = _restore(plan, out, console)
    writers = _writers(plan, out, int(state.step))
    record.write_environment(out / "environment.json", plan.origins)
    with _signals(console) as caught:
        state, progress = _loop(plan, out, console, state, progress, writers, caught)
    _save_weights(plan, out, state, progress)
    if caught:
        console.print(
            f"stopped after outer step {int(state.step)} of {plan.steps}; {_how_to_resume(out)}", soft_wrap=True
        )
        raise Interrupted(128 + caught[0])
    try:
        summary = plan.finish(out, _best(state, progress), _summary(plan, progress))
    except KeyboardInterrupt:
        console.print(f"\nstopped in the final evaluation; {_how_to_resume(out)}", soft_wrap=True)
        raise Interrupted(128 + signal.SIGINT) from None
    checkpoint.write_atomic(out / "summary.json", json.dumps(summary, indent=1).encode())
    return summary


def _begin(plan: Plan, out: Path) -> None:
    """Makes the folder this run's, if it is not."""
    if not begun(out):
        out.mkdir(parents=True, exist_ok=True)
        for file, content in plan.copies.items():
            checkpoint.save_weights(out / file, *content)
        checkpoint.write_atomic(out / "config.yaml", plan.config.encode())


def _restore(plan: Plan, out: Path, console: Console) -> tuple[TrainState, Progress]:
    state = _fresh(plan)
    progress = Progress(jax.tree.map(jax.numpy.copy, state.theta))
    found = checkpoint.restore_latest(out / "checkpoints", (state, progress.best))
    if found is not None:
        _, (state, best), extra = found
        progress = Progress(best, **extra)
        console.print(f"resuming after outer step {int(state.step)} of {plan.steps}")
    record.truncate_rows(out / "metrics.jsonl", int(state.step))
    return state, progress


def _fresh(plan: Plan) -> TrainState:
    """Committed to its devices like a restored one, so that a resumed run finds that very program in the cache."""
    state = plan.init(jax.random.key(plan.seed))
    return jax.device_put(state, jax.tree.map(lambda x: x.sharding, state))


def _writers(plan: Plan, out: Path, step: int) -> list[Callable[[list[record.Row]], None]]:
    writers = [lambda rows: record.append_rows(out / "metrics.jsonl", rows)]
    if plan.tensorboard:
        try:
            writers.append(record.tensorboard(out / "tensorboard", step))
        except ImportError:
            raise RunError("tensorboard: true needs one more package: pip install 'metaopt-jax[log]'") from None
    return writers


def _loop(
    plan: Plan,
    out: Path,
    console: Console,
    state: TrainState,
    progress: Progress,
    writers: list[Callable[[list[record.Row]], None]],
    caught: list[int],
) -> tuple[TrainState, Progress]:
    done, stop, compiled, inner_steps = int(state.step), False, set[int](), sum(plan.families.values())
    with display(console, done, plan.steps) as show:
        while done < plan.steps and not stop:
            began = time.perf_counter()
            length = min(plan.chunk, plan.steps - done)  # every state that is saved is at the end of a chunk
            state, metrics = plan.step(state, plan.data, length)
            metrics = jax.tree.map(np.asarray, metrics)
            speed = inner_steps * length / (time.perf_counter() - began)
            rate = speed if length in compiled else None
            if not compiled and len(plan.families) > 1:
                progress = progress._replace(throughput=_throughput(plan, length))
            compiled.add(length)
            rows = record.rows_of(metrics, done + 1)
            before, done = done, done + length
            if plan.validate is not None and _due(before, done, plan.valid_every, plan.steps):
                progress = _validated(progress, state.theta, done, plan.validate(state.theta))
                rows[-1]["valid/score"] = progress.score
            progress = progress._replace(seconds=progress.seconds + time.perf_counter() - began)
            rows[-1]["seconds"] = round(progress.seconds, 3)
            for write in writers:
                write(rows)
            stop = bool(caught)
            if stop or _due(before, done, plan.checkpoint_every, plan.steps):
                _save(plan, out, state, progress)
            show(_chunk(plan, done, metrics, rate, progress))
    return state, progress


def _throughput(plan: Plan, length: int) -> dict[str, float | None]:
    """By the program that trains, from a state of its own."""
    rates = throughput(plan.step, _fresh(plan), plan.data, length, list(plan.families.values()))
    return dict(zip(plan.families, rates, strict=True))


def _due(before: int, done: int, every: int, steps: int) -> bool:
    """Whether a multiple of `every` lies in (before, done], or the run is at its end."""
    return done // every > before // every or done == steps


def _validated(progress: Progress, theta: PyTree, step: int, score: float) -> Progress:
    progress = progress._replace(score=score)
    if progress.best_score is not None and not score < progress.best_score:
        return progress
    # A copy: the next chunk takes over the memory of the train state.
    return progress._replace(best=jax.tree.map(jax.numpy.copy, theta), best_step=step, best_score=score)


def _chunk(plan: Plan, done: int, metrics: Metrics, rate: float | None, progress: Progress) -> Chunk:
    families = {
        name: (float(metrics[f"{name}/meta_loss"].mean()), float(metrics[f"{name}/diverged"].sum()))
        for name in plan.families
    }
    return Chunk(done, families, rate, progress.score, progress.throughput or {})


def _save(plan: Plan, out: Path, state: TrainState, progress: Progress) -> None:
    extra = {name: value for name, value in progress._asdict().items() if name != "best"}
    checkpoint.save_state(out / "checkpoints", int(state.step), (state, progress.best), extra)
    _save_weights(plan, out, state, progress)


def _save_weights(plan: Plan, out: Path, state: TrainState, progress: Progress) -> None:
    last = int(state.step)
    best_step = last if progress.best_step is None else progress.best_step
    best = plan.whole(_best(state, progress))
    checkpoint.save_weights(out / "last.safetensors", plan.whole(state.theta), {**plan.meta, "outer_step": last})
    checkpoint.save_weights(out / "theta.safetensors", best, {**plan.meta, "outer_step": best_step})


def _best(state: TrainState, progress: Progress) -> PyTree:
    return state.theta if progress.best_step is None else progress.best


def _summary(plan: Plan, progress: Progress) -> dict[str, Any]:
    return {
        "outer_steps": plan.steps,
        "inner_steps": plan.steps * sum(plan.families.values()),
        "seconds": round(progress.seconds, 3),
        "throughput": progress.throughput,
        "best": {"outer_step": progress.best_step, "score": progress.best_score},
        "last": {"score": progress.score},
    }


def _how_to_resume(out: Path) -> str:
    return f"go on with: metaopt train {out / 'config.yaml'} --out {out} --resume"


@contextmanager
def _signals(console: Console) -> Iterator[list[int]]:
    """Yields a list that receives the first SIGINT or SIGTERM; a second one acts as usual."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def handle(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, old[number])
        console.print("\nstopping at the end of this chunk; once more to stop at once")

    old: dict[int, Any] = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


_MISSING = _Missing()


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": [1]}} -> {"a.b.0": 1}"""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {prefix: value}
    pairs = [pair for key, item in items for pair in _flat(item, f"{prefix}.{key}" if prefix else str(key)).items()]
    return dict(pairs)
