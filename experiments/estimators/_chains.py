"""Gradients of an estimator at a fixed theta, compiled, and how long they take beside those of the others."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from _problems import Problem, Row, build
from jax.flatten_util import ravel_pytree

from metaopt import sharding
from metaopt.types import Estimator, PyTree
from metaopt.unroll import start, unroll


class Chain(NamedTuple):
    """A compiled repetition: (theta, data, key) -> gradients [count, theta], of estimates that follow one another."""

    run: Callable[[PyTree, PyTree, jax.Array], jax.Array]
    burn: int  # estimates before these, which the run time has in it
    steps: int  # of each task in all, burn-in included


def chain(problem: Problem, estimator: Estimator, data: PyTree, whole: bool, cycles: int) -> Chain:
    """Estimates over `cycles` runs of a task. One that carries runs from estimate to estimate does so for a cycle
    before, in which the first runs, all started together, are replaced one after another: so the rest covers all ages
    of real runs."""
    cycle, length = (1, problem.horizon) if whole else (problem.cycle, problem.truncation)
    burn = 0 if whole else cycle
    count = burn + cycles * cycle

    def run(theta: PyTree, data: PyTree, key: jax.Array) -> jax.Array:
        init_key, key = jax.random.split(key)

        def step(state: PyTree, key: jax.Array) -> tuple[PyTree, jax.Array]:
            grad, state, _ = estimator.estimate(theta, state, data, key)
            return state, ravel_pytree(grad)[0]

        _, grads = jax.lax.scan(step, estimator.init(theta, init_key), jax.random.split(key, count))
        return grads[burn:]

    compiled = jax.jit(run).lower(problem.theta, data, jax.random.key(0)).compile()
    return Chain(compiled, burn, count * length)


def plain(problem: Problem) -> Estimator:
    """The unit of compute: whole runs that nobody perturbs or differentiates; their mean loss for a gradient."""
    task, optimizer, n, horizon = problem.task, problem.optimizer, problem.num_tasks, problem.horizon

    def local(theta: PyTree, data: PyTree, keys: jax.Array) -> jax.Array:
        def one(key: jax.Array) -> jax.Array:
            return unroll(task, optimizer, theta, start(task, optimizer, theta, horizon, key), data, horizon)[1].mean()

        return sharding.mean(jax.vmap(one)(keys))

    mapped = sharding.over_runs(local, n, (False, False, True), False)

    def estimate(theta: PyTree, state: PyTree, data: PyTree, key: jax.Array) -> tuple:
        return mapped(theta, data, jax.random.split(key, n)), state, {}

    return Estimator(lambda theta, key: (), estimate, n * horizon)


def compile_all(problem: Problem, rows: dict[str, Row], data: PyTree) -> dict[str, Chain]:
    """A chain for each row, and "plain". Two compile at a time."""

    def one(item: tuple[str, Row]) -> tuple[str, Chain]:
        name, row = item
        cycles = 1 if row.backward else problem.cycles
        return name, chain(problem, build(row, problem), data, row.whole, cycles)

    with ThreadPoolExecutor(2) as pool:
        unit = pool.submit(chain, problem, plain(problem), data, True, problem.cycles)
        return {**dict(pool.map(one, rows.items())), "plain": unit.result()}


def repetitions(
    problem: Problem, chains: dict[str, Chain], data: PyTree, count: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """-> gradients [count, estimates, theta] of each chain, from independent keys, and seconds of a task's step
    [count]. The chains take turns, so that whatever else the machine does meets them all."""
    keys = {name: jax.random.split(key, count) for name, key in zip(chains, _keys(1, len(chains)), strict=True)}
    grads, seconds = ({name: [] for name in chains} for _ in range(2))
    for i in range(-1, count):  # the first one warms up
        for name, one in chains.items():
            began = time.perf_counter()
            grad = np.asarray(one.run(problem.theta, data, keys[name][i]), np.float64)
            if i >= 0:
                grads[name].append(grad)
                seconds[name].append((time.perf_counter() - began) / one.steps / problem.num_tasks)
    return tuple({name: np.array(x) for name, x in both.items()} for both in (grads, seconds))


def references(problem: Problem, one: Chain, data: PyTree, count: int) -> np.ndarray:
    """[count, 2, theta]: the exact gradient at theta and that of the smoothed loss, E[gradient at theta + eps], from
    the same runs: their difference is the smoothing alone.

    Each repetition draws one eps and takes the mean over theta + eps and theta - eps.
    """

    def at(theta: PyTree, key: jax.Array) -> np.ndarray:
        return np.asarray(one.run(theta, data, key), np.float64).mean(0)

    flat, unravel = ravel_pytree(problem.theta)
    pairs = []
    for key in _keys(2, count):
        noise_key, run_key = jax.random.split(key)
        noise = problem.std * jax.random.normal(noise_key, flat.shape)
        smooth = (at(unravel(flat + noise), run_key) + at(unravel(flat - noise), run_key)) / 2
        pairs.append((at(problem.theta, run_key), smooth))
    return np.array(pairs)


def _keys(seed: int, count: int) -> jax.Array:
    return jax.random.split(jax.random.key(seed), count)
