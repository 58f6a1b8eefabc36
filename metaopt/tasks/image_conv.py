"""Classification of images by a convolutional network, with or without a norm (LeCun et al. 1998; TaskSet's conv nets).

loss = mean over the minibatch of [logsumexp(z) - z_label],   z = dense(the last layer, flattened)

Layers: 3 x 3 convolution, norm, activation; all but the first halve the image.
"""

from typing import Literal

from metaopt.tasks import _classify, _nets
from metaopt.types import Task


def image_conv(
    dataset: str = "digits",
    widths: tuple[int, ...] = (8, 16),
    norm: Literal["none", "layer", "group"] = "none",
    activation: Literal["relu", "tanh", "gelu", "silu", "sigmoid", "elu", "leaky_relu", "cos"] = "relu",
    batch_size: int = 32,
    init_scale: float | tuple[float, float] = 1.0,
    label_noise: float | tuple[float, float] = 0.0,
) -> Task:
    """Softmax classifier of `dataset` by a convolutional network; members differ in their initial weights.

    dataset: a name in DATASETS, tfds:NAME or user:NAME; of images
    widths: channels of the layers
    norm: LayerNorm over channels, GroupNorm with four channels a group, or none
    activation: after each layer
    batch_size: rows of a minibatch, drawn with replacement
    init_scale: factor on the initial weights (see `_nets.linen_init`), or the two ends of a log-uniform range
    label_noise: fraction of train labels that are drawn anew in each minibatch, or the two ends of a uniform range

    Normalised loss = loss / log(classes), bounded: 1 is as good as a guess. aux = {"accuracy": of the minibatch}.
    Raises ValueError for an unknown name; `init` and `data` raise it where the rows are no images.
    """
    act = _nets.activation_fn(activation)
    if norm not in ("none", "layer", "group"):
        raise ValueError(f"norm: unknown {norm!r}, expected one of none, layer, group")
    from metaopt.tasks._modules import ConvNet

    network = _classify.linen(lambda classes: ConvNet(widths, norm, act, classes))
    return _classify.classifier(dataset, network, batch_size, init_scale, label_noise)
