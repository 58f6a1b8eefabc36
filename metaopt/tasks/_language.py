"""What the language models share: everything but the network.

loss = mean over the minibatch and the positions of [logsumexp(z_t) - z_{t, token t+1}],   z = network(tokens up to t)

in nats a byte; 256 tokens are possible. Normalised loss = loss / log(256), bounded: 1 is as good as a guess, 0 a
certain and right one, 0.6 about what letter frequencies give and 0.3 a small trained model.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from metaopt import data
from metaopt.tasks import _nets
from metaopt.types import Task

VOCABULARY = 256


def language_model(
    dataset: str, module: Any, length: int, batch_size: int, init_scale: float | tuple[float, float]
) -> Task:
    """Prediction of the next byte of `dataset` by a Flax module (linen), tokens int32 [batch, length] -> logits.

    Raises ValueError for a length under 1; `data` raises it where the data set's rows are not longer than `length`.
    """
    if length < 1:
        raise ValueError(f"length: {length}, expected at least 1")

    def sample(key):
        return {"init_scale": _nets.sample_scale(key, init_scale)}

    def init(cfg, key):
        tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
        return _nets.linen_init(module, key, cfg["init_scale"], tokens)

    def batch(cfg, arrays, key, split):
        tokens = jnp.asarray(arrays[split]["tokens"])
        bits = jax.random.bits(key, (2, batch_size), jnp.uint32)
        row = bits[0] % jnp.uint32(tokens.shape[0])  # see _nets.some_rows
        start = bits[1] % jnp.uint32(tokens.shape[1] - length)
        columns = start[:, None] + jnp.arange(length + 1, dtype=jnp.uint32)[None, :]
        return {"tokens": tokens[row[:, None], columns].astype(jnp.int32)}

    def loss(cfg, params, batch, key):
        logits = _nets.linen_apply(module, params, batch["tokens"][:, :-1])
        return _nets.cross_entropy(logits, batch["tokens"][:, 1:]), {}

    def normalize(cfg, loss):
        return _nets.bounded(loss / math.log(VOCABULARY))

    def arrays():
        splits = data.load(dataset, "text")
        window = splits["train"]["tokens"].shape[1]
        if window <= length:
            raise ValueError(f"length: {length}, expected under {window}, the bytes of a row of {dataset}")
        return {name: {"tokens": part["tokens"]} for name, part in splits.items()}

    return Task(sample, init, batch, loss, normalize, arrays)
