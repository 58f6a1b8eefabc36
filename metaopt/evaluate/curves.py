"""Loss curves: whole inner runs of a task, for many candidates (values of theta) and seeds at once.

A seed decides the member of the family, its initial parameters and its batches, and nothing else does: every optimizer
meets the same problems, so comparisons are paired. All candidates and seeds of a (task, optimizer) pair are one
compilation; the runs are spread over the local devices and cut into chunks that bound the memory.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from metaopt import runtime, unroll
from metaopt.types import Inner, LearnedOptimizer, PyTree, Task

STREAM = 0x6576616C  # evaluation draws from its own stream of keys: no seed repeats the runs of meta-training
NO_OPTIMIZER = LearnedOptimizer(lambda key: (), lambda theta, num_steps: optax.identity())
# Parameters and optimizer state of the runs that a device advances at the same time. On a CPU they and the activations
# stay in a core's cache: 1,000 runs of a classifier side by side take twice as long as six at a time.
CHUNK_BYTES = {"cpu": 2**17}
CHUNK_BYTES_ELSEWHERE = 2**28
VALID_BATCHES = 8  # a validation loss is the mean over as many batches, the same ones all through a run
VALID_KEY = 2**31 - 1  # what the inner loop never folds into a run's key

Measure = Callable[[PyTree, jax.Array, jax.Array], PyTree]
# (cfg, training losses [steps], validation losses [checks]) -> what to keep of a run


class Runner(NamedTuple):
    """run(thetas [candidates, ...]) -> what is measured of every run [candidates, seeds, ...], in numpy; it compiles
    once for a number of candidates. compile(thetas) does that alone; what it returns then runs them: () -> the same."""

    run: Callable[[PyTree], PyTree]
    compile: Callable[[PyTree], Callable[[], PyTree]]


class Problems(NamedTuple):
    """A task ready to run: one inner run at its start for each seed, and the data, both on every local device."""

    task: Task
    starts: Inner  # leading axis [seeds]; no optimizer state yet
    data: PyTree
    steps: int
    seeds: int


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
    return make_runner(prepare(task, data, steps=steps, seeds=seeds), optimizer, split=split).run(thetas)


def prepare(task: Task, data: PyTree, *, steps: int, seeds: int) -> Problems:
    """Draws the members and initial parameters that every optimizer starts from, and places the data, once."""
    everywhere = NamedSharding(local_mesh(), P())

    def start(seed: jax.Array) -> Inner:
        key = jax.random.fold_in(jax.random.key(STREAM), seed)
        return unroll.start(task, NO_OPTIMIZER, (), steps, key)

    starts = jax.jit(lambda x: jax.lax.map(start, x), out_shardings=everywhere, compiler_options=runtime.effort(0))
    return Problems(task, starts(np.arange(seeds)), jax.device_put(data, everywhere), steps, seeds)


def make_runner(
    problems: Problems,
    optimizer: LearnedOptimizer,
    *,
    split: str = "train",
    checks: int = 0,
    told: int | None = None,
    measure: Measure = lambda cfg, losses, valid: losses,
) -> Runner:
    """Whole runs of an optimizer.

    split: of the batches that are trained on
    checks: validation losses, on `outer_valid` and without updates, at as many equal distances; a divisor of the steps
    told: the horizon that the optimizer is told; None: the true one
    """
    mesh, seeds = local_mesh(), problems.seeds
    run = partial(_run, problems, optimizer, split, checks, told, measure)

    @partial(jax.jit, static_argnums=4, compiler_options=runtime.effort(1))
    def program(thetas: PyTree, seed: jax.Array, starts: Inner, data: PyTree, chunk: int) -> PyTree:
        def shard(thetas: PyTree, seed: jax.Array, starts: Inner, data: PyTree) -> PyTree:
            return jax.lax.map(lambda x: run(x[0], x[1], starts, data), (thetas, seed), batch_size=chunk)

        specs = (P("runs"), P("runs"), P(), P())
        # check_vma: an inner run starts from constants, which the check takes for values that all devices share
        sharded = jax.shard_map(shard, mesh=mesh, in_specs=specs, out_specs=P("runs"), check_vma=False)
        return sharded(thetas, seed, starts, data)

    def arguments(thetas: PyTree) -> tuple[PyTree, ...]:
        runs = len(jax.tree.leaves(thetas)[0]) * seeds
        most = CHUNK_BYTES.get(jax.default_backend(), CHUNK_BYTES_ELSEWHERE) // _run_bytes(problems, optimizer, thetas)
        padded, chunk = _chunks(runs, mesh.size, max(1, most))
        index = np.arange(padded) % runs  # padding repeats runs, so that every device and chunk has equally many
        thetas = jax.tree.map(lambda x: np.asarray(x)[index // seeds], thetas)
        return thetas, index % seeds, problems.starts, problems.data, chunk

    def gathered(out: PyTree, thetas: PyTree) -> PyTree:
        candidates = len(jax.tree.leaves(thetas)[0])
        return jax.tree.map(lambda x: np.asarray(x)[: candidates * seeds].reshape(candidates, seeds, *x.shape[1:]), out)

    def compile_only(thetas: PyTree) -> Callable[[], PyTree]:
        *given, chunk = arguments(thetas)
        ready = program.lower(*given, chunk).compile()
        return lambda: gathered(ready(*given), thetas)

    return Runner(lambda thetas: gathered(program(*arguments(thetas)), thetas), compile_only)


def _run(
    problems: Problems,
    optimizer: LearnedOptimizer,
    split: str,
    checks: int,
    told: int | None,
    measure: Measure,
    theta: PyTree,
    seed: jax.Array,
    starts: Inner,
    data: PyTree,
) -> PyTree:
    """One whole run."""
    task, steps = problems.task, problems.steps
    inner = jax.tree.map(lambda x: x[seed], starts)
    inner = inner._replace(horizon=jnp.int32(told or steps))
    inner = inner._replace(opt_state=unroll.transformation(task, optimizer, theta, inner.horizon).init(inner.params))

    def piece(inner: Inner, _: None) -> tuple[Inner, tuple[jax.Array, jax.Array]]:
        inner, losses = unroll.unroll(task, optimizer, theta, inner, data, steps // max(1, checks), split)
        return inner, (losses, _validation(task, inner, data) if checks else losses[:0])

    inner, (losses, valid) = jax.lax.scan(piece, inner, None, max(1, checks))
    return measure(inner.cfg, losses.reshape(-1), valid.reshape(-1))


def _validation(task: Task, inner: Inner, data: PyTree) -> jax.Array:
    """Mean loss over VALID_BATCHES batches of `outer_valid`."""

    def loss(i: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(inner.key, VALID_KEY), i)
        batch = task.batch(inner.cfg, data, key, "outer_valid")
        return task.loss(inner.cfg, inner.params, batch, key)[0].astype(jnp.float32)

    return jax.lax.map(loss, jnp.arange(VALID_BATCHES)).mean()


def local_mesh() -> Mesh:
    """One axis, `runs`, over the devices of this process."""
    return Mesh(np.array(jax.local_devices()), ("runs",))


def state_bytes(problems: Problems, optimizer: LearnedOptimizer, thetas: PyTree) -> int:
    """Bytes of the optimizer state of one inner run; thetas have leading axes [candidates]."""
    params, theta = (_shapes(x) for x in (problems.starts.params, thetas))
    return _bytes(
        jax.eval_shape(lambda theta, params: optimizer.build(theta, problems.steps).init(params), theta, params)
    )


def _run_bytes(problems: Problems, optimizer: LearnedOptimizer, thetas: PyTree) -> int:
    """Bytes of the parameters, the gradients that are kept, and the optimizer state of one inner run."""
    params = _bytes(_shapes(problems.starts.params))
    return (1 + problems.task.delay) * params + state_bytes(problems, optimizer, thetas) or 1


def _shapes(batched: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batched)


def _bytes(tree: PyTree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _chunks(runs: int, devices: int, most: int) -> tuple[int, int]:
    """(runs with padding, runs a device advances together): equal chunks of at most `most` runs on every device."""
    each = -(-runs // devices)
    rounds = -(-each // most)
    chunk = -(-each // rounds)
    return chunk * rounds * devices, chunk
