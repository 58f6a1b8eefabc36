"""What the classifiers share: everything but the network.

loss = mean over the minibatch of [logsumexp(z) - z_label],   z = network(x)      (softmax cross-entropy)

Normalised loss = loss / log(classes), bounded: 1 is as good as a guess, 0 a certain and right answer.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metaopt import data
from metaopt.tasks import _nets
from metaopt.types import PyTree, Task

Range = float | tuple[float, float]


class Network(NamedTuple):
    """init(key, scale, shape of one input, classes) -> params; apply(cfg, params, x [batch, ...], classes) -> logits
    [batch, classes] in float32 at least; sample(key) -> what a member has beside the scale of its fresh weights."""

    init: Callable[[jax.Array, jax.Array, tuple[int, ...], int], PyTree]
    apply: Callable[[PyTree, PyTree, jax.Array, int], jax.Array]
    sample: Callable[[jax.Array], dict[str, jax.Array]] = lambda key: {}


def linen(module: Callable[[int], Any]) -> Network:
    """The network of a Flax module (linen) with the given number of outputs."""

    def init(key, scale, shape, classes):
        return _nets.linen_init(module(classes), key, scale, jax.ShapeDtypeStruct((1, *shape), jnp.float32))

    def apply(cfg, params, x, classes):
        return _nets.linen_apply(module(classes), params, x)

    return Network(init, apply)


def classifier(
    dataset: str, network: Network, batch_size: int, init_scale: Range, label_noise: Range = 0.0, images: bool = True
) -> Task:
    """A softmax classifier of `dataset` by `network`.

    images: rows are images [height, width, channels], and a data set of anything else is a ValueError; or flat vectors
    label_noise: fraction of the labels of train minibatches that are drawn anew from all classes, or its range
    """
    noisy = label_noise != 0.0

    def shape_and_classes():  # the data set is read once a process
        splits = data.load(dataset, "classes")
        classes = 1 + max(int(part["y"].max()) for part in splits.values())
        return row_shape(splits["train"]["x"].shape[1:], images, dataset), classes

    def sample(key):
        cfg = {"init_scale": _nets.sample_scale(key, init_scale), **network.sample(jax.random.fold_in(key, 1))}
        return {**cfg, "label_noise": _nets.uniform(jax.random.fold_in(key, 2), label_noise)} if noisy else cfg

    def init(cfg, key):
        return network.init(key, cfg["init_scale"], *shape_and_classes())

    def batch(cfg, arrays, key, split):
        rows = _nets.minibatch(arrays[split], key, batch_size)
        if noisy and split == "train":
            hit_key, label_key = jax.random.split(jax.random.fold_in(key, 1))
            hit = jax.random.uniform(hit_key, (batch_size,), jnp.float32) < cfg["label_noise"]
            drawn = jax.random.randint(label_key, (batch_size,), 0, shape_and_classes()[1], jnp.int32)
            rows["y"] = jnp.where(hit, drawn, rows["y"])
        return rows

    def loss(cfg, params, batch, key):
        logits = network.apply(cfg, params, batch["x"], shape_and_classes()[1])
        accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == batch["y"])
        return _nets.cross_entropy(logits, batch["y"]), {"accuracy": accuracy}

    def normalize(cfg, loss):
        return _nets.bounded(loss / math.log(shape_and_classes()[1]))

    def arrays():
        splits = data.load(dataset, "classes")
        shape, _ = shape_and_classes()
        return {name: {"x": part["x"].reshape(-1, *shape), "y": part["y"]} for name, part in splits.items()}

    return Task(sample, init, batch, loss, normalize, arrays)


def row_shape(shape: tuple[int, ...], images: bool, dataset: str) -> tuple[int, ...]:
    """(height, width, channels) of the images, or (features,) of anything. ValueError where there are no images."""
    if not images:
        return (math.prod(shape),)
    if len(shape) not in (2, 3):
        raise ValueError(f"dataset: {dataset} has rows of shape {shape}, expected images [height, width(, channels)]")
    return (*shape, 1)[:3]
