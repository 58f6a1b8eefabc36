"""The weights of a learned optimizer, as safetensors with JSON metadata."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metaopt.checkpoint.files import CheckpointError, named_leaves, nearest, write_atomic
from metaopt.types import PyTree

FORMAT = 1  # of the metadata of a weights file


def save_weights(path: str | Path, theta: PyTree, meta: dict[str, Any]) -> None:
    """Writes theta and JSON metadata; equal arguments give equal bytes.

    There is one metadata key, "metaopt", because safetensors does not keep the order of several.
    """
    from safetensors.numpy import save

    tensors = {name: np.asarray(x, order="C") for name, x in named_leaves(theta)}
    text = json.dumps({"format": FORMAT, **meta}, sort_keys=True)
    write_atomic(path, save(tensors, metadata={"metaopt": text}))


def read_weights(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns (arrays by name, metadata). Raises CheckpointError for a missing, damaged or foreign file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as file:
            meta = json.loads((file.metadata() or {})["metaopt"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    except (KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: no metaopt metadata in it; was it written by metaopt?") from error
    if meta.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format {meta.get('format')}, this version of metaopt reads format {FORMAT}")
    return arrays, meta


def restore_weights(path: str | Path, template: PyTree) -> PyTree:
    """Reads theta into the structure of `template` (arrays or ShapeDtypeStructs), as arrays on the host.

    Raises CheckpointError that names the file and every leaf that is missing, unexpected, or of another shape or dtype.
    """
    return fitted(path, read_weights(path)[0], template)


def fitted(
    path: str | Path, arrays: Mapping[str, np.ndarray], template: PyTree, architecture: str = "the architecture"
) -> PyTree:
    """The arrays, by name as in `named_leaves`, in the structure of `template`; errors as in `restore_weights`."""
    wanted = dict(named_leaves(template))
    problems = []
    for name, leaf in wanted.items():
        if name not in arrays:
            problems.append(f"leaf {name!r}: expected {_kind(leaf)}, found none{nearest(name, arrays)}")
        elif _kind(arrays[name]) != _kind(leaf):
            problems.append(f"leaf {name!r}: expected {_kind(leaf)}, found {_kind(arrays[name])}")
    problems += [f"leaf {name!r}: not a part of this architecture" for name in arrays if name not in wanted]
    if problems:
        raise CheckpointError("\n  ".join([f"{path}: the weights do not fit {architecture}", *problems]))
    return jax.tree.unflatten(jax.tree.structure(template), [arrays[name] for name in wanted])


def _kind(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
