"""A small noisy quadratic family and hand-made optimizers, so that evaluation is tested on its own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metaopt.data import DataError
from metaopt.evaluate import curves, spaces
from metaopt.evaluate.baselines import REFERENCE, USUAL
from metaopt.evaluate.results import results
from metaopt.evaluate.suite import Contender, Problem, compare
from metaopt.evaluate.trials import Cache
from metaopt.types import LearnedOptimizer, Task

DIMENSION = 4
RATES = spaces.values("learning_rate", 14)["learning_rate"]


def quadratic(noise: float = 0.1, missing: bool = False) -> Task:
    """loss = 0.5 mean(a (x - b - noise batch)^2), a and b drawn per member; batches are rows of `data`."""

    def sample(key):
        return {
            "a": jax.random.uniform(key, (DIMENSION,), minval=0.5, maxval=2.0),
            "b": jax.random.normal(key, (DIMENSION,)),
        }

    def data():
        if missing:
            raise DataError("no such data here: get it")
        rows = jax.random.normal(jax.random.key(0), (32, DIMENSION))
        return {"train": {"x": rows}, "outer_valid": {"x": -rows}}

    def batch(cfg, data, key, split):
        return data[split]["x"][jax.random.randint(key, (), 0, 32)]

    def loss(cfg, params, batch, key):
        return 0.5 * jnp.mean(cfg["a"] * (params - cfg["b"] - noise * batch) ** 2), {}

    return Task(
        sample=sample,
        init=lambda cfg, key: 3 + jax.random.normal(key, (DIMENSION,)),
        batch=batch,
        loss=loss,
        normalize=lambda cfg, loss: jnp.nan_to_num(jnp.clip(loss / 5, 0, 2), nan=2.0),
        data=data,
    )


def hyper(base=optax.adam, rate: float = 1e-3) -> LearnedOptimizer:
    """An optax factory whose learning rate is theta, in log space."""
    return LearnedOptimizer(
        init=lambda key: {"learning_rate": jnp.log(jnp.float32(rate))},
        build=lambda theta, num_steps: optax.with_extra_args_support(base(jnp.exp(theta["learning_rate"]))),
    )


def thetas(rates):
    return {"learning_rate": np.log(np.asarray(rates, np.float32))}


def contender(name, base=optax.adam, rates=RATES):
    """A hand-designed one, tuned over these rates."""
    kind = "tuned" if len(rates) > 1 else "fixed"
    identity = {"optimizer": base.__name__, "rates": list(rates)}
    return Contender(name, kind, "", hyper(base), thetas(rates), {"learning_rate": np.asarray(rates)}, identity)


def evaluated(tmp_path, tasks, *entrants, steps, seeds=2, progress=lambda *x: None):
    """results of these and the two that are always there."""
    entrants = [*entrants, contender(USUAL, rates=[1e-3]), contender(REFERENCE)]
    several = [Problem(label, task, {"name": label}, steps) for label, task in tasks]
    found = compare(several, entrants, seeds=seeds, cache=Cache(tmp_path, None), progress=progress)
    return results(found, several, entrants)


def of(result, name, key, task=None):
    return [row[key] for row in result["rows"] if row["optimizer"] == name and task in (None, row["task"])]


def python_loop(task, base):
    """(rate, seed, steps) -> the losses of the same run as in `run_curves`, one step at a time, with optax alone.

    For a task without noise: which keys the inner loop gives to batches is its own business, and tested there.
    """
    batch = jnp.zeros(DIMENSION)

    @jax.jit
    def step(rate, cfg, params, state):
        (loss, _), grads = jax.value_and_grad(task.loss, 1, has_aux=True)(cfg, params, batch, None)
        updates, state = base(rate).update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    def loop(rate, seed, steps):
        cfg_key, init_key, _ = jax.random.split(jax.random.fold_in(jax.random.key(curves.STREAM), seed), 3)
        cfg = task.sample(cfg_key)
        params, losses = task.init(cfg, init_key), []
        state = base(rate).init(params)
        for _ in range(steps):
            params, state, loss = step(rate, cfg, params, state)
            losses.append(float(loss))
        return losses

    return loop
