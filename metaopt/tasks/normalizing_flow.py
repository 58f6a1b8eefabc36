"""A normalising flow fits a density in the plane (RealNVP: Dinh, Sohl-Dickstein & Bengio 2017, arXiv 1605.08803).

loss = mean over the minibatch of [log p(x) - log q(x)],   log q(x) = log N(z; 0, I) + sum over layers of s

an unbiased estimate of KL(p || q). A layer keeps one coordinate a and moves the other: b <- b exp(s(a)) + t(a), with
(tanh^-1 s / 2, t) a small network of a; layers take turns. p is a mixture of Gaussians whose density is known, so that
0 is the best there is; a minibatch may by chance be below it.
"""

import math
from operator import itemgetter

import jax
import jax.numpy as jnp

from metaopt.tasks import _nets
from metaopt.types import Task

CENTRES_STD = 2.0
LAST_SCALE = 0.1  # on the last layers of fresh networks: a flow begins near the identity
MOMENT_POINTS = 256  # of a member's density, to know what a flow costs that does nothing


def normalizing_flow(
    layers: int = 4,
    hidden: int = 16,
    modes: int = 5,
    spread: float | tuple[float, float] = (0.15, 0.5),
    batch_size: int = 64,
) -> Task:
    """Members differ in the places and the spread of the modes, and in their initial weights.

    layers: of the flow
    hidden: width of the networks that give s and t
    modes: Gaussians of the mixture, their centres ~ N(0, 2^2 I)
    spread: standard deviation of a mode, or the two ends of a log-uniform range
    batch_size: points of a minibatch

    Normalised loss = loss / KL(p || N(0, I)), bounded, the latter estimated from 256 points when a member is drawn: 1
    is a flow that does nothing, and a fresh one is near that, since its last layers are a tenth of the usual scale.
    """

    def log_density(cfg, x):
        squares = jnp.sum(jnp.square(x[:, None, :] - cfg["centres"][None]), axis=-1) / jnp.square(cfg["spread"])
        return jax.nn.logsumexp(-squares / 2, axis=-1) - math.log(2 * math.pi * modes) - 2 * jnp.log(cfg["spread"])

    def sample(key):
        keys = jax.random.split(key)
        noise = jax.random.normal(keys[0], (modes + MOMENT_POINTS, 2), jnp.float32)
        cfg = {"centres": CENTRES_STD * noise[:modes], "spread": _nets.sample_scale(keys[1], spread)}
        x = cfg["centres"][jnp.arange(MOMENT_POINTS) % modes] + cfg["spread"] * noise[modes:]
        return {**cfg, "divergence": jnp.mean(log_density(cfg, x) - log_normal(x))}

    def init(cfg, key):
        params = jax.vmap(lambda k: _nets.mlp_init(k, (1, hidden, 2), 1.0))(jax.random.split(key, layers))
        return {**params, "w1": LAST_SCALE * params["w1"]}

    def batch(cfg, data, key, split):
        mode_key, noise_key = jax.random.split(key)
        centres = _nets.some_rows(cfg["centres"], mode_key, batch_size)
        return {"x": centres + cfg["spread"] * jax.random.normal(noise_key, (batch_size, 2), jnp.float32)}

    def loss(cfg, params, batch, key):
        x = batch["x"]
        kept, moved = x[:, :1], x[:, 1:]
        logs = jnp.zeros(())
        for i in range(layers):
            shift = _nets.mlp(jax.tree.map(itemgetter(i), params), kept, jnp.tanh)
            s = 2 * jnp.tanh(shift[:, :1])
            kept, moved = moved * jnp.exp(s) + shift[:, 1:], kept
            logs += s[:, 0]
        z = jnp.concatenate([kept, moved], axis=-1)
        return jnp.mean(log_density(cfg, x) - log_normal(z) - logs), {}

    def normalize(cfg, loss):
        return _nets.bounded(loss / cfg["divergence"])

    return Task(sample, init, batch, loss, normalize, dict)


def log_normal(x: jax.Array) -> jax.Array:
    """Log density [n] of N(0, I) at points [n, 2]."""
    return -jnp.sum(jnp.square(x), axis=-1) / 2 - math.log(2 * math.pi)
