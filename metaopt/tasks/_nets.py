"""What task families share: fully connected networks, minibatches, sampled scales, bounded normalised losses."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from metaopt.types import PyTree

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
}

PARAMETRIZATIONS = ("standard", "mup")

CAP = 10.0  # of a normalised loss: ten times worse than a fresh model is as bad as diverged


def activation_fn(name: str) -> Callable[[jax.Array], jax.Array]:
    """The activation called `name`; ValueError with the known names otherwise."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation: unknown {name!r}, expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def check_parametrization(name: str) -> None:
    """ValueError with the known names unless `name` is one of them."""
    if name not in PARAMETRIZATIONS:
        raise ValueError(f"parametrization: unknown {name!r}, expected one of {', '.join(PARAMETRIZATIONS)}")


def mlp_init(
    key: jax.Array, sizes: tuple[int, ...], scale: jax.Array, parametrization: str = "standard"
) -> dict[str, jax.Array]:
    """Weights w0 [sizes[0], sizes[1]], b0 [sizes[1]], w1, ... in float32; biases are zero.

    w ~ N(0, scale^2 c / fan_in) with c = 2 (He et al. 2015) in hidden layers and c = 1 in the linear output layer; in
    muP c = 1 in hidden layers and c = fan_in in the output layer, see `mlp`.
    """
    shapes = list(zip(sizes[:-1], sizes[1:], strict=True))
    # One draw for all layers: XLA needs seconds, not tenths, to compile one draw a layer on a CPU.
    noise = scale * jax.random.normal(key, (sum(map(math.prod, shapes)),), jnp.float32)
    params, used = {}, 0
    for i, (fan_in, fan_out) in enumerate(shapes):
        hidden, output = (1, fan_in) if parametrization == "mup" else (2, 1)
        std = math.sqrt((output if i == len(shapes) - 1 else hidden) / fan_in)
        params[f"w{i}"] = std * noise[used : used + fan_in * fan_out].reshape(fan_in, fan_out)
        params[f"b{i}"] = jnp.zeros(fan_out, jnp.float32)
        used += fan_in * fan_out
    return params


def mlp(
    params: dict[str, jax.Array],
    x: jax.Array,
    activation: Callable[[jax.Array], jax.Array],
    parametrization: str = "standard",
) -> jax.Array:
    """The network's output [batch, out] for x [batch, in]: an activation between layers, none after the last.

    In muP (Yang et al. 2022, arXiv 2203.03466; in the form of Thérien et al. 2024, 2406.00153) the inputs of the last
    layer are divided by their number, fan_in. Steps of the weights then move what a layer gives as far in a wide
    network as in a narrow one, if the optimizer divides those of hidden layers by fan_in: `metaopt.optimizers.mup`.

    Computed in the dtype of the weights; the output is float32 at least, so that losses are.
    """
    layers = len(params) // 2
    h = x.astype(params["w0"].dtype)
    for i in range(layers):
        if parametrization == "mup" and i == layers - 1:
            h = h / h.shape[-1]
        h = h @ params[f"w{i}"] + params[f"b{i}"][None, :]
        if i < layers - 1:
            h = activation(h)
    return h.astype(jnp.promote_types(h.dtype, jnp.float32))


def minibatch(arrays: PyTree, key: jax.Array, batch_size: int) -> PyTree:
    """`batch_size` rows drawn with replacement from arrays [n, ...]; uint8 inputs `x` become float32 in [0, 1]."""
    n = jax.tree.leaves(arrays)[0].shape[0]
    # Three times as fast as randint, which draws twice to remove a bias that is below n / 2^32 here.
    rows = jax.random.bits(key, (batch_size,), jnp.uint32) % jnp.uint32(n)
    batch = jax.tree.map(lambda a: jnp.asarray(a)[rows], arrays)
    x = batch["x"]
    return {**batch, "x": x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x}


def sample_scale(key: jax.Array, scale: float | tuple[float, float]) -> jax.Array:
    """A float32 scalar: `scale` itself, or log-uniform between its two ends."""
    if isinstance(scale, int | float):
        return jnp.float32(scale)
    low, high = scale
    return jnp.exp(jax.random.uniform(key, (), jnp.float32, math.log(low), math.log(high)))


def bounded(ratio: jax.Array) -> jax.Array:
    """`ratio` clipped to [0, CAP]; CAP when it is not finite."""
    return jnp.where(jnp.isfinite(ratio), jnp.clip(ratio, 0.0, CAP), CAP)
