"""Learned optimizers from files, as ordinary optax transformations.

This is the one place where theta is closed over: what comes out is used like `optax.adam(...)`.
"""

import difflib
import inspect
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metaopt.checkpoint import CheckpointError, read_weights, restore_weights
from metaopt.optimizers import make
from metaopt.types import LearnedOptimizer, PyTree

PRETRAINED = Path(__file__).parent / "pretrained"
FLAGSHIP = "anchor-2"  # what `load` without a name gives


class Learned(NamedTuple):
    """A learned optimizer as a file has it: architecture, meta-parameters, and where they come from."""

    optimizer: LearnedOptimizer
    theta: PyTree  # float32 on the device
    meta: dict[str, Any]
    path: Path


def load(name_or_path: str | Path = FLAGSHIP, *, num_steps: int) -> optax.GradientTransformationExtraArgs:
    """A learned optimizer for a training of `num_steps` steps.

    `name_or_path` is a name that ships with the package, a .safetensors file, or a run folder; without one it is the
    optimizer that metaopt recommends, about which metaopt/pretrained has a card. Then, as in optax:

        state = opt.init(params);    updates, state = opt.update(grads, state, params, value=loss)

    The updates have the dtypes of the params; unknown extra arguments are ignored. `update` raises ValueError when
    params are missing, or when value is missing and the architecture uses the loss. Raises CheckpointError when there
    are no such weights or they do not fit, ValueError when num_steps is not positive.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be the number of steps of the training, got {num_steps}")
    learned = read(name_or_path)
    tx = learned.optimizer.build(learned.theta, num_steps)
    architecture = learned.meta["optimizer"]["name"]
    value = inspect.signature(tx.update).parameters.get("value")
    needs_value = value is not None and value.default is inspect.Parameter.empty

    def update(grads: PyTree, state: PyTree, params: PyTree = None, **extra: Any) -> tuple[PyTree, PyTree]:
        if params is None:
            raise ValueError(f"{architecture} uses the parameters: call opt.update(grads, state, params)")
        if needs_value and extra.get("value") is None:
            raise ValueError(f"{architecture} uses the loss: call opt.update(grads, state, params, value=loss)")
        updates, state = tx.update(grads, state, params, **extra)
        return jax.tree.map(lambda u, p: u.astype(p.dtype), updates, params), state

    return optax.GradientTransformationExtraArgs(tx.init, update)


def read(name_or_path: str | Path) -> Learned:
    """Reads architecture and weights. Raises CheckpointError."""
    path = find(name_or_path)
    _, meta = read_weights(path)
    try:
        optimizer = make(meta["optimizer"])
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    theta = restore_weights(path, jax.eval_shape(optimizer.init, jax.random.key(0)))
    return Learned(optimizer, jax.tree.map(jnp.asarray, theta), meta, path)


def names() -> list[str]:
    """The weights that ship with the package."""
    return sorted(file.stem for file in PRETRAINED.glob("*.safetensors"))


def find(name_or_path: str | Path) -> Path:
    """The weights file that a name, a file or a run folder stands for. Raises CheckpointError."""
    path = Path(name_or_path)
    if path.is_dir():
        if not (path / "theta.safetensors").is_file():
            raise CheckpointError(f"{path} holds no theta.safetensors: not a run folder, or no weights saved yet")
        return path / "theta.safetensors"
    if path.is_file():
        return path
    if str(name_or_path) in names():
        return PRETRAINED / f"{name_or_path}.safetensors"
    runs = [str(file.parent) for file in path.parent.glob("*/theta.safetensors")]
    near = difflib.get_close_matches(str(path), [*names(), *runs, *map(str, path.parent.glob("*.safetensors"))], 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    if path.suffix == ".safetensors":
        raise CheckpointError(f"{path}: no such file{hint}")
    known = ", ".join(names()) or "none yet"
    raise CheckpointError(
        f"no weights {str(name_or_path)!r}: give a .safetensors file, a run folder, or a name that ships with metaopt "
        f"({known}){hint}"
    )
