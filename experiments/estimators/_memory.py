"""Memory of backpropagation over the length of the unroll: what XLA plans, exactly, and what the process then takes."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metaopt.estimators import full_grad, tbptt
from metaopt.optimizers import OPTIMIZERS
from metaopt.tasks import TASKS
from metaopt.types import Estimator, PyTree

PIECE = 25  # steps of a piece of full_grad
CHECKED = 16
LENGTHS = tuple(PIECE * 4**k for k in range(1, 6))  # 100 to 25,600, where the pieces divide into equal groups
ESTIMATORS = {"tbptt": lambda length: length, "full_grad": lambda length: PIECE}  # truncation for an unroll


def study(lengths: Sequence[int], probe: int) -> dict[str, Any]:
    """Temporary bytes of a run by estimator and length, exponents of the length, and the check at length `probe`.

    The inner problem is the 64-32-10 network on digits under Adam with a learned rate, one run on each device.
    """
    with ThreadPoolExecutor(2) as pool:
        jobs = {name: {str(n): pool.submit(planned_bytes, name, n) for n in lengths} for name in ESTIMATORS}
        planned = {name: {n: job.result() for n, job in by_length.items()} for name, by_length in jobs.items()}
    return {
        "bytes": planned,
        "exponents": {name: exponents(by_length) for name, by_length in planned.items()},
        "check": {name: check(name, probe) for name in ESTIMATORS},
        "probe": probe,
        "runs": CHECKED * len(jax.devices()),
    }


def make(name: str, length: int, runs: int) -> tuple[Estimator, PyTree, PyTree]:
    """The estimator for so many runs a device, theta and data."""
    task = TASKS["image_mlp"]("digits", hidden=(32,))
    optimizer = OPTIMIZERS["hyper"]("adam", {"learning_rate": 1e-3})
    factory = {"tbptt": tbptt, "full_grad": full_grad}[name]
    num_tasks, truncation = runs * len(jax.devices()), ESTIMATORS[name](length)
    estimator = factory(task, optimizer, num_tasks=num_tasks, truncation=truncation, horizon=length)
    return estimator, optimizer.init(jax.random.key(0)), task.data()


def planned_bytes(name: str, length: int) -> int:
    """Temporary memory that the compiled program asks for, on each device and so for each run."""
    estimator, theta, data = make(name, length, 1)
    key = jax.random.key(1)
    state = jax.eval_shape(estimator.init, theta, key)
    quick = {"xla_backend_optimization_level": 0}  # what this leaves out comes after memory is planned
    program = jax.jit(estimator.estimate, compiler_options=quick).lower(theta, state, data, key).compile()
    return program.memory_analysis().temp_size_in_bytes


def exponents(by_length: dict[str, int]) -> dict[str, float]:
    """c of bytes = a + b length^c, from how much each step to the next length adds (lengths of one ratio, so that a
    falls out); and the slope of log bytes over log length between the last two, where a counts."""
    x, y = (np.array([float(n) for n in numbers]) for numbers in (by_length, by_length.values()))
    growth = np.polyfit(np.log(x[1:]), np.log(np.diff(y)), 1)[0]
    return {"growth": float(growth), "last": float(np.log(y[-1] / y[-2]) / np.log(x[-1] / x[-2]))}


def check(name: str, length: int) -> dict[str, int] | None:
    """Planned temporary bytes of all devices, and by how much the resident memory of this process peaked above its
    level before; None where the system does not tell (Linux does). Of CHECKED runs a device: small things do not show.
    """
    estimator, theta, data = make(name, length, CHECKED)
    key = jax.random.key(1)
    arguments = theta, jax.jit(estimator.init)(theta, key), jax.device_put(data), key
    program = jax.jit(estimator.estimate).lower(*arguments).compile()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew at the present level
        before = resident("VmRSS")
        jax.block_until_ready(program(*arguments))
        peak = resident("VmHWM")
    except OSError:
        return None
    planned = program.memory_analysis().temp_size_in_bytes * len(jax.devices())
    return {"planned": planned, "resident": peak - before}


def resident(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])
