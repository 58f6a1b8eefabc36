"""The state of a run, as written by orbax.

It is a folder `<step>/`, and beside it `<step>.json`, a manifest with the size and the sha256 of each file, which is
written last and atomically: a folder without a manifest is the leftover of a killed save.
"""

import hashlib
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import jax

from metaopt.checkpoint.files import CheckpointError, named_leaves, write_atomic
from metaopt.types import PyTree


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

    leaves = [leaf(name, like) for name, like in named_leaves(template, ".")]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _stored(state: PyTree) -> dict[str, Any]:
    """The leaves by name: random keys as their data, and without the empty ones, which orbax refuses."""
    leaves = [(name, x) for name, x in named_leaves(state, ".") if x.size]
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
