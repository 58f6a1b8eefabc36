"""Classification of a small data set by a fully connected network: the standard inner problem of the field.

loss = mean over the minibatch of [logsumexp(z) - z_label],   z = mlp(x)      (softmax cross-entropy)

Metz et al. 2019, "Understanding and correcting pathologies in the training of learned optimizers", arXiv 1810.10180
(section 4 trains such a family); TaskSet's `mlp_family`, arXiv 2002.11887.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from metaopt import data
from metaopt.tasks import _nets
from metaopt.types import Task


def image_mlp(
    dataset: str = "digits",
    hidden: tuple[int, ...] = (32,),
    activation: Literal["relu", "tanh", "gelu", "silu", "sigmoid"] = "relu",
    batch_size: int = 64,
    init_scale: float | tuple[float, float] = 1.0,
    parametrization: Literal["standard", "mup"] = "standard",
) -> Task:
    """Softmax classifier of `dataset` by a fully connected network; members differ in their initial weights.

    dataset: a name in DATASETS, or tfds:NAME; images are flattened, so tables serve as well
    hidden: widths of the hidden layers; none is softmax regression
    activation: between layers; none after the last
    batch_size: rows of a minibatch, drawn with replacement
    init_scale: factor on the initial weights (see `_nets.mlp_init`), or the two ends of a log-uniform range
    parametrization: mup lets wide networks learn as narrow ones do, with `mup` as the optimizer; see `_nets.mlp`

    Normalised loss = loss / log(classes), bounded: 1 is as good as a guess. aux = {"accuracy": of the minibatch}.
    Raises ValueError for an unknown name; `init` and `data` raise DataError where the machine lacks the data.
    """
    act = _nets.activation_fn(activation)
    _nets.check_parametrization(parametrization)

    def sizes():  # of all layers; the data set is read once a process
        splits = data.load(dataset)
        classes = 1 + max(int(part["y"].max()) for part in splits.values())
        return (math.prod(splits["train"]["x"].shape[1:]), *hidden, classes)

    def sample(key):
        return {"init_scale": _nets.sample_scale(key, init_scale)}

    def init(cfg, key):
        return _nets.mlp_init(key, sizes(), cfg["init_scale"], parametrization)

    def batch(cfg, arrays, key, split):
        return _nets.minibatch(arrays[split], key, batch_size)

    def loss(cfg, params, batch, key):
        logits = _nets.mlp(params, batch["x"], act, parametrization)
        picked = jnp.take_along_axis(logits, batch["y"][:, None], axis=-1)[:, 0]
        accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == batch["y"])
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - picked), {"accuracy": accuracy}

    def normalize(cfg, loss):
        return _nets.bounded(loss / math.log(sizes()[-1]))

    def arrays():
        splits = data.load(dataset)
        return {name: {"x": part["x"].reshape(len(part["x"]), -1), "y": part["y"]} for name, part in splits.items()}

    return Task(sample, init, batch, loss, normalize, arrays)
