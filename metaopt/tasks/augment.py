"""Wrappers that turn a family of inner problems into another one; the members of the base, in other clothes.

Meta-training on them makes an optimizer indifferent to how a problem is written down (Metz et al. 2022, "VeLO", arXiv
2211.09760, appendix; Lv, Jiang & Li 2017, arXiv 1703.03633, for random scales). Normalised losses are the base's own.

Those that change gradients do so by a rule of differentiation: `loss` has the base's value and another derivative. So
whatever differentiates the loss sees the changed gradient, also a meta-gradient by TBPTT, which then is not that of the
loss; estimators by perturbation (ES, PES and their kin) look at values alone. Second derivatives are those of the
changed gradient.

`delayed_gradients` leaves `loss` and its derivative as they are: it is the inner loop that keeps gradients back.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metaopt.types import PyTree, Task

STREAM = 0x61756700  # what wrappers draw from a key is independent of what the base draws from it


def reparametrized(
    base: Task, scope: Literal["global", "tensor", "parameter"] = "tensor", low: float = 0.1, high: float = 10.0
) -> Task:
    """The base in the parameters p' = p / s: loss(s p'). Gradients grow by s, and steps should by 1 / s.

    base: the family to wrap
    scope: one scale s for all parameters, for each tensor, or for each parameter
    low: smallest scale
    high: largest scale; drawn log-uniformly for each member

    Raises ValueError for an unknown scope or a range that is none.
    """
    if scope not in ("global", "tensor", "parameter"):
        raise ValueError(f"scope: unknown {scope!r}, expected one of global, tensor, parameter")
    if not 0 < low <= high:
        raise ValueError(f"low, high: {low}, {high}, expected 0 < low <= high")

    def sample(key):
        cfg = base.sample(key)
        shapes, treedef = jax.tree.flatten(jax.eval_shape(base.init, cfg, key))
        sizes = [leaf.size if scope == "parameter" else 1 for leaf in shapes]
        number = 1 if scope == "global" else sum(sizes)
        ends = jnp.log(jnp.array([low, high], jnp.float32))
        scales = jnp.exp(jax.random.uniform(_stream(key), (number,), jnp.float32, *ends))
        if scope == "global":
            return {"base": cfg, "scale": jax.tree.unflatten(treedef, [scales[0]] * len(shapes))}
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        parts = [
            scales[start : start + size].reshape(leaf.shape if scope == "parameter" else ())
            for start, size, leaf in zip(starts, sizes, shapes, strict=True)
        ]
        return {"base": cfg, "scale": jax.tree.unflatten(treedef, parts)}

    def init(cfg, key):
        return jax.tree.map(lambda p, s: (p / s).astype(p.dtype), base.init(cfg["base"], key), cfg["scale"])

    def loss(cfg, params, batch, key):
        params = jax.tree.map(lambda p, s: (p * s).astype(p.dtype), params, cfg["scale"])
        return base.loss(cfg["base"], params, batch, key)

    return _within(base, sample)._replace(init=init, loss=loss)


def small_batches(base: Task, batch_size: int = 8) -> Task:
    """The base with the first rows of its minibatches only.

    base: the family to wrap; one without minibatches stays as it is
    batch_size: rows that are left; no more than the base's

    Raises ValueError for a size under 1; `batch` raises it for a base whose minibatches are smaller, or not made of
    rows.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: {batch_size}, expected at least 1")

    def batch(cfg, data, key, split):
        whole = base.batch(cfg, data, key, split)
        lengths = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(whole)}
        if len(lengths) > 1 or min(lengths, default=batch_size) < batch_size:
            raise ValueError(f"batch_size: {batch_size} of minibatches with {sorted(lengths)} rows")
        return jax.tree.map(lambda leaf: leaf[:batch_size], whole)

    return base._replace(batch=batch)


def few_batches(base: Task, low: int = 1, high: int = 1000) -> Task:
    """The base with n minibatches of its training data in all, each step's drawn from them: a small data set. With one
    the problem is deterministic; with few a network learns them by heart, and the loss goes to zero.

    base: the family to wrap; one without minibatches stays as it is
    low: smallest n
    high: largest n; drawn log-uniformly for each member. The minibatches are the member's own

    The other splits are the base's. Raises ValueError for a range that is none.
    """
    if not 1 <= low <= high:
        raise ValueError(f"low, high: {low}, {high}, expected 1 <= low <= high")

    def sample(key):
        size_key, seed_key = jax.random.split(_stream(key))
        size = jnp.exp(jax.random.uniform(size_key, (), jnp.float32, jnp.log(low), jnp.log(high + 1)))
        return {
            "base": base.sample(key),
            "number": jnp.minimum(size.astype(jnp.uint32), np.uint32(high)),
            "seed": jax.random.bits(seed_key, (), jnp.uint32),
        }

    def batch(cfg, data, key, split):
        if split == "train":
            index = jax.random.bits(_stream(key), (), jnp.uint32) % cfg["number"]
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(STREAM), cfg["seed"]), index)
        return base.batch(cfg["base"], data, key, split)

    return _within(base, sample)._replace(batch=batch)


def noisy_gradients(base: Task, std: float = 0.3) -> Task:
    """Gradients g + std · rms(g) · N(0, I), tensor by tensor, anew in each step.

    base: the family to wrap
    std: of the noise, in units of the root mean square of the tensor's gradient
    """

    def change(grads, key):
        leaves, treedef = jax.tree.flatten(grads)
        flat = jax.random.normal(key, (sum(g.size for g in leaves),), jnp.float32)
        noise = jnp.split(flat, [sum(g.size for g in leaves[: i + 1]) for i in range(len(leaves) - 1)])
        noisy = [
            g + (std * _norm(g) / max(g.size, 1) ** 0.5 * n.reshape(g.shape)).astype(g.dtype)
            for g, n in zip(leaves, noise, strict=True)
        ]
        return jax.tree.unflatten(treedef, noisy)

    return _with_gradient(base, change)


def normalized_gradients(base: Task, scope: Literal["global", "tensor"] = "global") -> Task:
    """Gradients g / ||g||: their direction alone.

    base: the family to wrap
    scope: the norm of all tensors together, or each tensor's own

    Raises ValueError for an unknown scope.
    """
    if scope not in ("global", "tensor"):
        raise ValueError(f"scope: unknown {scope!r}, expected one of global, tensor")

    def change(grads, key):
        if scope == "tensor":
            return jax.tree.map(lambda g: (g / _norm(g)).astype(g.dtype), grads)
        norm = jnp.sqrt(sum(jnp.square(_norm(g)) for g in jax.tree.leaves(grads)))
        return jax.tree.map(lambda g: (g / norm).astype(g.dtype), grads)

    return _with_gradient(base, change)


def low_rank_gradients(base: Task, rank: int = 1) -> Task:
    """Gradients of matrices projected to a random space of `rank` dimensions: Q Q^T g, Q = orth(g N(0, I)).

    base: the family to wrap
    rank: of the gradients; matrices with fewer rows or columns, and vectors, keep theirs

    The range finder of Halko, Martinsson & Tropp 2011 (arXiv 0909.4061), as in PowerSGD (arXiv 1905.13727). A tensor
    [..., out] is taken as a matrix [product of the other axes, out]. Raises ValueError for a rank under 1.
    """
    if rank < 1:
        raise ValueError(f"rank: {rank}, expected at least 1")

    def change(grads, key):
        leaves, treedef = jax.tree.flatten(grads)
        keys = jax.random.split(key, max(len(leaves), 1))
        return jax.tree.unflatten(treedef, [_projected(g, k, rank) for g, k in zip(leaves, keys, strict=False)])

    return _with_gradient(base, change)


def delayed_gradients(base: Task, delay: int = 4) -> Task:
    """The base with gradients that arrive late, as from asynchronous workers: step t gets that of step
    max(t - delay, 0), at the params of then, and the loss of its own.

    base: the family to wrap; what it has of a delay is added
    delay: in steps

    Raises ValueError for a delay under 1.
    """
    if delay < 1:
        raise ValueError(f"delay: {delay}, expected at least 1")
    return base._replace(delay=base.delay + delay)


def bfloat16(base: Task) -> Task:
    """The base with parameters, and so gradients, updates and most of the arithmetic, in bfloat16: 8 bits of mantissa.

    base: the family to wrap

    A step that is under 2^-9 of a parameter leaves it where it is.
    """

    def init(cfg, key):
        return optax.tree.cast(base.init(cfg, key), jnp.bfloat16)

    return base._replace(init=init)


def _within(base: Task, sample: Callable[[jax.Array], PyTree]) -> Task:
    """The base with the members of `sample`, which have the base's under "base"."""

    def of_base(fn):
        return lambda cfg, *rest: fn(cfg["base"], *rest)

    init, batch, loss, normalize = map(of_base, (base.init, base.batch, base.loss, base.normalize))
    return base._replace(sample=sample, init=init, batch=batch, loss=loss, normalize=normalize)


def _with_gradient(base: Task, change: Callable[[PyTree, jax.Array], PyTree]) -> Task:
    """The base whose loss has the gradient change(gradient, key) by its parameters, and none by anything else."""

    @jax.custom_vjp
    def loss(cfg, params, batch, key):
        return base.loss(cfg, params, batch, key)

    def forward(cfg, params, batch, key):
        out, grads = jax.value_and_grad(base.loss, argnums=1, has_aux=True)(cfg, params, batch, key)
        return out, change(grads, _stream(key))

    def backward(grads, cotangents):
        return None, jax.tree.map(lambda g: (cotangents[0] * g).astype(g.dtype), grads), None, None

    loss.defvjp(forward, backward)
    return base._replace(loss=loss)


def _stream(key: jax.Array) -> jax.Array:
    return jax.random.fold_in(key, STREAM)


def _norm(x: jax.Array) -> jax.Array:
    """The Euclidean norm in float32 at least, with a finite derivative at zero, and never zero."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jnp.sqrt(jnp.sum(jnp.square(x)) + jnp.finfo(jnp.float32).tiny)


def _projected(g: jax.Array, key: jax.Array, rank: int) -> jax.Array:
    if g.ndim < 2 or min(g.size // g.shape[-1], g.shape[-1]) <= rank:
        return g
    matrix = g.reshape(-1, g.shape[-1]).astype(jnp.promote_types(g.dtype, jnp.float32))
    q = _orthonormal(matrix @ jax.random.normal(key, (matrix.shape[1], rank), matrix.dtype))
    return (q @ (q.T @ matrix)).reshape(g.shape).astype(g.dtype)


def _orthonormal(x: jax.Array) -> jax.Array:
    """Gram-Schmidt on the columns of x [n, k], twice each: as good as QR, and differentiable. Zero stays zero."""
    q = jnp.zeros((len(x), 0), x.dtype)
    for column in x.T:
        for _ in range(2):
            column = column - q @ (q.T @ column)
        q = jnp.concatenate([q, (column / _norm(column))[:, None]], axis=1)
    return q
