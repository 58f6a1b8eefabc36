"""Logistic regression on random halves of the classes: as many convex problems as there are ways to split them.

loss = mean over the minibatch of log(1 + exp(-t (w . x + b))) + (l2 / 2) ||w||^2,    t = 1 for the classes of one half
of the member's random split, -1 for the others

L2-regularised logistic regression is a standard problem of Li & Malik 2016, "Learning to optimize", arXiv 1606.01885.
"""

import math

import jax
import jax.numpy as jnp

from metaopt import data
from metaopt.tasks import _nets
from metaopt.types import Task


def logistic_regression(
    dataset: str = "digits",
    l2: float | tuple[float, float] = (1e-5, 1e-2),
    batch_size: int = 64,
    init_scale: float | tuple[float, float] = 1.0,
) -> Task:
    """Linear classifier of two halves of `dataset`; members differ in the split, in l2 and in their initial weights.

    dataset: a name in DATASETS, tfds:NAME or user:NAME; images are flattened, so tables serve as well
    l2: weight of the squared norm, or the two ends of a log-uniform range
    batch_size: rows of a minibatch, drawn with replacement
    init_scale: factor on the initial weights ~ N(0, 1 / features), or the two ends of a log-uniform range

    Normalised loss = loss / log 2, bounded: 1 is as good as a guess. aux = {"accuracy": of the minibatch}.
    `sample`, `init` and `data` raise DataError where the machine lacks the data.
    """

    def rows():
        splits = data.load(dataset, "classes")
        return {name: {"x": part["x"].reshape(len(part["x"]), -1), "y": part["y"]} for name, part in splits.items()}

    def sample(key):
        keys = jax.random.split(key, 3)
        classes = 1 + max(int(part["y"].max()) for part in data.load(dataset, "classes").values())
        order = jax.random.permutation(keys[0], classes)
        return {
            "sign": jnp.where(order < classes // 2, 1.0, -1.0),
            "l2": _nets.sample_scale(keys[1], l2),
            "init_scale": _nets.sample_scale(keys[2], init_scale),
        }

    def init(cfg, key):
        features = math.prod(data.load(dataset, "classes")["train"]["x"].shape[1:])
        w = cfg["init_scale"] / math.sqrt(features) * jax.random.normal(key, (features,), jnp.float32)
        return {"w": w, "b": jnp.zeros((), jnp.float32)}

    def batch(cfg, arrays, key, split):
        drawn = _nets.minibatch(arrays[split], key, batch_size)
        return {"x": drawn["x"], "t": jnp.asarray(cfg["sign"])[drawn["y"]]}

    def loss(cfg, params, batch, key):
        dtype = jnp.promote_types(params["w"].dtype, jnp.float32)
        margin = batch["t"] * (batch["x"].astype(params["w"].dtype) @ params["w"] + params["b"]).astype(dtype)
        penalty = cfg["l2"] / 2 * jnp.sum(jnp.square(params["w"].astype(dtype)))
        return jnp.mean(jax.nn.softplus(-margin)) + penalty, {"accuracy": jnp.mean(margin > 0)}

    def normalize(cfg, loss):
        return _nets.bounded(loss / math.log(2))

    return Task(sample, init, batch, loss, normalize, rows)
