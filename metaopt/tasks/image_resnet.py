"""Classification of images by a residual network with GroupNorm (He et al. 2016, 1512.03385; Wu & He 2018, 1803.08494).

loss = mean over the minibatch of [logsumexp(z) - z_label],   z = dense(mean over positions of the last block)

Blocks: x <- relu(x + norm(conv(relu(norm(conv(x)))))); a stage halves the image, with a 1 x 1 convolution beside.
GroupNorm instead of BatchNorm keeps the loss a function of the parameters and one minibatch.
"""

from metaopt.tasks import _classify
from metaopt.types import Task


def image_resnet(
    dataset: str = "digits",
    widths: tuple[int, ...] = (8, 16),
    blocks: int = 1,
    batch_size: int = 32,
    init_scale: float | tuple[float, float] = 1.0,
    label_noise: float | tuple[float, float] = 0.0,
) -> Task:
    """Softmax classifier of `dataset` by a residual network; members differ in their initial weights.

    dataset: a name in DATASETS, tfds:NAME or user:NAME; of images
    widths: channels of each stage
    blocks: residual blocks of a stage
    batch_size: rows of a minibatch, drawn with replacement
    init_scale: factor on the initial weights (see `_nets.linen_init`), or the two ends of a log-uniform range
    label_noise: fraction of train labels that are drawn anew in each minibatch, or the two ends of a uniform range

    Normalised loss = loss / log(classes), bounded: 1 is as good as a guess. aux = {"accuracy": of the minibatch}.
    `init` and `data` raise ValueError where the rows are no images.
    """
    from metaopt.tasks._modules import ResNet

    network = _classify.linen(lambda classes: ResNet(widths, blocks, classes))
    return _classify.classifier(dataset, network, batch_size, init_scale, label_noise)
