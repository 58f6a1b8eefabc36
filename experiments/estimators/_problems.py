"""The three problems, and the estimators that are compared on each of them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metaopt import weights
from metaopt.estimators import combined, es, final, full_grad, gpes, nres, pes, tbptt, truncated_es
from metaopt.optimizers import OPTIMIZERS
from metaopt.tasks import TASKS
from metaopt.types import Estimator, LearnedOptimizer, PyTree, Task

HERE = Path(__file__).parent


class Problem(NamedTuple):
    """A family and an optimizer for it, at one theta."""

    task: Task
    optimizer: LearnedOptimizer
    theta: PyTree
    horizon: int
    truncation: int
    period: int  # of gpes: steps between truncation and horizon
    num_tasks: int  # a multiple of horizon / truncation, so that a batch covers all ages equally
    std: float
    repetitions: int
    cycles: int  # of estimates without backpropagation, in each repetition; of the others, one

    @property
    def cycle(self) -> int:
        """Truncations of a run."""
        return self.horizon // self.truncation


class Row(NamedTuple):
    """An estimator as it is compared: `make(task, optimizer, num_tasks=, truncation=, horizon=, ...)`."""

    make: Callable[..., Estimator]
    perturbed: bool  # its mean is the gradient of a smoothed loss
    whole: bool = False  # an estimate is of a whole run
    backward: bool = False  # it differentiates
    final: bool = False  # its outer loss is the final loss; else the mean


ROWS = {
    "full_grad": Row(full_grad, False, whole=True, backward=True),
    "tbptt": Row(tbptt, False, backward=True),
    "tbptt, first order": Row(partial(tbptt, first_order=True), False, backward=True),
    "es": Row(es, True, whole=True),
    "truncated_es": Row(truncated_es, True),
    "pes": Row(pes, True),
    "pes, analytic": Row(partial(pes, analytic=True), True, backward=True),
    "gpes": Row(gpes, True),
    "nres": Row(nres, True),
    "combined": Row(combined, True, backward=True),
    "pes, final loss": Row(partial(pes, outer_loss=final()), True, final=True),
}
REFERENCES = {
    False: ROWS["full_grad"],
    True: Row(partial(full_grad, outer_loss=final()), False, whole=True, backward=True, final=True),
}


def build(row: Row, problem: Problem) -> Estimator:
    """The estimator of this row on this problem."""
    arguments = {"std": problem.std} if row.perturbed else {}
    if row is ROWS["gpes"]:
        arguments["period"] = problem.period
    return row.make(
        problem.task,
        problem.optimizer,
        num_tasks=problem.num_tasks,
        truncation=problem.truncation,
        horizon=problem.horizon,
        **arguments,
    )


def influence_balancing() -> Problem:
    """x <- A x + theta (1, ..., 1, -1, ..., -1) with A_ii = A_i,i+1 = 1/2 (Tallec & Ollivier 2017, arXiv 1705.08209).

    23 coordinates, 10 of them positive, x = 0 at first, theta = 0.5. The loss (x_0 - 1)^2 / 2 sees the first one:
    pushed up by theta at once, down by 6 theta after some 50 steps. Nothing is random, the loss is quadratic in theta.
    """
    signs = jnp.where(jnp.arange(23) < 10, 1.0, -1.0)

    def build(theta: PyTree, num_steps: jax.Array | int) -> optax.GradientTransformationExtraArgs:
        def update(grads, state, params, **extra):
            moved = 0.5 * (params + jnp.append(params[1:], jnp.zeros(1))) + theta * signs
            return moved - params, state

        return optax.GradientTransformationExtraArgs(lambda params: (), update)

    task = Task(
        sample=lambda key: (),
        init=lambda cfg, key: jnp.zeros(23),
        batch=lambda cfg, data, key, split: (),
        loss=lambda cfg, params, batch, key: (0.5 * (params[0] - 1.0) ** 2, ()),
        normalize=lambda cfg, loss: loss,
        data=dict,
    )
    optimizer = LearnedOptimizer(lambda key: jnp.float32(0.5), build)
    return Problem(task, optimizer, jnp.float32(0.5), 96, 8, 24, num_tasks=120, std=0.3, repetitions=64, cycles=2)


def learning_rate() -> Problem:
    """SGD on random quadratics in 10 dimensions; theta is the logarithm of its learning rate, 0.003."""
    optimizer = OPTIMIZERS["hyper"]("sgd", {"learning_rate": 0.003})
    theta = optimizer.init(jax.random.key(0))
    task = TASKS["quadratic"](dim=10)
    return Problem(task, optimizer, theta, 100, 10, 20, num_tasks=120, std=0.1, repetitions=64, cycles=2)


def small_mlp() -> Problem:
    """adafac_mlp on classifiers of digits, 64-16-10; theta is from theta.yaml, 197 numbers with training under way."""
    learned = weights.read(HERE / "theta.safetensors")
    task = TASKS["image_mlp"]("digits", hidden=(16,), batch_size=32)
    theta = learned.theta
    return Problem(task, learned.optimizer, theta, 50, 10, 20, num_tasks=10, std=0.03, repetitions=24, cycles=4)


PROBLEMS = {
    "influence balancing": influence_balancing,
    "quadratic, SGD": learning_rate,
    "digits MLP, adafac_mlp": small_mlp,
}
