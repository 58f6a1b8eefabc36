"""The inner loop: one run of a task under an optimizer. There is no other inner loop in the repository.

Everything is written for one run; callers `vmap`. Step t of a run draws its batch from `fold_in(run.key, 2t)` and its
noise from `fold_in(run.key, 2t + 1)`: an antithetic pair of runs that shares a key sees the same batches with no
bookkeeping.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metaopt import tree
from metaopt.types import Inner, LearnedOptimizer, PyTree, Task


def start(task: Task, optimizer: LearnedOptimizer, theta: PyTree, horizon: jax.Array | int, key: jax.Array) -> Inner:
    """A fresh run of a freshly sampled member of the family, `horizon` steps long."""
    cfg_key, init_key, run_key = jax.random.split(key, 3)
    cfg = task.sample(cfg_key)
    params = task.init(cfg, init_key)
    horizon = jnp.asarray(horizon, jnp.int32)
    opt_state = transformation(task, optimizer, theta, horizon).init(params)
    return Inner(cfg, params, opt_state, jnp.zeros((), jnp.int32), horizon, run_key)


def unroll(
    task: Task,
    optimizer: LearnedOptimizer,
    theta: PyTree,
    inner: Inner,
    data: PyTree,
    length: int,
    split: str = "train",
    *,
    first_order: bool = False,
    remat: bool = False,
    measure: Callable[[Inner, PyTree, PyTree, jax.Array], jax.Array] | None = None,
) -> tuple[Inner, jax.Array]:
    """Takes `length` steps; returns the run and the raw training losses [length], each measured BEFORE its update; or
    measure(inner, data, params, step) in their place, `inner` being the run as it began, without state.

    Beside the loss as `value`, `update` gets the gradient again, as `grad`, and `value_fn`, the loss of the same batch
    and noise as a function of the parameters, for what evaluates it elsewhere (line searches, Newton's method). Where
    the task has a delay both gradients are of an earlier step, and the loss, value and function, is of this one.

    A run at step 0 gets its optimizer state from this theta, so that learned initial states feel perturbations and
    pass gradients. With `first_order` what the problem tells the optimizer, gradient and loss, is a constant to
    whoever differentiates: theta then acts through the updates and the parameters alone (Andrychowicz et al. 2016,
    section 2: second derivatives of the problem are dropped). With `remat`, for whoever differentiates, only the states
    between steps are kept, and the gradient computes every step again: what a step stores is hundreds of times its
    state, and writing it takes longer.
    """
    tx = transformation(task, optimizer, theta, inner.horizon)
    opt_state = tree.where(inner.step == 0, tx.init(inner.params), inner.opt_state)
    first = (inner.params, opt_state, inner.step)
    fixed = (theta, inner._replace(params=None, opt_state=None), data)
    value_and_grad = jax.value_and_grad(task.loss, argnums=1, has_aux=True)

    def step(fixed, carry):
        (theta, *rest), (params, opt_state, t) = fixed, carry
        # Theta does not act through the member or the data, and not all that is made of them can be differentiated.
        run, data = jax.lax.stop_gradient(rest)
        tx = transformation(task, optimizer, theta, run.horizon)
        batch = task.batch(run.cfg, data, jax.random.fold_in(run.key, 2 * t), split)
        noise_key = jax.random.fold_in(run.key, 2 * t + 1)
        (loss, _), grads = value_and_grad(run.cfg, params, batch, noise_key)
        told, grads = jax.lax.stop_gradient((loss, grads)) if first_order else (loss, grads)

        def value_fn(p):
            return task.loss(run.cfg, p, batch, noise_key)[0]

        updates, opt_state = tx.update(grads, opt_state, params, value=told, grad=grads, value_fn=value_fn)
        value = loss if measure is None else measure(run, data, params, t)
        return (optax.apply_updates(params, updates), opt_state, t + 1), value

    step = _recomputed(step) if remat else step
    (params, opt_state, t), values = jax.lax.scan(lambda carry, _: step(fixed, carry), first, None, length)
    return inner._replace(params=params, opt_state=opt_state, step=t), values


def _recomputed(fn: Callable) -> Callable:
    """fn(*arguments), whose derivative keeps the arguments alone. `jax.checkpoint` does so too, but takes the way
    forward as its derivative would; here it stays as it is without one. What fn closes over is not differentiated."""

    @jax.custom_vjp
    def run(*arguments):
        return fn(*arguments)

    run.defvjp(lambda *arguments: (fn(*arguments), arguments), lambda arguments, d: jax.vjp(fn, *arguments)[1](d))
    return run


class Late(NamedTuple):
    """The state of an optimizer whose gradients are late."""

    grads: PyTree  # [delay, ...] in each leaf's dtype, the oldest first
    begun: jax.Array  # bool scalar: there is a first gradient
    base: PyTree


def transformation(
    task: Task, optimizer: LearnedOptimizer, theta: PyTree, horizon: jax.Array | int
) -> optax.GradientTransformationExtraArgs:
    """The optimizer as runs of the task have it: step t gets the gradient of step max(t - task.delay, 0)."""
    tx = optimizer.build(theta, horizon)
    if not task.delay:
        return tx

    def init(params: PyTree) -> Late:
        grads = jax.tree.map(lambda p: jnp.zeros((task.delay, *p.shape), p.dtype), params)
        return Late(grads, jnp.array(False), tx.init(params))

    def update(grads: PyTree, state: Late, params: PyTree, **extra) -> tuple[PyTree, Late]:
        def queue(kept: jax.Array, g: jax.Array) -> jax.Array:
            return jnp.concatenate([jnp.where(state.begun, kept, g[None]), g[None]])

        queues = jax.tree.map(queue, state.grads, grads)
        oldest, kept = (jax.tree.map(lambda q, part=part: q[part], queues) for part in (0, slice(1, None)))
        updates, base = tx.update(oldest, state.base, params, **{**extra, "grad": oldest})
        return updates, Late(kept, jnp.array(True), base)

    return optax.GradientTransformationExtraArgs(init, update)
