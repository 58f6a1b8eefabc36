"""What the formats share: the error, the atomic write, the names of leaves."""

import difflib
from collections.abc import Iterable
from typing import Any

import jax

from metaopt.files import write_atomic
from metaopt.types import PyTree

__all__ = ["CheckpointError", "named_leaves", "nearest", "write_atomic"]


class CheckpointError(Exception):
    """A file that cannot be used; the message names it and says why."""


def named_leaves(tree: PyTree, separator: str = "/") -> list[tuple[str, Any]]:
    """Leaves with their joined paths; a tree that is one bare leaf calls it 'theta'."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator=separator) or "theta", leaf) for path, leaf in leaves]


def nearest(name: str, names: Iterable[str]) -> str:
    """For the end of a message about a leaf that is not there: '; nearest: ...', or ''."""
    return "".join(f"; nearest: {other!r}" for other in difflib.get_close_matches(name, list(names), n=1))
