"""Classification of images by MLPs alone (MLP-Mixer, Tolstikhin et al. 2021, arXiv 2105.01601).

loss = mean over the minibatch of [logsumexp(z) - z_label],   z = dense(mean over patches of norm(last block))

Blocks: x <- x + mlp over patches(norm(x)), x <- x + mlp over channels(norm(x)).
"""

from metaopt.tasks import _classify
from metaopt.types import Task


def image_mixer(
    dataset: str = "digits",
    patch: int = 2,
    width: int = 16,
    layers: int = 1,
    batch_size: int = 32,
    init_scale: float | tuple[float, float] = 1.0,
    label_noise: float | tuple[float, float] = 0.0,
) -> Task:
    """Softmax classifier of `dataset` by an MLP-Mixer; members differ in their initial weights.

    dataset: a name in DATASETS, tfds:NAME or user:NAME; of images
    patch: side of a patch; what is left beyond the last whole patch is cut off
    width: features of a patch
    layers: blocks
    batch_size: rows of a minibatch, drawn with replacement
    init_scale: factor on the initial weights (see `_nets.linen_init`), or the two ends of a log-uniform range
    label_noise: fraction of train labels that are drawn anew in each minibatch, or the two ends of a uniform range

    Normalised loss = loss / log(classes), bounded: 1 is as good as a guess. aux = {"accuracy": of the minibatch}.
    `init` and `data` raise ValueError where the rows are no images.
    """
    from metaopt.tasks._modules import Mixer

    network = _classify.linen(lambda classes: Mixer(patch, width, layers, classes))
    return _classify.classifier(dataset, network, batch_size, init_scale, label_noise)
