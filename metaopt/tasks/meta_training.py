"""Meta-training as an inner problem: the params are the weights of a small learned optimizer (Metz et al. 2021, arXiv
2101.07367, "Training learned optimizers with randomly initialized learned optimizers").

loss = mean over a minibatch of random quadratics, and over t = 1 ... steps, of f(x_t) / f(x_0)
f(x) = (x - x*)^T H (x - x*) / 2,    x_{t+1} = x_t - step_size · net(g_t, m_t),    m_{t+1} = 0.9 m_t + 0.1 g_t

coordinate by coordinate, as in Andrychowicz et al. 2016 (arXiv 1606.04474), whose loss is this one too. H has
eigenvalues that are log-uniform in [1 / condition, 1], in a random basis; x_0 = 0 and x* ~ N(0, I). The update rule is
written here, as small as such a rule can be: tasks do not import optimizers, and the outer problem is what counts.
"""

import jax
import jax.numpy as jnp

from metaopt import linalg
from metaopt.tasks import _nets
from metaopt.types import Task

DECAY = 0.9
LAST_SCALE = 0.1  # on the last layer of a fresh rule, which so begins with small steps


def meta_training(
    dim: int = 4,
    steps: int = 10,
    hidden: int = 16,
    condition: float | tuple[float, float] = (1.0, 100.0),
    step_size: float | tuple[float, float] = (0.1, 1.0),
    batch_size: int = 8,
) -> Task:
    """Members differ in how ill-conditioned their quadratics are, in the rule's step size, and in its initial weights.

    dim: coordinates of a quadratic
    steps: of an inner run, which is unrolled whole
    hidden: width of the update rule's hidden layer, tanh
    condition: bound on the condition number of the quadratics, or the two ends of a log-uniform range
    step_size: factor on what the rule's network gives, or the two ends of a log-uniform range
    batch_size: quadratics of a minibatch, all new

    Normalised loss = loss, bounded: 1 is a rule that stays where it is. 0 is the minimum after one step.
    """

    def sample(key):
        keys = jax.random.split(key)
        return {
            "condition": _nets.sample_scale(keys[0], condition),
            "step_size": _nets.sample_scale(keys[1], step_size),
        }

    def init(cfg, key):
        params = _nets.mlp_init(key, (2, hidden, 1), 1.0)
        return {**params, "w1": LAST_SCALE * params["w1"]}

    def batch(cfg, data, key, split):
        keys = jax.random.split(key)
        noise = jax.random.normal(keys[0], (batch_size, dim + 1, dim), jnp.float32)
        logs = jax.random.uniform(keys[1], (batch_size, 1, dim), jnp.float32, -1, 0) * jnp.log(cfg["condition"])
        basis = linalg.qr(noise[:, :dim])[0]
        return {"h": (basis * jnp.exp(logs)) @ basis.mT, "minimum": noise[:, dim]}

    def loss(cfg, params, batch, key):
        dtype = jnp.promote_types(params["w0"].dtype, jnp.float32)
        h, minimum = batch["h"].astype(dtype), batch["minimum"].astype(dtype)

        def gradient(x):
            return jnp.einsum("nij,nj->ni", h, x - minimum)

        def step(carry, _):
            x, m = carry
            g = gradient(x)
            m = DECAY * m + (1 - DECAY) * g
            inputs = jnp.stack([g, m], axis=-1).reshape(-1, 2)
            x = x - cfg["step_size"] * _nets.mlp(params, inputs, jnp.tanh).reshape(x.shape)
            return (x, m), jnp.sum((x - minimum) * gradient(x), axis=-1) / 2

        start = jnp.zeros_like(minimum)
        first = jnp.sum(minimum * -gradient(start), axis=-1) / 2
        _, values = jax.lax.scan(step, (start, start), None, steps)
        return jnp.mean(values / first[None]), {}

    def normalize(cfg, loss):
        return _nets.bounded(loss)

    return Task(sample, init, batch, loss, normalize, dict)
