"""What each family of tasks costs and how far Adam gets on it: the table of `metaopt list tasks --measure`.

Of every family its default factory, of that one member and one run, on one core:

    parameters          numbers in the params
    step                a step of plain gradient descent, from drawing the minibatch to the new params: CPU time, the
                        median over CALLS calls of a compiled scan of TIMED steps, over TIMED
    loss, normalised    at step 0, and after STEPS steps of Adam (the mean of the last LAST); of minibatches of train
    fresh               the normalised loss at step 0, mean over MEMBERS members

CPU time, because it is a core's own: what else the machine does changes it by tenths and the time of day by factors.
"""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import optax
from rich.box import MARKDOWN
from rich.table import Table

from metaopt import unroll
from metaopt.data import DataError
from metaopt.types import Inner, LearnedOptimizer, PyTree, Task

STEPS, LEARNING_RATE, LAST = 1000, 1e-3, 10
TIMED, CALLS = 200, 5
MEMBERS = 100


class Measured(NamedTuple):
    """A row of the table."""

    parameters: int
    step: float  # seconds
    loss: tuple[float, float]  # at step 0, after STEPS steps
    normalized: tuple[float, float]
    fresh: float


def one_core() -> None:
    """One thread and one device of a CPU. Must run before the first use of a device."""
    os.environ["NPROC"] = "1"  # the size of XLA's pools of threads
    jax.config.update("jax_num_cpu_devices", 1)


def measure(task: Task, seed: int = 0) -> Measured:
    """Of the member and the run that the seed decides. Raises DataError where this machine lacks the data."""
    data = jax.device_put(task.data())
    inner = jax.jit(lambda key: unroll.start(task, _learned(optax.identity()), (), STEPS, key))(jax.random.key(seed))
    descent = _program(task, optax.sgd(LEARNING_RATE), TIMED)
    seconds = [_seconds(descent, inner, data) for _ in range(1 + CALLS)][1:]  # the first one compiles
    losses, normalized = map(np.asarray, _program(task, optax.adam(LEARNING_RATE), STEPS)(inner, data))
    size = sum(x.size for x in jax.tree.leaves(inner.params))
    fresh = _fresh(task, jax.random.split(jax.random.key(seed), MEMBERS), data)
    return Measured(size, statistics.median(seconds) / TIMED, _ends(losses), _ends(normalized), float(fresh))


def measure_all(
    families: Mapping[str, Callable[[], Task]], say: Callable[[str], None]
) -> tuple[dict[str, Measured], dict[str, str]]:
    """({family: what was measured}, {family: why this machine cannot}); `say` gets a line before each."""
    rows: dict[str, Measured] = {}
    absent: dict[str, str] = {}
    for i, (name, factory) in enumerate(families.items()):
        say(f"measuring {name}, {i} of {len(families)} done")
        try:
            rows[name] = measure(factory())
        except DataError as error:
            absent[name] = str(error)
    return rows, absent


def table(rows: Mapping[str, Measured]) -> Table:
    """In Markdown, so that it can be kept."""
    shown = Table("family", "parameters", "step, us", "loss", f"after {STEPS:,}", box=MARKDOWN)
    shown.add_column("normalised")
    shown.add_column(f"after {STEPS:,}")
    shown.add_column(f"fresh, {MEMBERS} members")
    for column in shown.columns[1:]:
        column.justify = "right"
    for name, row in rows.items():
        numbers = (f"{x:.3g}" for x in (1e6 * row.step, *row.loss, *row.normalized, row.fresh))
        shown.add_row(name, f"{row.parameters:,}", *numbers)
    return shown


def _learned(tx: optax.GradientTransformation) -> LearnedOptimizer:
    """A hand-designed optimizer where a learned one is expected."""
    return LearnedOptimizer(lambda key: (), lambda theta, num_steps: optax.with_extra_args_support(tx))


def _program(
    task: Task, tx: optax.GradientTransformation, steps: int
) -> Callable[[Inner, PyTree], tuple[jax.Array, jax.Array]]:
    """(a run at its start, data) -> its training losses [steps], raw and normalised."""
    learned = _learned(tx)

    @jax.jit
    def run(inner: Inner, data: PyTree) -> tuple[jax.Array, jax.Array]:
        inner = inner._replace(opt_state=unroll.transformation(task, learned, (), steps).init(inner.params))
        _, losses = unroll.unroll(task, learned, (), inner, data, steps)
        return losses, jax.vmap(partial(task.normalize, inner.cfg))(losses)

    return run


def _seconds(run: Callable, inner: Inner, data: PyTree) -> float:
    began = time.process_time()
    jax.block_until_ready(run(inner, data))
    return time.process_time() - began


@partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
def _fresh(task: Task, keys: jax.Array, data: PyTree) -> jax.Array:
    """Mean normalised loss of a member of each key at its start, one after another."""

    def one(key: jax.Array) -> jax.Array:
        inner = unroll.start(task, _learned(optax.identity()), (), STEPS, key)
        batch = task.batch(inner.cfg, data, inner.key, "train")
        return task.normalize(inner.cfg, task.loss(inner.cfg, inner.params, batch, inner.key)[0])

    return jax.lax.map(one, keys).mean()


def _ends(losses: np.ndarray) -> tuple[float, float]:
    return float(losses[0]), float(losses[-LAST:].mean())
