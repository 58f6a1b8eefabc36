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


def compiled(name: str, length: int, runs: int = 1) -> tuple:
    """The compiled estimate, of so many runs a device, and its arguments. What the compiler leaves out here comes after
    memory is planned."""
    task = TASKS["image_mlp"]("digits", hidden=(32,))
    optimizer = OPTIMIZERS["hyper"]("adam", {"learning_rate": 1e-3})
    make = {"tbptt": tbptt, "full_grad": full_grad}[name]
    estimator = make(
        task, optimizer, num_tasks=runs * len(jax.devices()), truncation=ESTIMATORS[name](length), horizon=length
    )
    theta, data = optimizer.init(jax.random.key(0)), jax.device_put(task.data())
    state = jax.jit(estimator.init)(theta, jax.random.key(1))
    arguments = theta, state, data, jax.random.key(2)
    quick = {"xla_backend_optimization_level": 0}
    return jax.jit(estimator.estimate, compiler_options=quick).lower(*arguments).compile(), arguments


def planned_bytes(name: str, length: int) -> int:
    """Temporary memory that the compiled program asks for, on each device and so for each run."""
    return compiled(name, length)[0].memory_analysis().temp_size_in_bytes


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
    program, arguments = compiled(name, length, CHECKED)
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
