"""Classification of a small data set by a fully connected network: the standard inner problem of the field.

loss = mean over the minibatch of [logsumexp(z) - z_label],   z = mlp(x)      (softmax cross-entropy)

Metz et al. 2019, "Understanding and correcting pathologies in the training of learned optimizers", arXiv 1810.10180
(section 4 trains such a family); TaskSet's `mlp_family`, arXiv 2002.11887.
"""

from typing import Literal

from metaopt.tasks import _nets
from metaopt.tasks._classify import Network, classifier
from metaopt.types import Task


def image_mlp(
    dataset: str = "digits",
    hidden: tuple[int, ...] = (32,),
    activation: Literal["relu", "tanh", "gelu", "silu", "sigmoid", "elu", "leaky_relu", "cos", "sampled"] = "relu",
    batch_size: int = 64,
    init_scale: float | tuple[float, float] = 1.0,
    parametrization: Literal["standard", "mup"] = "standard",
    label_noise: float | tuple[float, float] = 0.0,
) -> Task:
    """Softmax classifier of `dataset` by a fully connected network; members differ in their initial weights.

    dataset: a name in DATASETS, tfds:NAME or user:NAME; images are flattened, so tables serve as well
    hidden: widths of the hidden layers; none is softmax regression
    activation: between layers, none after the last; sampled: each member draws its own, as often as in TaskSet
    batch_size: rows of a minibatch, drawn with replacement
    init_scale: factor on the initial weights (see `_nets.mlp_init`), or the two ends of a log-uniform range
    parametrization: mup lets wide networks learn as narrow ones do, with `mup` as the optimizer; see `_nets.mlp`
    label_noise: fraction of train labels that are drawn anew in each minibatch, or the two ends of a uniform range

    Normalised loss = loss / log(classes), bounded: 1 is as good as a guess. aux = {"accuracy": of the minibatch}.
    Raises ValueError for an unknown name; `init` and `data` raise DataError where the machine lacks the data.
    """
    fixed = None if activation == _nets.SAMPLED else _nets.activation_fn(activation)
    _nets.check_parametrization(parametrization)

    def init(key, scale, shape, classes):
        return _nets.mlp_init(key, (*shape, *hidden, classes), scale, parametrization)

    def apply(cfg, params, x, classes):
        return _nets.mlp(params, x, fixed or _nets.sampled_activation(cfg["activation"]), parametrization)

    def sample(key):
        return {} if fixed else {"activation": _nets.sample_activation(key)}

    return classifier(dataset, Network(init, apply, sample), batch_size, init_scale, label_noise, images=False)
