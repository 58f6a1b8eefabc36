"""Training a part of theta: an optimizer whose theta is the trained leaves alone, the frozen ones built in.

What perturbs, differentiates, clips or updates theta then never meets a frozen leaf. Frozen leaves are constants of the
compiled programs.
"""

import difflib
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metaopt.checkpoint import named_leaves
from metaopt.types import LearnedOptimizer, PyTree


class Part(NamedTuple):
    """A part of an optimizer's theta to train."""

    optimizer: LearnedOptimizer  # its theta: {path: array} of the trained leaves; `init` ignores the key
    merge: Callable[[PyTree], PyTree]  # that -> the whole theta


def freeze(optimizer: LearnedOptimizer, theta: PyTree, pattern: str) -> Part:
    """The part of `optimizer` without the leaves in whose paths `pattern` is found (`re.search`), these as in `theta`.

    Paths are those of weights files, such as network/w0: "^network/" is a folder, "w0$" every leaf of that name.
    Raises ValueError when the pattern is found in no path, or in all.
    """
    leaves, structure = dict(named_leaves(theta)), jax.tree.structure(theta)
    frozen = {path: np.asarray(leaf) for path, leaf in leaves.items() if re.search(pattern, path)}
    if not frozen:
        raise ValueError(f"{pattern!r} is in no path of theta's leaves, {', '.join(leaves)}{_nearest(pattern, leaves)}")
    if len(frozen) == len(leaves):
        raise ValueError(f"{pattern!r} is in the path of every leaf, {', '.join(leaves)}: nothing is left to train")
    trained = {path: jnp.asarray(leaf) for path, leaf in leaves.items() if path not in frozen}

    def merge(part: PyTree) -> PyTree:
        return jax.tree.unflatten(structure, [part[p] if p in part else jnp.asarray(frozen[p]) for p in leaves])

    def build(part: PyTree, num_steps: jax.Array | int) -> optax.GradientTransformationExtraArgs:
        return optimizer.build(merge(part), num_steps)

    return Part(LearnedOptimizer(lambda key: trained, build), merge)


def _nearest(pattern: str, paths: Iterable[str]) -> str:
    """For the end of a message: the leaf, or the folder of leaves, whose path is most like the pattern."""
    parts = [path.split("/") for path in paths]
    known = {"/".join(part[:i]): None for part in parts for i in range(1, len(part) + 1)}
    return "".join(f"; nearest: {path!r}" for path in difflib.get_close_matches(pattern, list(known), n=1))
