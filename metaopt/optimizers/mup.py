"""muP for any learned optimizer: Thérien et al. 2024 (arXiv 2406.00153, "muLO"), after Yang et al. 2022 (2203.03466).

The base's step u, scaled in hidden matrices:

    p <- p + width / fan_in · u     in hidden matrices; fan_in: the product of all axes but the last
    p <- p + u                      elsewhere: input and output matrices, biases, scalars

width = 1 is the paper's rule. It is one half of muP; the other is the model's: initial variances 1/fan_in in input and
hidden layers and 1 in the output layer, whose inputs are divided by its fan_in (`parametrization: mup` of `image_mlp`).
Every layer's outputs then move by as much in a wide model as in a narrow one, and a theta trained on narrow models fits
wide ones. That holds for bases whose steps do not grow with the gradient's scale, as the learned ones' and Adam's do
not. Theta, state, and the use of loss and horizon are the base's own: weights serve with the wrapper and without.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import optax

from metaopt.types import LearnedOptimizer, PyTree

Matrices = dict[str, tuple[int, ...]]  # shapes by path, in the model's order


def mup(base: LearnedOptimizer, hidden: str | None = None, width: int = 1) -> LearnedOptimizer:
    """`base` with its steps in hidden matrices multiplied by width / fan_in.

    base: the optimizer that makes the steps
    hidden: regular expression, searched for in paths such as layers/1/kernel; null: all of a chain but its two ends
    width: fan-in at which a hidden step is the base's own, for weights that were trained without muP at that width

    A matrix is a leaf of rank 2 or more that is not empty: a dense kernel [in, out], a convolution's [..., in, out].
    Without `hidden` a model's matrices, in the order of their paths (numbers in them as numbers), must be a chain in
    which each takes as many inputs as the one before gives outputs; a model with fewer than three has no hidden one. A
    pattern picks the matrices whose paths it is found in, whatever their order.

    Raises ValueError for a malformed pattern or a width that is not positive. Its `update` raises it, while traced, for
    a model of three matrices or more that are no chain, or in none of whose paths the pattern is found.
    """
    if not width > 0:
        raise ValueError(f"width: must be positive, got {width}")
    try:
        pattern = None if hidden is None else re.compile(hidden)
    except re.error as error:
        raise ValueError(f"hidden: {hidden!r} is no regular expression: {error}") from None

    def build(theta: PyTree, num_steps: jax.Array | int) -> optax.GradientTransformationExtraArgs:
        tx = base.build(theta, num_steps)

        @functools.wraps(tx.update)  # its signature says whether the loss is required
        def update_fn(grads, state, params=None, **extra):
            updates, state = tx.update(grads, state, params, **extra)
            return scale_hidden(updates, pattern, width), state

        return optax.GradientTransformationExtraArgs(tx.init, update_fn)

    return LearnedOptimizer(base.init, build)


def scale_hidden(updates: PyTree, pattern: re.Pattern[str] | None, width: float) -> PyTree:
    """The hidden matrices' updates times width / fan_in, multiplied in float32 at least, in their own dtype."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(updates)
    named = [(jax.tree_util.keystr(path, simple=True, separator="/"), u) for path, u in leaves]
    matrices = {path: u.shape for path, u in named if u.ndim >= 2 and u.size > 0}
    chosen = _hidden(dict(sorted(matrices.items(), key=lambda item: _natural(item[0]))), pattern)

    def scaled(path, u):
        if path not in chosen:
            return u
        wide = u.astype(jnp.promote_types(u.dtype, jnp.float32))
        return (wide * (width / math.prod(u.shape[:-1]))).astype(u.dtype)

    return jax.tree.unflatten(treedef, [scaled(path, u) for path, u in named])


def _hidden(matrices: Matrices, pattern: re.Pattern[str] | None) -> set[str]:
    """The paths of the hidden matrices."""
    paths = list(matrices)
    if pattern is not None:
        found = {path for path in paths if pattern.search(path)}
        if not found and len(paths) > 2:
            raise ValueError(f"hidden: {pattern.pattern!r} is in no path of the model's matrices: {', '.join(paths)}")
        return found
    if len(paths) > 2:
        _check_chain(matrices)
    return set(paths[1:-1])


def _check_chain(matrices: Matrices) -> None:
    """ValueError where the order of the paths is not that of the layers: nothing then tells the first and the last."""
    layers = list(matrices.items())
    for (before, (*_, outputs)), (after, (*_, inputs, _)) in zip(layers, layers[1:], strict=False):
        if inputs != outputs:
            raise ValueError(
                f"hidden: {after} takes {inputs} inputs and {before}, in front of it by name, gives {outputs} outputs, "
                "so the matrices are no chain of layers: give a pattern of the hidden ones' paths"
            )


def _natural(path: str) -> list[int | str]:
    """w10 after w2."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path)]
