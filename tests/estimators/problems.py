"""Toy problems whose meta-gradients are known exactly, and what their estimates are compared with.

A problem is a task with an 'optimizer' that is an inner dynamics: theta drives the inner parameters as it likes.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metaopt.types import Inner, LearnedOptimizer, Task

# These programs take longer to compile than to run.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Problem(NamedTuple):
    task: Task
    optimizer: LearnedOptimizer
    theta: object  # where the gradient is taken


def make_task(init: Callable, loss: Callable) -> Task:
    """A task without members, data and normalisation: init() -> params, loss(params)."""
    return Task(
        sample=lambda key: (),
        init=lambda cfg, key: init(),
        batch=lambda cfg, data, key, split: (),
        loss=lambda cfg, params, batch, key: (loss(params), ()),
        normalize=lambda cfg, loss: loss,
        data=dict,
    )


def dynamics(step: Callable, theta: object) -> LearnedOptimizer:
    """The 'optimizer' that moves params to step(theta, params)."""

    def build(theta, num_steps):
        def update(grads, state, params, **extra):
            return jax.tree.map(lambda new, old: new - old, step(theta, params), params), state

        return optax.GradientTransformationExtraArgs(lambda params: (), update)

    return LearnedOptimizer(lambda key: theta, build)


def bowl() -> Problem:
    """theta [3] becomes the params at the first step; loss x'Hx / 2 + b'x, so the meta-loss is quadratic too.

    H and b are of one scale, and no entry of the gradient is small.
    """
    h, b = jnp.array([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 0.5]]), jnp.array([1.0, -2.0, 0.7])
    theta = jnp.array([0.5, -1.0, 1.5])
    task = make_task(lambda: jnp.zeros(3), lambda x: 0.5 * x @ h @ x + b @ x)
    return Problem(task, dynamics(lambda theta, x: theta, theta), theta)


def influence_balancing(size: int = 23, positive: int = 10) -> Problem:
    """x <- A x + theta (1, ..., 1, -1, ..., -1) with A_ii = A_i,i+1 = 1/2 (Tallec & Ollivier 2017, section 4).

    The loss (x_0 - 1)^2 / 2 sees the first coordinate: pushed up by theta at once, down by 6 theta after some 50 steps.
    """
    signs = jnp.where(jnp.arange(size) < positive, 1.0, -1.0)

    def step(theta, x):
        return 0.5 * (x + jnp.append(x[1:], jnp.zeros(1))) + theta * signs

    theta = jnp.float32(0.5)
    return Problem(make_task(lambda: jnp.zeros(size), lambda x: 0.5 * (x[0] - 1.0) ** 2), dynamics(step, theta), theta)


def early_matters(early: int = 4) -> Problem:
    """theta becomes x at the first step and never again. The first steps want x at -1, all later ones want it at 3."""

    def step(theta, params):
        return {"x": jnp.where(params["t"] == 0, theta, params["x"]), "t": params["t"] + 1}

    def loss(params):
        return 0.5 * (params["x"] - jnp.where(params["t"] < early, -1.0, 3.0)) ** 2

    theta = jnp.float32(0.5)
    return Problem(make_task(lambda: {"x": jnp.zeros(()), "t": jnp.zeros(())}, loss), dynamics(step, theta), theta)


def momentum() -> Problem:
    """A nonlinear, stochastic one, of any float type: SGD with momentum on a quartic with members, batches and noise.

    theta: log learning rate, logit of the decay, and the learned initial velocity, which lives in the state.
    """

    def sample(key):
        return {"a": jax.random.uniform(key, (3,), minval=0.5, maxval=2.0)}

    def batch(cfg, data, key, split):
        return data[split][jax.random.bits(key) % 8]

    def loss(cfg, x, batch, key):
        error = x - batch - 0.1 * jax.random.uniform(key, (3,))
        return jnp.mean(cfg["a"] * error**2 + 0.1 * error**4), ()

    def build(theta, num_steps):
        rate, decay = jnp.exp(theta["rate"]) * (1 + 1 / num_steps), jax.nn.sigmoid(theta["decay"])

        def update(grads, velocity, params, **extra):
            velocity = decay * velocity - rate * grads
            return velocity, velocity

        return optax.GradientTransformationExtraArgs(lambda params: theta["start"] * jnp.ones_like(params), update)

    rows = np.random.default_rng(0).standard_normal((8, 3))
    theta = {"rate": jnp.float32(np.log(0.1)), "decay": jnp.float32(0.0), "start": jnp.float32(0.2)}
    task = Task(
        sample=sample,
        init=lambda cfg, key: 4.0 * jax.random.uniform(key, (3,)),
        batch=batch,
        loss=loss,
        normalize=lambda cfg, loss: jnp.clip(jnp.nan_to_num(loss, nan=jnp.inf) / cfg["a"].sum(), max=10.0),
        data=lambda: {"train": jnp.asarray(rows)},
    )
    return Problem(task, LearnedOptimizer(lambda key: theta, build), theta)


def scattered() -> Problem:
    """Runs that differ in where they start, and nothing else that is random: SGD on a bowl, theta its log rate."""
    task = make_task(lambda: (), lambda x: jnp.sum(x**2))
    task = task._replace(init=lambda cfg, key: jax.random.uniform(key, (3,)))
    theta = jnp.asarray(np.log(0.1))
    return Problem(task, dynamics(lambda theta, x: x - jnp.exp(theta) * 2 * x, theta), theta)


def whole_run_loss(problem: Problem, theta: object, run: Inner, data: object, steps: int) -> jax.Array:
    """Mean normalised loss over the first `steps` steps of a fresh run, as the documentation has it."""
    task, tx = problem.task, problem.optimizer.build(theta, run.horizon)

    def step(carry, t):
        params, state = carry
        batch = task.batch(run.cfg, data, jax.random.fold_in(run.key, 2 * t), "train")
        noise_key = jax.random.fold_in(run.key, 2 * t + 1)
        loss, grads = jax.value_and_grad(lambda params: task.loss(run.cfg, params, batch, noise_key)[0])(params)
        updates, state = tx.update(grads, state, params, value=loss)
        return (optax.apply_updates(params, updates), state), task.normalize(run.cfg, loss)

    _, losses = jax.lax.scan(step, (run.params, tx.init(run.params)), jnp.arange(steps))
    return losses.mean()


def truncation_losses(problem: Problem, thetas: jax.Array, truncation: int, final: bool = False) -> jax.Array:
    """Shares of the outer loss `mean` (or `final`) of each truncation [n] of a run under one scalar theta a truncation,
    thetas [n]; for `dynamics`."""

    def step(params, theta):
        tx = problem.optimizer.build(theta, None)
        updates, _ = tx.update(params, tx.init(params), params)
        return optax.apply_updates(params, updates), problem.task.loss((), params, (), None)[0]

    end, losses = jax.lax.scan(step, problem.task.init((), None), jnp.repeat(thetas, truncation))
    if final:
        at = jnp.append(losses[::truncation], problem.task.loss((), end, (), None)[0])
        return len(thetas) * jnp.diff(at)
    return losses.reshape(-1, truncation).mean(1)


def pes_variance(influence: np.ndarray, noises: np.ndarray | None = None, analytic: bool = False) -> float:
    """Variance of the mean estimate of (generalised) PES over one cycle of n truncations of one task in steady state,
    exactly.

    influence[k, j]: derivative of truncation k's share by the theta of truncation j, of a run whose shares are
    quadratic in them. noises[k]: which draw of the noise truncation k feels; each its own by default. With z the draws
    over std, c[k, i] = 1 for those felt until truncation k, and b[k, i] the derivative by draw i, (L+ - L-) / 2 is
    std b z exactly, and

        sum_k g_k = sum_k (c_k z) (b_k z) = z'Sz,    Var = 2 tr(S^2),   S symmetric

    `analytic` takes what a truncation does to itself out of b. A task at age m sees the truncations m to n of one run
    and the first m of the next, which is independent; all ages are equally frequent.
    """
    n = len(influence)
    draws = np.eye(n)[np.arange(n) if noises is None else noises]
    felt = np.maximum.accumulate(draws, axis=0)
    by_draw = (influence - np.diag(np.diag(influence)) if analytic else influence) @ draws

    def piece(start, end):
        s = felt[start:end].T @ by_draw[start:end] / n
        s = (s + s.T) / 2
        return 2 * np.sum(s * s)

    return float(np.mean([piece(m, n) + piece(0, m) for m in range(n)]))


def runs_in(state: object) -> list[Inner]:
    """The inner runs that an estimator's state carries."""
    leaves = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, Inner))
    return [x for x in leaves if isinstance(x, Inner)]
