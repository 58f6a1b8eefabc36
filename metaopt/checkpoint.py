"""What is kept on disk: the weights of a learned optimizer (safetensors), and the state of a run (orbax).

Neither format holds code, so that reading a file never runs any. All that a user has to know is a CheckpointError.

A run state is a folder `<step>/` written by orbax, and beside it `<step>.json`, a manifest with the size and the
sha256 of each file, which is written last and atomically: a folder without a manifest is the leftover of a killed save.
"""

import difflib
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metaopt.types import PyTree

FORMAT = 1  # of the metadata of a weights file


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


# ---- weights -------------------------------------------------------------------------------------------------------


def save_weights(path: str | Path, theta: PyTree, meta: dict[str, Any]) -> None:
    """Writes theta and JSON metadata; equal arguments give equal bytes.

    There is one metadata key, "metaopt", because safetensors does not keep the order of several.
    """
    from safetensors.numpy import save

    tensors = {name: np.asarray(x, order="C") for name, x in _named_leaves(theta)}
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
    arrays, _ = read_weights(path)
    wanted = dict(_named_leaves(template))
    problems = []
    for name, leaf in wanted.items():
        expected = f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
        if name not in arrays:
            near = [f"; nearest: {other!r}" for other in difflib.get_close_matches(name, arrays, n=1)]
            problems.append("".join([f"leaf {name!r}: expected {expected}, found none", *near]))
        elif (arrays[name].shape, arrays[name].dtype) != (leaf.shape, leaf.dtype):
            found = f"{arrays[name].dtype.name}{list(arrays[name].shape)}"
            problems.append(f"leaf {name!r}: expected {expected}, found {found}")
    problems += [f"leaf {name!r}: not a part of this architecture" for name in arrays if name not in wanted]
    if problems:
        raise CheckpointError("\n  ".join([f"{path}: the weights do not fit the architecture", *problems]))
    return jax.tree.unflatten(jax.tree.structure(template), [arrays[name] for name in wanted])


def _named_leaves(tree: PyTree, separator: str = "/") -> list[tuple[str, Any]]:
    """Leaves with their joined paths; a tree that is one bare leaf calls it 'theta'."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator=separator) or "theta", leaf) for path, leaf in leaves]


# ---- run state -----------------------------------------------------------------------------------------------------


def save_state(folder: str | Path, step: int, state: PyTree, extra: dict[str, Any], keep: int = 3) -> None:
    """Saves the arrays of `state` and the JSON values of `extra` as of outer step `step`; keeps the last `keep`."""
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    _remove(folder, step)
    _clean(folder)
    with _orbax() as checkpointer:
        checkpointer.save(folder / str(step), _stored(state))
    body = {"step": step, "extra": extra, "files": _hashes(folder / str(step))}
    write_atomic(folder / f"{step}.json", json.dumps({"body": body, "sha256": _digest(body)}, indent=1).encode())
    for old in _steps(folder)[:-keep]:
        _remove(folder, old)


def restore_latest(folder: str | Path, template: PyTree) -> tuple[int, PyTree, dict[str, Any]] | None:
    """The newest intact state as (step, state, extra); None when nothing was ever saved.

    `template` gives structure, shapes, dtypes and shardings. A damaged checkpoint is named in a warning, with what is
    wrong with it, and the one before it is used. Raises CheckpointError when all are damaged, or when an intact one
    does not fit the template.
    """
    folder = Path(folder).absolute()
    if not folder.is_dir():
        return None
    _clean(folder)
    steps = _steps(folder)
    for step in reversed(steps):
        try:
            extra = _verify(folder, step)
        except CheckpointError as error:
            warnings.warn(f"damaged checkpoint left out: {error}", RuntimeWarning, stacklevel=2)
            continue
        return step, _read_state(folder / str(step), template), extra
    if steps:
        raise CheckpointError(f"{folder}: every checkpoint is damaged; remove the folder to start from the beginning")
    return None


def _read_state(path: Path, template: PyTree) -> PyTree:
    try:
        with _orbax() as checkpointer:
            stored = checkpointer.restore(path, _stored(template))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: saved by a run of another structure ({error})") from error

    def leaf(name: str, like: Any) -> Any:
        if like.size == 0:
            return like
        return jax.random.wrap_key_data(stored[name], impl=jax.random.key_impl(like)) if _is_key(like) else stored[name]

    leaves = [leaf(name, like) for name, like in _named_leaves(template, ".")]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _stored(state: PyTree) -> dict[str, Any]:
    """The leaves by name: random keys as their data, and without the empty ones, which orbax refuses."""
    leaves = [(name, x) for name, x in _named_leaves(state, ".") if x.size]
    return {name: jax.random.key_data(x) if _is_key(x) else x for name, x in leaves}


def _is_key(x: Any) -> bool:
    return jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)


def _orbax() -> Any:
    import orbax.checkpoint as ocp

    return ocp.Checkpointer(ocp.StandardCheckpointHandler())


def _verify(folder: Path, step: int) -> dict[str, Any]:
    """Compares every file with the manifest; returns `extra`."""
    manifest = folder / f"{step}.json"
    try:
        content = json.loads(manifest.read_text())
        body, digest = content["body"], content["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{manifest} is not a readable manifest") from error
    if digest != _digest(body):
        raise CheckpointError(f"{manifest} was changed after it was written")
    for name, (size, sha256) in body["files"].items():
        path = folder / str(step) / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        if path.stat().st_size != size:
            raise CheckpointError(f"{path} has {path.stat().st_size} bytes, {size} were written")
        if _sha256(path) != sha256:
            raise CheckpointError(f"{path} was changed after it was written (sha256 differs)")
    return body["extra"]


def _hashes(folder: Path) -> dict[str, list[Any]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): [path.stat().st_size, _sha256(path)] for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _steps(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob("*.json") if path.stem.isdigit())


def _remove(folder: Path, step: int) -> None:
    """The manifest goes first: killed in between, what remains is a leftover."""
    (folder / f"{step}.json").unlink(missing_ok=True)
    shutil.rmtree(folder / str(step), ignore_errors=True)


def _clean(folder: Path) -> None:
    """Removes what a killed save left: folders without a manifest, temporary files."""
    steps = {str(step) for step in _steps(folder)}
    for path in folder.iterdir():
        if path.is_dir() and path.name not in steps:
            shutil.rmtree(path, ignore_errors=True)
        elif path.name.endswith(".tmp"):
            path.unlink(missing_ok=True)
