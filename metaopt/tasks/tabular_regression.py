"""Regression on a table of real numbers by a fully connected network.

loss = mean over the minibatch of (mlp(x) - y)^2 / variance of y over the train split

0 is a perfect fit, 1 as good as the mean; on noisy tables such as diabetes a good model is near 0.5, and below that it
overfits. TaskSet (arXiv 2002.11887) has such losses by its `mlp_ae_family` only.
"""

import math
from typing import Literal

import jax.numpy as jnp
import numpy as np

from metaopt import data
from metaopt.tasks import _nets
from metaopt.types import Task


def tabular_regression(
    dataset: str = "diabetes",
    hidden: tuple[int, ...] = (32,),
    activation: Literal["relu", "tanh", "gelu", "silu", "sigmoid", "elu", "leaky_relu", "cos"] = "relu",
    batch_size: int = 32,
    init_scale: float | tuple[float, float] = (0.1, 1.0),
) -> Task:
    """Least squares of `dataset` by a fully connected network; members differ in their initial weights and their scale.

    dataset: a name in DATASETS, tfds:NAME or user:NAME; of the kind regression
    hidden: widths of the hidden layers; none is linear regression
    activation: between layers, none after the last
    batch_size: rows of a minibatch, drawn with replacement
    init_scale: factor on the initial weights (see `_nets.mlp_init`), or the two ends of a log-uniform range

    Normalised loss = loss, bounded: 1 is as good as the mean of y.
    Raises ValueError for an unknown activation; `init` and `data` raise DataError where the machine lacks the data.
    """
    act = _nets.activation_fn(activation)

    def sample(key):
        return {"init_scale": _nets.sample_scale(key, init_scale)}

    def init(cfg, key):
        features = math.prod(data.load(dataset, "regression")["train"]["x"].shape[1:])
        return _nets.mlp_init(key, (features, *hidden, 1), cfg["init_scale"])

    def batch(cfg, arrays, key, split):
        return _nets.minibatch(arrays[split], key, batch_size)

    def loss(cfg, params, batch, key):
        return jnp.mean(jnp.square(_nets.mlp(params, batch["x"], act)[:, 0] - batch["y"])), {}

    def normalize(cfg, loss):
        return _nets.bounded(loss)

    def arrays():
        splits = data.load(dataset, "regression")
        mean, std = np.mean(splits["train"]["y"]), np.std(splits["train"]["y"])
        return {n: {"x": p["x"].reshape(len(p["x"]), -1), "y": (p["y"] - mean) / std} for n, p in splits.items()}

    return Task(sample, init, batch, loss, normalize, arrays)
