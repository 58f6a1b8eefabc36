"""A small noisy quadratic family and hand-made optimizers, so that evaluation is tested on its own."""

import jax
import jax.numpy as jnp
import optax

from metaopt.data import DataError
from metaopt.types import LearnedOptimizer, Task

DIMENSION = 4


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
