"""A variational autoencoder of images (Kingma & Welling 2014, arXiv 1312.6114): a loss with noise of its own.

loss = mean over the minibatch of [sum_j KL(x_j || x'_j) + KL(N(m, s^2) || N(0, I))] / pixels,   x' = decoder(m + s eps)

m, log s^2 = encoder(x), eps ~ N(0, I) anew in each step. KL(x || x') of a pixel is between Bernoulli distributions of
the means x and x' in [0, 1]: the usual cross-entropy less the entropy of x, which no model can change. So 0 is a
perfect reconstruction from a code that costs nothing, a bound that is approached and not reached.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from metaopt import data
from metaopt.tasks import _nets
from metaopt.types import Task

STATISTICS_ROWS = 5_000  # of the (shuffled) train split: enough for a mean


def image_vae(
    dataset: str = "digits",
    hidden: tuple[int, ...] = (32,),
    latent: int = 8,
    batch_size: int = 64,
    init_scale: float | tuple[float, float] = 1.0,
) -> Task:
    """VAE of `dataset` with fully connected halves; members differ in their initial weights.

    dataset: a name in DATASETS, tfds:NAME or user:NAME; of values in [0, 1], flattened
    hidden: widths of the encoder's hidden layers, and in reverse of the decoder's
    latent: numbers of a code
    batch_size: rows of a minibatch, drawn with replacement
    init_scale: factor on the initial weights (see `_nets.linen_init`), or the two ends of a log-uniform range

    Normalised loss = loss / (mean of KL(x_j || 1/2) over the data), bounded: 1 is as good as grey pictures without a
    code. aux = {"rate": the code's cost in nats}. `init` and `data` raise DataError where the machine lacks the data,
    ValueError where its values are not in [0, 1].
    """
    from metaopt.tasks._modules import Vae

    module = Vae(hidden, latent)

    def sample(key):
        return {"init_scale": _nets.sample_scale(key, init_scale)}

    def init(cfg, key):
        shape = (1, math.prod(data.load(dataset, "classes")["train"]["x"].shape[1:]))
        x, noise = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct((1, latent), jnp.float32)
        return _nets.linen_init(module, key, cfg["init_scale"], x, noise)

    def batch(cfg, arrays, key, split):
        return _nets.minibatch(arrays[split], key, batch_size)

    def loss(cfg, params, batch, key):
        x = batch["x"]
        noise = jax.random.normal(key, (x.shape[0], latent), jnp.float32)
        logits, mean, log_variance = _nets.linen_apply(module, params, x, noise)
        entropy = jax.scipy.special.entr(x) + jax.scipy.special.entr(1 - x)
        distortion = jnp.sum(jax.nn.softplus(logits) - x * logits - entropy, axis=-1)
        rate = jnp.sum(jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance, axis=-1) / 2
        return jnp.mean(distortion + rate) / x.shape[-1], {"rate": jnp.mean(rate)}

    def normalize(cfg, loss):
        return _nets.bounded(loss / _grey(dataset))

    def arrays():
        _grey(dataset)
        return {name: {"x": part["x"].reshape(len(part["x"]), -1)} for name, part in data.load(dataset).items()}

    return Task(sample, init, batch, loss, normalize, arrays)


@functools.cache
def _grey(dataset: str) -> float:
    """Mean of KL(x_j || 1/2) = log 2 - entropy(x_j) over pixels and rows. ValueError for values outside [0, 1]."""
    x = data.load(dataset, "classes")["train"]["x"][:STATISTICS_ROWS]
    x = x.astype(np.float64) / (255 if x.dtype == np.uint8 else 1)
    if x.min() < 0 or x.max() > 1:
        raise ValueError(f"dataset: {dataset} has values from {x.min():.3g} to {x.max():.3g}, expected [0, 1]")
    p = np.clip(np.stack([x, 1 - x]), 1e-12, 1)
    return math.log(2) + float((p * np.log(p)).sum(axis=0).mean())
