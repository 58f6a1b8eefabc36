"""Families small enough for tests, and programs that compile fast."""

from functools import partial
from inspect import signature

import jax
import numpy as np

from metaopt.tasks import TASKS
from metaopt.types import Task

FAMILIES = [name for name, factory in TASKS.items() if "base" not in signature(factory).parameters]
WRAPPERS = [name for name in TASKS if name not in FAMILIES]

# Arguments of families whose default is larger than what a test of the contract needs: fewer of the same layers.
TINY: dict[str, dict] = {
    "image_vit": {"patch": 4},
    "image_mixer": {"patch": 4},
    "transformer_lm": {"length": 8},
    "rnn_lm": {"length": 8},
    "normalizing_flow": {"layers": 2},
    "two_moons": {"hidden": (16,)},
}

# These programs take longer to compile than to run. The second option exists in some versions of XLA only.
OPTIONS = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
try:
    jax.jit(lambda x: x, compiler_options=OPTIONS)(np.float32(0))
except Exception:
    OPTIONS.pop("xla_cpu_use_fusion_emitters")
fast_jit = partial(jax.jit, compiler_options=OPTIONS)


def tiny(name: str) -> Task:
    return TASKS[name](**TINY.get(name, {}))


def problem(task: Task, data, key):
    """One member of the family with its start and a minibatch: (cfg, params, batch)."""
    cfg_key, init_key, batch_key = jax.random.split(key, 3)
    cfg = task.sample(cfg_key)
    return cfg, task.init(cfg, init_key), task.batch(cfg, data, batch_key, "train")


def value_and_grad(task: Task, cfg, params, batch, key):
    (loss, _), grads = jax.value_and_grad(task.loss, argnums=1, has_aux=True)(cfg, params, batch, key)
    return loss, grads


def draw(task: Task, key):
    """(cfg, params, batch, data) of one member, in numpy; one program."""
    data = task.data()
    return *jax.tree.map(np.asarray, fast_jit(lambda data, key: problem(task, data, key))(data, key)), data


def evaluate(task: Task, cfg, params, batch, key):
    """(loss, aux, normalised loss), in numpy; one program."""

    @fast_jit
    def program(cfg, params, batch):
        loss, aux = task.loss(cfg, params, batch, key)
        return loss, aux, task.normalize(cfg, loss)

    return jax.tree.map(np.asarray, program(cfg, params, batch))
