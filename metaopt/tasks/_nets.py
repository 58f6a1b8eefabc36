"""What task families share: fresh weights, activations, minibatches, sampled scales, bounded normalised losses."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from metaopt.types import PyTree

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
    "elu": jax.nn.elu,
    "leaky_relu": jax.nn.leaky_relu,
    "cos": jnp.cos,
}
SAMPLED = "sampled"  # the activation that each member draws for itself
# How often, as in TaskSet (arXiv 2002.11887), whose three slopes of a leaky ReLU are one here.
FREQUENCIES = {"relu": 6, "tanh": 3, "cos": 1, "elu": 1, "sigmoid": 1, "silu": 1, "leaky_relu": 3}

PARAMETRIZATIONS = ("standard", "mup")

CAP = 10.0  # of a normalised loss: ten times worse than a fresh model is as bad as diverged


def activation_fn(name: str) -> Callable[[jax.Array], jax.Array]:
    """The activation called `name`; ValueError with the known names otherwise."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation: unknown {name!r}, expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def sample_activation(key: jax.Array) -> jax.Array:
    """An index into FREQUENCIES, i32 scalar."""
    weights = jnp.asarray(list(FREQUENCIES.values()), jnp.float32)
    return jax.random.categorical(key, jnp.log(weights)).astype(jnp.int32)


def sampled_activation(index: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """The activation with that index in FREQUENCIES. Under `vmap` all of them are computed, and one is chosen."""
    return partial(jax.lax.switch, index, [ACTIVATIONS[name] for name in FREQUENCIES])


def check_parametrization(name: str) -> None:
    """ValueError with the known names unless `name` is one of them."""
    if name not in PARAMETRIZATIONS:
        raise ValueError(f"parametrization: unknown {name!r}, expected one of {', '.join(PARAMETRIZATIONS)}")


def mlp_init(
    key: jax.Array, sizes: tuple[int, ...], scale: jax.Array | float, parametrization: str = "standard"
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


def linen_init(module: Any, key: jax.Array, scale: jax.Array | float, *inputs: PyTree) -> PyTree:
    """Fresh float32 weights of a Flax module (linen) that is called with `inputs` (arrays or their shapes).

    kernels ~ N(0, scale^2 / fan_in)        fan_in: the inputs of one output
    embeddings ~ N(0, scale^2 / width)      width: their last axis
    factors of norms (`scale`) are 1, biases are 0

    which is Flax's own choice but for the tails it cuts off. The library draws leaf by leaf; here it is one draw for
    all: XLA needs seconds, not tenths, to compile one draw a leaf on a CPU.
    """
    shapes = jax.eval_shape(lambda *x: module.init(jax.random.key(0), *x)["params"], *inputs)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(shapes)
    names = [[part.key for part in path] for path, _ in leaves]
    constant = [name[-1] in ("bias", "scale") for name in names]
    drawn = [0 if const else leaf.size for const, (_, leaf) in zip(constant, leaves, strict=True)]
    noise = scale * jax.random.normal(key, (sum(drawn),), jnp.float32)
    fresh, used = [], 0
    for name, size, (_, leaf) in zip(names, drawn, leaves, strict=True):
        if size:
            fresh.append(noise[used : used + size].reshape(leaf.shape) / math.sqrt(_fan_in(name, leaf.shape)))
        else:
            fresh.append(jnp.full(leaf.shape, name[-1] == "scale", jnp.float32))
        used += size
    return jax.tree.unflatten(treedef, fresh)


def _fan_in(names: list[str], shape: tuple[int, ...]) -> int:
    """Inputs of one output. An attention's projections to (heads, width) have one input axis, others one output."""
    if names[-1] != "kernel" and names[-1].endswith("embedding"):
        return shape[-1]
    return shape[0] if len(names) > 1 and names[-2] in ("query", "key", "value") else math.prod(shape[:-1])


def linen_apply(module: Any, params: PyTree, *inputs: PyTree) -> PyTree:
    """What the module gives for the inputs, computed in the dtype of its weights, as float32 at least."""
    dtype = jax.tree.leaves(params)[0].dtype
    inputs = jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, inputs)
    out = module.apply({"params": params}, *inputs)
    return jax.tree.map(lambda y: y.astype(jnp.promote_types(y.dtype, jnp.float32)), out)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean of logsumexp(z) - z_label over all axes of the labels, for logits [..., classes] and int labels [...].

    z_label by a comparison with all classes: a gather's derivative is a scatter, in kernels of their own.
    """
    own = labels[..., None] == jnp.arange(logits.shape[-1]).reshape(*[1] * labels.ndim, -1)
    picked = jnp.sum(jnp.where(own, logits, 0.0), axis=-1)
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - picked)


def some_rows(arrays: PyTree, key: jax.Array, number: int) -> PyTree:
    """`number` rows drawn with replacement from arrays [n, ...], the same ones from all of them."""
    n = jax.tree.leaves(arrays)[0].shape[0]
    # Three times as fast as randint, which draws twice to remove a bias that is below n / 2^32 here.
    rows = jax.random.bits(key, (number,), jnp.uint32) % jnp.uint32(n)
    return jax.tree.map(lambda a: jnp.asarray(a)[rows], arrays)


def minibatch(arrays: PyTree, key: jax.Array, batch_size: int) -> PyTree:
    """`batch_size` rows drawn with replacement from arrays [n, ...]; uint8 inputs `x` become float32 in [0, 1]."""
    batch = some_rows(arrays, key, batch_size)
    x = batch["x"]
    return {**batch, "x": x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x}


def uniform(key: jax.Array, value: float | tuple[float, float]) -> jax.Array:
    """A float32 scalar: `value` itself, or uniform between its two ends."""
    low, high = (value, value) if isinstance(value, int | float) else value
    return jax.random.uniform(key, (), jnp.float32, low, high)


def sample_scale(key: jax.Array, scale: float | tuple[float, float]) -> jax.Array:
    """A float32 scalar: `scale` itself, or log-uniform between its two ends."""
    if isinstance(scale, int | float):
        return jnp.float32(scale)
    low, high = scale
    return jnp.exp(jax.random.uniform(key, (), jnp.float32, math.log(low), math.log(high)))


def bounded(ratio: jax.Array) -> jax.Array:
    """`ratio` clipped to [0, CAP]; CAP when it is not finite."""
    return jnp.where(jnp.isfinite(ratio), jnp.clip(ratio, 0.0, CAP), CAP)
