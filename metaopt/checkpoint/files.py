"""What the formats share: the error, the atomic write, the names of leaves."""

import difflib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

from metaopt.types import PyTree


class CheckpointError(Exception):
    """A file that cannot be used; the message names it and says why."""


def write_atomic(path: str | Path, content: bytes) -> None:
    """Replaces the file in one step: a reader, or a run killed meanwhile, sees the old content or the new one."""
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def named_leaves(tree: PyTree, separator: str = "/") -> list[tuple[str, Any]]:
    """Leaves with their joined paths; a tree that is one bare leaf calls it 'theta'."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator=separator) or "theta", leaf) for path, leaf in leaves]


def nearest(name: str, names: Iterable[str]) -> str:
    """For the end of a message about a leaf that is not there: '; nearest: ...', or ''."""
    return "".join(f"; nearest: {other!r}" for other in difflib.get_close_matches(name, list(names), n=1))
