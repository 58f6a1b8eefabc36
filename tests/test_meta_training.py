"""Every estimator can train every architecture: the meta-loss on quadratics falls."""

import inspect
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

from metaopt.estimators import ESTIMATORS
from metaopt.optimizers import OPTIMIZERS
from metaopt.tasks.quadratic import quadratic
from metaopt.types import LearnedOptimizer
from metaopt.unroll import start, unroll
from tests.estimators.problems import quick_jit

TASK, LENGTH, OUTER_STEPS = quadratic(dim=3), 10, 30
SMALL = {  # networks that are large by default: a hundred evaluations by ES say little about 46,000 numbers
    "velo": {"lstm_hidden": 8, "bank": 4, "step_mult": 10.0},  # steps are relative to params, which start near zero
    "celo": {"lstm_hidden": 8, "hidden": 16, "step_mult": 1.0},
    "celo_adam": {"lstm_hidden": 8},
    "nn_adam": {"lstm_hidden": 8},
    "rnn_mlp": {"lstm_hidden": 8, "hidden": 8},
    "mlp": {"hidden": 8},
    "celo2": {"vectors": "mlp"},  # a quadratic has a vector, which by default is Adam's
    "l2l_lstm": {"hidden": 8},
    "rnnprop": {"hidden": 8},
    "component_gru": {"hidden": 8},
}


class Case(NamedTuple):
    optimizer: LearnedOptimizer
    mean_loss: Any  # theta -> mean normalised loss over whole runs, the same for every theta, compiled


@cache
def case(architecture: str) -> Case:
    optimizer = OPTIMIZERS[architecture](**SMALL.get(architecture, {}))

    def one(theta, key):
        inner, losses = unroll(TASK, optimizer, theta, start(TASK, optimizer, theta, LENGTH, key), TASK.data(), LENGTH)
        return jnp.mean(TASK.normalize(inner.cfg, losses))

    keys = jax.random.split(jax.random.key(1), 32)
    return Case(optimizer, quick_jit(lambda theta: jnp.mean(jax.vmap(one, (None, 0))(theta, keys))))


QUICK = [("l2l_lstm", "tbptt"), ("mlp", "pes"), ("adafac_mlp", "nres"), ("star", "combined"), ("hyper", "full_grad")]


def pairs():
    """Every pair of the registries. All but a few are slow: the contracts of either registry are run on all entries."""
    for architecture in OPTIMIZERS:
        for estimator in ESTIMATORS:
            if architecture != "mup":  # on a vector mup is its base
                quick = (architecture, estimator) in QUICK
                yield pytest.param(architecture, estimator, marks=[] if quick else [pytest.mark.slow])


@pytest.mark.parametrize("architecture, estimator", list(pairs()))
def test_meta_loss_falls(architecture, estimator):
    optimizer, mean_loss = case(architecture)
    known = inspect.signature(ESTIMATORS[estimator]).parameters
    given = {"num_tasks": 16, "truncation": LENGTH // 2, "horizon": LENGTH, "std": 0.03}
    trained = ESTIMATORS[estimator](TASK, optimizer, **{k: v for k, v in given.items() if k in known})
    outer, data = optax.adam(0.01), TASK.data()

    @quick_jit
    def train(theta, key):
        def step(carry, key):
            theta, outer_state, state = carry
            grad, state, _ = trained.estimate(theta, state, data, key)
            updates, outer_state = outer.update(grad, outer_state)
            return (optax.apply_updates(theta, updates), outer_state, state), None

        carry = (theta, outer.init(theta), trained.init(theta, key))
        return jax.lax.scan(step, carry, jax.random.split(key, OUTER_STEPS))[0][0]

    theta = optimizer.init(jax.random.key(0))
    assert mean_loss(train(theta, jax.random.key(2))) < mean_loss(theta)
