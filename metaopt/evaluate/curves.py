"""Loss curves: whole inner runs of a task, for many candidates (values of theta) and seeds at once.

A seed decides the member of the family, its initial parameters and its batches, and nothing else does: every optimizer
meets the same problems, so comparisons are paired. All candidates and seeds of a (task, optimizer) pair are one
compilation; the runs are spread over the local devices and cut into chunks that bound the memory.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from metaopt import unroll
from metaopt.types import LearnedOptimizer, PyTree, Task

STREAM = 0x6576616C  # evaluation draws from its own stream of keys: no seed repeats the runs of meta-training
CHUNK_BYTES = 2**26  # parameters and optimizer state of the runs that a device advances at the same time

Measure = Callable[[PyTree, jax.Array], PyTree]  # (cfg, losses [steps]) -> what to keep of a run


def run_curves(
    task: Task,
    optimizer: LearnedOptimizer,
    thetas: PyTree,
    data: PyTree,
    *,
    steps: int,
    seeds: int,
    split: str = "train",
) -> np.ndarray:
    """Training losses [candidates, seeds, steps] float32, each measured on a batch of `split` before its update.

    Every leaf of `thetas` has a leading axis [candidates]; `data` is what `task.data()` gives, on host or device. Runs
    are told that their horizon is `steps`, and use the seeds 0 .. seeds-1.
    """
    losses = make_runner(task, optimizer, data, steps=steps, seeds=seeds, split=split)(thetas)
    return np.asarray(losses)


def make_runner(
    task: Task,
    optimizer: LearnedOptimizer,
    data: PyTree,
    *,
    steps: int,
    seeds: int,
    split: str = "train",
    measure: Measure = lambda cfg, losses: losses,
) -> Callable[[PyTree], PyTree]:
    """Returns runner(thetas [candidates, ...]) -> measure(cfg, losses) of every run, leaves [candidates, seeds, ...].

    The runner compiles once for a number of candidates; its result is still being computed when it returns.
    """
    mesh = local_mesh()
    data = place(data)

    def run(theta: PyTree, seed: jax.Array, data: PyTree) -> PyTree:
        key = jax.random.fold_in(jax.random.key(STREAM), seed)
        inner = unroll.start(task, optimizer, theta, steps, key)
        inner, losses = unroll.unroll(task, optimizer, theta, inner, data, steps, split)
        return measure(inner.cfg, losses)

    @partial(jax.jit, static_argnums=3)
    def program(thetas: PyTree, seed: jax.Array, data: PyTree, chunk: int) -> PyTree:
        def shard(thetas: PyTree, seed: jax.Array, data: PyTree) -> PyTree:
            return jax.lax.map(lambda x: run(*x, data), (thetas, seed), batch_size=chunk)

        specs = (P("runs"), P("runs"), P())
        # check_vma: an inner run starts from constants, which the check takes for replicated values
        return jax.shard_map(shard, mesh=mesh, in_specs=specs, out_specs=P("runs"), check_vma=False)(thetas, seed, data)

    def runner(thetas: PyTree) -> PyTree:
        thetas = jax.tree.map(np.asarray, thetas)
        candidates = len(jax.tree.leaves(thetas)[0])
        runs = candidates * seeds
        size = run_bytes(task, optimizer, jax.tree.map(lambda x: x[0], thetas))
        padded, chunk = _chunks(runs, mesh.size, max(1, CHUNK_BYTES // size))
        index = np.arange(padded) % runs  # padding repeats runs, so that every device and chunk has equally many
        thetas = jax.tree.map(lambda x: x[index // seeds], thetas)
        out = program(thetas, (index % seeds).astype(np.int32), data, chunk)
        return jax.tree.map(lambda x: x[:runs].reshape(candidates, seeds, *x.shape[1:]), out)

    return runner


def local_mesh() -> Mesh:
    """One axis, `runs`, over the devices of this process."""
    return Mesh(np.array(jax.local_devices()), ("runs",))


def place(data: PyTree) -> PyTree:
    """`data` on every local device; arrays that are there already are not copied."""
    return jax.device_put(data, NamedSharding(local_mesh(), P()))


def run_bytes(task: Task, optimizer: LearnedOptimizer, theta: PyTree) -> int:
    """Bytes that one inner run holds in flight: configuration, parameters and optimizer state."""
    inner = jax.eval_shape(partial(unroll.start, task, optimizer), theta, 1, jax.random.key(0))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(inner))


def _chunks(runs: int, devices: int, most: int) -> tuple[int, int]:
    """(runs with padding, runs a device advances together): equal chunks of at most `most` runs on every device."""
    each = -(-runs // devices)
    rounds = -(-each // most)
    chunk = -(-each // rounds)
    return chunk * rounds * devices, chunk
