"""Classification of a small data set by a fully connected network: the standard inner problem of the field.

loss = mean over the minibatch of [logsumexp(z) - z_label],   z = mlp(x)      (softmax cross-entropy)

Metz et al. 2019, "Understanding and correcting pathologies in the training of learned optimizers", arXiv 1810.10180
(section 4 trains such a family); TaskSet's `mlp_family`, arXiv 2002.11887.
"""

import math

import jax
import jax.numpy as jnp

from metaopt import data
from metaopt.tasks import _nets
from metaopt.types import Task


def image_mlp(
    dataset: str = "digits",
    hidden: tuple[int, ...] = (32,),
    activation: str = "relu",
    batch_size: int = 64,
    init_scale: float | tuple[float, float] = 1.0,
) -> Task:
    """Softmax classifier of `dataset` with hidden layers of the given widths; `hidden=()` is softmax regression.

    Members differ in their initial weights, whose scale is `init_scale` or log-uniform between its two ends. The
    inputs are flattened, so tables serve as well as images. Normalised loss = loss / log(classes), bounded: 1 is as
    good as a guess. aux = {"accuracy": of the minibatch}. The data set is read at the first use of `init` or `data`,
    which raise metaopt.data.DataError where the machine does not have it; an unknown activation is a ValueError here.
    """
    act = _nets.activation_fn(activation)

    def sizes():  # of all layers; the data set is read once a process
        splits = data.load(dataset)
        classes = 1 + max(int(part["y"].max()) for part in splits.values())
        return (math.prod(splits["train"]["x"].shape[1:]), *hidden, classes)

    def sample(key):
        return {"init_scale": _nets.sample_scale(key, init_scale)}

    def init(cfg, key):
        return _nets.mlp_init(key, sizes(), cfg["init_scale"])

    def batch(cfg, arrays, key, split):
        return _nets.minibatch(arrays[split], key, batch_size)

    def loss(cfg, params, batch, key):
        logits = _nets.mlp(params, batch["x"], act)
        picked = jnp.take_along_axis(logits, batch["y"][:, None], axis=-1)[:, 0]
        accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == batch["y"])
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - picked), {"accuracy": accuracy}

    def normalize(cfg, loss):
        return _nets.bounded(loss / math.log(sizes()[-1]))

    def arrays():
        splits = data.load(dataset)
        return {name: {"x": part["x"].reshape(len(part["x"]), -1), "y": part["y"]} for name, part in splits.items()}

    return Task(sample, init, batch, loss, normalize, arrays)
