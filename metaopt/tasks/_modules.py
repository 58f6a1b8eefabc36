"""Networks of the families, as Flax modules (linen). Imported inside the factories: Flax costs a fifth of a second.

Shapes: images [batch, height, width, channels], sequences [batch, length], features last.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

Activation = Callable[[jax.Array], jax.Array]

CELLS = {"rnn": nn.SimpleCell, "gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}


def conv_by_matmul(x: jax.Array, kernel: jax.Array, strides: tuple, padding: Any, **defaults: Any) -> jax.Array:
    """The convolution of x [batch, h, w, in] with kernel [i, j, in, out] as one product of matrices.

    Many inner runs are one program, and a convolution that has its own kernels for each run is a grouped one, which
    XLA's CPU backend does one number at a time inside a loop: 4 to 20 times as slow as this, measured. `defaults`:
    dilations and groups, of which there are none here.
    """
    size = kernel.shape[:2]
    pads = jax.lax.padtype_to_pads(x.shape[1:3], size, strides, padding) if isinstance(padding, str) else padding
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    ends = [side - k + 1 for side, k in zip(x.shape[1:3], size, strict=True)]
    windows = [
        x[:, i : i + ends[0] : strides[0], j : j + ends[1] : strides[1]] for i in range(size[0]) for j in range(size[1])
    ]
    return jnp.concatenate(windows, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


Conv = partial(nn.Conv, conv_general_dilated=conv_by_matmul)


class ConvNet(nn.Module):
    """3 x 3 convolutions, each with a norm and an activation; every one after the first has stride 2."""

    widths: tuple[int, ...]
    norm: str  # none, layer or group (groups of 4 channels at most)
    activation: Activation
    outputs: int

    @nn.compact
    def __call__(self, x):
        for i, width in enumerate(self.widths):
            x = Conv(width, (3, 3), strides=1 if i == 0 else 2)(x)
            if self.norm != "none":
                x = nn.LayerNorm()(x) if self.norm == "layer" else group_norm(width)(x)
            x = self.activation(x)
        return nn.Dense(self.outputs)(x.reshape(x.shape[0], -1))


class ResNet(nn.Module):
    """He et al. 2016, basic blocks, with GroupNorm (Wu & He 2018); a stage halves the image and changes the width."""

    widths: tuple[int, ...]
    blocks: int
    outputs: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(group_norm(self.widths[0])(Conv(self.widths[0], (3, 3), use_bias=False)(x)))
        for stage, width in enumerate(self.widths):
            for block in range(self.blocks):
                strides = 2 if stage > 0 and block == 0 else 1
                y = Conv(width, (3, 3), strides, use_bias=False)(x)
                y = Conv(width, (3, 3), use_bias=False)(nn.relu(group_norm(width)(y)))
                y = group_norm(width)(y)
                if x.shape != y.shape:
                    x = group_norm(width)(Conv(width, (1, 1), strides, use_bias=False)(x))
                x = nn.relu(x + y)
        return nn.Dense(self.outputs)(x.mean(axis=(1, 2)))


def group_norm(width: int) -> nn.Module:
    """Groups of four channels, or of the largest number below that divides the width."""
    return nn.GroupNorm(num_groups=None, group_size=next(size for size in (4, 3, 2, 1) if width % size == 0))


class Mlp(nn.Module):
    """One hidden layer; as wide at its end as the input."""

    hidden: int

    @nn.compact
    def __call__(self, x):
        h = nn.gelu(nn.Dense(self.hidden)(x))
        return nn.Dense(x.shape[-1])(h)


class Transformer(nn.Module):
    """Blocks with the norms in front (Xiong et al. 2020), x <- x + attention(norm(x)), x <- x + mlp(norm(x)); last a
    norm.

    x [batch, length, width]
    """

    layers: int
    heads: int
    causal: bool

    @nn.compact
    def __call__(self, x):
        mask = nn.make_causal_mask(jnp.ones(x.shape[:2])) if self.causal else None
        for _ in range(self.layers):
            x = x + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x), mask=mask)
            x = x + Mlp(4 * x.shape[-1])(nn.LayerNorm()(x))
        return nn.LayerNorm()(x)


class Vit(nn.Module):
    """Dosovitskiy et al. 2021: patches as tokens with learned positions; their mean instead of a class token."""

    patch: int
    width: int
    layers: int
    heads: int
    outputs: int

    @nn.compact
    def __call__(self, x):
        x = patches(x, self.patch, self.width)
        positions = self.param("position_embedding", nn.initializers.normal(1.0), x.shape[1:])
        x = x + positions.astype(x.dtype)[None]
        x = Transformer(self.layers, self.heads, causal=False)(x)
        return nn.Dense(self.outputs)(x.mean(axis=1))


class Mixer(nn.Module):
    """Tolstikhin et al. 2021: in turn, one MLP mixes the patches and another one the channels."""

    patch: int
    width: int
    layers: int
    outputs: int

    @nn.compact
    def __call__(self, x):
        x = patches(x, self.patch, self.width)
        for _ in range(self.layers):
            y = nn.LayerNorm()(x).swapaxes(1, 2)
            x = x + Mlp(2 * y.shape[-1])(y).swapaxes(1, 2)
            x = x + Mlp(4 * self.width)(nn.LayerNorm()(x))
        return nn.Dense(self.outputs)(nn.LayerNorm()(x).mean(axis=1))


def patches(x: jax.Array, size: int, width: int) -> jax.Array:
    """[batch, patches, width]: one linear map of every patch. What is left beyond the last whole patch is cut off."""
    x = Conv(width, (size, size), strides=size, padding="VALID")(x)
    return x.reshape(x.shape[0], -1, width)


class RecurrentLm(nn.Module):
    """Token logits [batch, length, vocabulary] from the tokens up to each: embedding, recurrent layers, readout."""

    cell: str
    vocabulary: int
    embedding: int
    hidden: int
    layers: int

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(self.vocabulary, self.embedding)(tokens)
        for _ in range(self.layers):
            cell = CELLS[self.cell](self.hidden)
            zeros = cell.initialize_carry(jax.random.key(0), x[:, 0].shape)  # float32, whatever the weights are
            x = nn.RNN(cell)(x, initial_carry=jax.tree.map(partial(jnp.asarray, dtype=x.dtype), zeros))
        return nn.Dense(self.vocabulary)(x)


class TransformerLm(nn.Module):
    """The same by a causal transformer with learned positions (Radford et al. 2018)."""

    vocabulary: int
    width: int
    layers: int
    heads: int

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(self.vocabulary, self.width)(tokens)
        positions = self.param("position_embedding", nn.initializers.normal(1.0), x.shape[1:])
        x = Transformer(self.layers, self.heads, causal=True)(x + positions.astype(x.dtype)[None])
        return nn.Dense(self.vocabulary)(x)


class Vae(nn.Module):
    """Kingma & Welling 2014, with fully connected halves.

    (x [batch, features], noise [batch, latent]) -> (logits of the pixels [batch, features], mean and log variance of
    the code [batch, latent])
    """

    hidden: tuple[int, ...]
    latent: int

    @nn.compact
    def __call__(self, x, noise):
        h = x
        for width in self.hidden:
            h = nn.relu(nn.Dense(width)(h))
        mean, log_variance = nn.Dense(self.latent)(h), nn.Dense(self.latent)(h)
        h = mean + jnp.exp(log_variance / 2) * noise
        for width in reversed(self.hidden):
            h = nn.relu(nn.Dense(width)(h))
        return nn.Dense(x.shape[-1])(h), mean, log_variance
