"""An autoencoder of a small data set: regression with a bottleneck, a family whose losses behave unlike cross-entropy.

loss = mean over minibatch and features of (mlp(x) - x)^2,   x centred by feature and divided by one common deviation

so that the loss is relative to the variance of the data: 1 is as good as predicting the mean, and 2 is expected of a
fresh model, whose output varies as much as x and has nothing to do with it. Hinton & Salakhutdinov 2006, "Reducing the
dimensionality of data with neural networks"; TaskSet's `mlp_ae_family`, arXiv 2002.11887.
"""

import math
from typing import Literal

import jax.numpy as jnp
import numpy as np

from metaopt import data
from metaopt.tasks import _nets
from metaopt.types import Task

FRESH = 2.0  # loss of a fresh model: the variances of the target and of the output
STATISTICS_ROWS = 5_000  # of the (shuffled) train split: enough for mean and variance, and no float copy of a large set


def image_autoencoder(
    dataset: str = "digits",
    hidden: tuple[int, ...] = (32, 8, 32),
    activation: Literal["relu", "tanh", "gelu", "silu", "sigmoid"] = "relu",
    batch_size: int = 64,
    init_scale: float | tuple[float, float] = 1.0,
) -> Task:
    """Autoencoder of `dataset` with hidden layers of the given widths; members differ in their initial weights.

    dataset: a name in DATASETS, tfds:NAME or user:NAME; images are flattened
    hidden: widths of all hidden layers, the bottleneck among them
    activation: between layers; none after the last
    batch_size: rows of a minibatch, drawn with replacement
    init_scale: factor on the initial weights (see `_nets.mlp_init`), or the two ends of a log-uniform range

    Normalised loss = loss / 2, bounded: 1 is a fresh model (of ReLUs, at scale 1), 1/2 as good as predicting the mean.
    Raises ValueError for an unknown activation; `init` and `data` raise DataError where the machine lacks the data.
    """
    act = _nets.activation_fn(activation)

    def sample(key):
        return {"init_scale": _nets.sample_scale(key, init_scale)}

    def init(cfg, key):
        features = math.prod(data.load(dataset)["train"]["x"].shape[1:])
        return _nets.mlp_init(key, (features, *hidden, features), cfg["init_scale"])

    def batch(cfg, arrays, key, split):
        part = arrays[split]
        x = _nets.minibatch({"x": part["x"]}, key, batch_size)["x"]
        return {"x": (x - part["mean"][None, :]) / part["std"]}

    def loss(cfg, params, batch, key):
        return jnp.mean(jnp.square(_nets.mlp(params, batch["x"], act) - batch["x"])), {}

    def normalize(cfg, loss):
        return _nets.bounded(loss / FRESH)

    def arrays():
        splits = {name: part["x"].reshape(len(part["x"]), -1) for name, part in data.load(dataset).items()}
        rows = splits["train"][:STATISTICS_ROWS]
        rows = rows.astype(np.float32) / (255 if rows.dtype == np.uint8 else 1)
        statistics = {"mean": rows.mean(axis=0), "std": np.sqrt(rows.var(axis=0).mean())}
        return {name: {"x": x, **statistics} for name, x in splits.items()}

    return Task(sample, init, batch, loss, normalize, arrays)
