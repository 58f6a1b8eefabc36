"""A decoder-only transformer over bytes (Vaswani et al. 2017, arXiv 1706.03762; Radford et al. 2018).

loss = mean over the minibatch and the positions of [logsumexp(z_t) - z_{t, token t+1}]

Blocks: x <- x + causal attention(norm(x)), x <- x + mlp(norm(x)), with learned positions; z = linear(norm(x)).
"""

from metaopt.tasks._language import VOCABULARY, language_model
from metaopt.types import Task


def transformer_lm(
    dataset: str = "topics",
    width: int = 32,
    layers: int = 1,
    heads: int = 2,
    length: int = 24,
    batch_size: int = 16,
    init_scale: float | tuple[float, float] = 1.0,
) -> Task:
    """Prediction of the next byte by a transformer; members differ in their initial weights.

    dataset: a name in DATASETS; of text
    width: features of a token, a multiple of `heads`
    layers: blocks
    heads: of an attention
    length: bytes of a row, each of which predicts the next
    batch_size: rows of a minibatch, cut out of the text at random
    init_scale: factor on the initial weights (see `_nets.linen_init`), or the two ends of a log-uniform range

    Normalised loss = loss / log(256), bounded: 1 is as good as a guess.
    Raises ValueError for a width that the heads do not divide; `data` raises DataError where the machine lacks the
    data.
    """
    if width % heads:
        raise ValueError(f"width: {width}, expected a multiple of heads={heads}")
    from metaopt.tasks._modules import TransformerLm

    return language_model(dataset, TransformerLm(VOCABULARY, width, layers, heads), length, batch_size, init_scale)
