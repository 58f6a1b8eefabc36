"""A recurrent language model over bytes: Elman 1990, LSTM (Hochreiter & Schmidhuber 1997), GRU (Cho et al. 2014).

loss = mean over the minibatch and the positions of [logsumexp(z_t) - z_{t, token t+1}]

h_t = cell(h_{t-1}, embedding of token t), h_0 = 0 in each row; z_t is linear in h_t. TaskSet's
`char_rnn_language_model` family, arXiv 2002.11887.
"""

from typing import Literal

from metaopt.tasks._language import VOCABULARY, language_model
from metaopt.types import Task


def rnn_lm(
    dataset: str = "topics",
    cell: Literal["rnn", "gru", "lstm"] = "gru",
    hidden: int = 32,
    layers: int = 1,
    embedding: int = 16,
    length: int = 24,
    batch_size: int = 16,
    init_scale: float | tuple[float, float] = 1.0,
) -> Task:
    """Prediction of the next byte by a recurrent network; members differ in their initial weights.

    dataset: a name in DATASETS; of text
    cell: a plain tanh layer, a gated recurrent unit, or a long short-term memory
    hidden: width of the state
    layers: recurrent layers on top of each other
    embedding: width of a token's vector
    length: bytes of a row, each of which predicts the next
    batch_size: rows of a minibatch, cut out of the text at random
    init_scale: factor on the initial weights (see `_nets.linen_init`), or the two ends of a log-uniform range

    Normalised loss = loss / log(256), bounded: 1 is as good as a guess.
    Raises ValueError for an unknown cell; `data` raises DataError where the machine lacks the data.
    """
    from metaopt.tasks._modules import CELLS, RecurrentLm

    if cell not in CELLS:
        raise ValueError(f"cell: unknown {cell!r}, expected one of {', '.join(CELLS)}")
    module = RecurrentLm(cell, VOCABULARY, embedding, hidden, layers)
    return language_model(dataset, module, length, batch_size, init_scale)
