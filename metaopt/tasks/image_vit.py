"""Classification of images by a transformer over their patches (ViT, Dosovitskiy et al. 2021, arXiv 2010.11929).

loss = mean over the minibatch of [logsumexp(z) - z_label],   z = dense(mean over patches of the last block)

Blocks: x <- x + attention(norm(x)), x <- x + mlp(norm(x)). Differs from the paper: the mean of the patches is
classified, not an added token, and nothing is dropped out.
"""

from metaopt.tasks import _classify
from metaopt.types import Task


def image_vit(
    dataset: str = "digits",
    patch: int = 2,
    width: int = 16,
    layers: int = 1,
    heads: int = 2,
    batch_size: int = 32,
    init_scale: float | tuple[float, float] = 1.0,
    label_noise: float | tuple[float, float] = 0.0,
) -> Task:
    """Softmax classifier of `dataset` by a vision transformer; members differ in their initial weights.

    dataset: a name in DATASETS, tfds:NAME or user:NAME; of images
    patch: side of a patch; what is left beyond the last whole patch is cut off
    width: features of a token, a multiple of `heads`
    layers: blocks
    heads: of an attention
    batch_size: rows of a minibatch, drawn with replacement
    init_scale: factor on the initial weights (see `_nets.linen_init`), or the two ends of a log-uniform range
    label_noise: fraction of train labels that are drawn anew in each minibatch, or the two ends of a uniform range

    Normalised loss = loss / log(classes), bounded: 1 is as good as a guess. aux = {"accuracy": of the minibatch}.
    Raises ValueError for a width that the heads do not divide; `init` and `data` raise it where the rows are no images.
    """
    if width % heads:
        raise ValueError(f"width: {width}, expected a multiple of heads={heads}")
    from metaopt.tasks._modules import Vit

    network = _classify.linen(lambda classes: Vit(patch, width, layers, heads, classes))
    return _classify.classifier(dataset, network, batch_size, init_scale, label_noise)
