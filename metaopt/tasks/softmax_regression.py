"""Softmax regression with badly scaled inputs: a convex problem on real data whose condition number members draw.

loss = mean over the minibatch of [logsumexp(z) - z_label],   z = W (s * x) + b,   s_i log-uniform in [1 / scaling, 1]

The Hessian scales with s s^T: the condition number grows up to scaling^2 times that of the data. Convex problems of
this kind are those of Li & Malik 2016, "Learning to optimize", arXiv 1606.01885.
"""

import jax

from metaopt import data
from metaopt.tasks import _nets
from metaopt.tasks._classify import Network, classifier, row_shape
from metaopt.types import Task


def softmax_regression(
    dataset: str = "digits",
    scaling: float = 10.0,
    batch_size: int = 64,
    init_scale: float | tuple[float, float] = 1.0,
    label_noise: float | tuple[float, float] = 0.0,
) -> Task:
    """Linear softmax classifier of `dataset`; members differ in the scales of their inputs and their initial weights.

    dataset: a name in DATASETS, tfds:NAME or user:NAME; images are flattened, so tables serve as well
    scaling: largest over smallest factor on inputs, >= 1
    batch_size: rows of a minibatch, drawn with replacement
    init_scale: factor on the initial weights (see `_nets.mlp_init`), or the two ends of a log-uniform range
    label_noise: fraction of train labels that are drawn anew in each minibatch, or the two ends of a uniform range

    Normalised loss = loss / log(classes), bounded: 1 is as good as a guess. aux = {"accuracy": of the minibatch}.
    Raises ValueError for scaling < 1; `sample`, `init` and `data` raise DataError where the machine lacks the data.
    """
    if scaling < 1:
        raise ValueError(f"scaling: {scaling}, expected a number >= 1")

    def sample(key):
        (features,) = row_shape(data.load(dataset, "classes")["train"]["x"].shape[1:], False, dataset)
        keys = jax.random.split(key, features)
        return {"input_scale": jax.vmap(lambda k: _nets.sample_scale(k, (1 / scaling, 1.0)))(keys)}

    def init(key, scale, shape, classes):
        return _nets.mlp_init(key, (*shape, classes), scale)

    def apply(cfg, params, x, classes):
        return _nets.mlp(params, x * cfg["input_scale"][None, :], jax.nn.relu)

    return classifier(dataset, Network(init, apply, sample), batch_size, init_scale, label_noise, images=False)
