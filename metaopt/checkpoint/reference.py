"""Weights of the JAX library google/learned_optimization, and of code built on it, as our theta.

One function an architecture: it takes a flat dict of arrays under '/'-joined names, as that library names its leaves,
and gives theta as our architecture of the same name has it.
"""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

from metaopt.checkpoint.files import CheckpointError, named_leaves, nearest
from metaopt.checkpoint.foreign import read_arrays
from metaopt.checkpoint.weights import fitted
from metaopt.types import PyTree

Arrays = Mapping[str, np.ndarray]
MISFITS = (IndexError, KeyError, TypeError, ValueError)  # of arrays that are not an architecture's


def from_reference(name: str, arrays: Arrays) -> PyTree:
    """theta of our architecture `name` from the other implementation's leaves, '/'-joined name -> array.

    Raises ValueError when no other implementation of it is known, KeyError for a leaf that is not there.
    """
    if name not in REFERENCE:
        raise ValueError(f"{name}: weights can be imported for {', '.join(REFERENCE)}")
    return REFERENCE[name](arrays)


def read_reference(path: str | Path, name: str, template: PyTree, architecture: str) -> tuple[PyTree, str, list[str]]:
    """(theta in the structure of `template`, sha256 of the file, what in the file `name` has no use for).

    Raises CheckpointError that names the file for one that `read_arrays` cannot read, the leaf for one that is missing
    in the file, or, in our names, of another shape or dtype than in `template`. `architecture` says what that is of.
    """
    arrays, digest = read_arrays(path)
    try:
        theta = from_reference(name, arrays)
    except KeyError as error:
        leaf = str(error.args[0])
        problem = f"no leaf {leaf!r}, which weights of {name} have{nearest(leaf, arrays)}"
        raise CheckpointError(f"{path}: {problem}{_readers(arrays)}") from None
    except MISFITS as error:
        problem = f"the leaves do not go together as weights of {name} do ({error})"
        raise CheckpointError(f"{path}: {problem}{_readers(arrays)}") from error
    theta = fitted(path, {leaf: np.asarray(x) for leaf, x in named_leaves(theta)}, template, architecture)
    return theta, digest, _unused(name, arrays)


def _readers(arrays: Arrays) -> str:
    """For the end of a message: the architectures whose weights the arrays could be by their names, if any."""
    readers = []
    for name in REFERENCE:
        with contextlib.suppress(*MISFITS):
            from_reference(name, arrays)
            readers.append(name)
    return f"; the file reads as weights of {' or '.join(readers)}" if readers else ""


def _unused(name: str, arrays: Arrays) -> list[str]:
    """The leaves that do not reach our theta, by their folder where that is all in it: a NaN there goes nowhere."""
    used = set()
    for leaf, x in arrays.items():
        theta = from_reference(name, {**arrays, leaf: np.full_like(x, np.nan, dtype=np.float32)})
        if any(np.isnan(x).any() for x in jax.tree.leaves(theta)):
            used.add(leaf)
    folders = {leaf.rpartition("/")[0] for leaf in used} | {""}
    parts = [leaf if (folder := leaf.rpartition("/")[0]) in folders else folder for leaf in arrays if leaf not in used]
    return list(dict.fromkeys(parts))


def _mlp(arrays: Arrays) -> PyTree:
    return {f"{kind}{i}": arrays[f"mlp/~/linear_{i}/{kind}"] for i in range(len(arrays) // 2) for kind in "wb"}


def _adafac_mlp(arrays: Arrays) -> PyTree:
    network = {name.removeprefix("nn/~/"): x for name, x in arrays.items() if name.startswith("nn/")}
    decays = [arrays[f"{kind}_decays"] for kind in ("momentum", "rms", "adafactor")]
    return {"mlp": network, "decays": dict(zip(("m", "v", "factored"), decays, strict=True))}


def _rnn_mlp(arrays: Arrays) -> PyTree:
    def linear(name: str) -> PyTree:
        return {kind: arrays[f"{name}/{kind}"] for kind in "wb"}

    # rows of the LSTM's inputs there, in our order: magnitudes (means of m, v, p, their variances, norms of g and p),
    # signs, is it a scalar, axes; from the MLP; losses; from the LSTM; the hidden state
    rows = [36, 38, 40, 49, 50, 51, 34, 42, 37, 39, 41, 35, *range(43, 47)]
    lstm = linear("rnn_params/rnn/linear")
    rows += [*range(18, 34), 47, 48, *range(18), *range(52, len(lstm["w"]))]
    names = {"hidden": "lstm_init_state/hidden", "cell": "lstm_init_state/cell"}
    names |= {"from_mlp": "initial_from_mlp", "from_lstm": "initial_from_lstm"}
    return {
        "mlp": {f"{kind}{i}": arrays[f"ffmod_params/mlp/~/linear_{i}/{kind}"] for i in range(3) for kind in "wb"},
        "lstm": lstm | {"w": lstm["w"][np.array(rows)]},
        "to_mlp": linear("rnn_to_ff_params/rnn_to_ff"),
        "to_lstm": linear("rnn_to_in_params/rnn_to_in"),
        "start": {name: arrays[there].reshape(-1) for name, there in names.items()},
    }


def _velo(arrays: Arrays) -> PyTree:
    controls = {kind: arrays[f"rnn_params/rnn_to_controls/{kind}"] for kind in "wb"}
    return {"recurrent": _recurrent(arrays), "controls": controls, "bank": _bank(arrays)}


def _celo(arrays: Arrays) -> PyTree:
    network = {name: x[0] if len(x) == 1 else x for name, x in _bank(arrays).items()}
    return {"network": network, "scheduler": _recurrent(arrays)}


def _celo2(arrays: Arrays) -> PyTree:
    network = _bank(arrays)
    last = (len(network) - 1) // 2
    return {**network, **{f"{kind}{last}": network[f"{kind}{last}"][..., :1] for kind in "wb"}}  # d alone


def _recurrent(arrays: Arrays) -> PyTree:
    """The share of `metaopt.optimizers._hypernet` in a theta; the layer `linear` there does nothing."""
    names = {"own": "linear_2", "pooled": "linear_1", "lstm": "rnn/linear", "lr": "step_size"}
    layers = {name: {kind: arrays[f"rnn_params/{there}/{kind}"] for kind in "wb"} for name, there in names.items()}
    return {"start": {name: arrays[f"lstm_init_state/{name}"][0] for name in ("hidden", "cell")}, **layers}


def _bank(arrays: Arrays) -> dict[str, np.ndarray]:
    """Networks side by side, w0 [*networks, inputs, hidden], ..., without their third output, which does nothing."""
    folder = "ff_mod_stack/~/"
    *networks, hidden = arrays[f"{folder}b0"].shape
    order = (0, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 1, 8)  # there, of our groups of features
    pieces = {name: arrays[name] for name in (f"{folder}w0__{i}" for i in order)}
    for name, x in pieces.items():
        if [*x.shape[:-2], *x.shape[-1:]] != [*networks, hidden]:
            expected = ", ".join(map(str, [*networks, "inputs", hidden]))
            raise ValueError(f"leaf {name!r}: expected [{expected}], found {list(x.shape)}")
    others = [name for name in arrays if name.startswith(folder) and "__" not in name]
    bank = {name.removeprefix(folder): arrays[name] for name in others}
    last = max(int(name[1:]) for name in bank)
    outputs = {f"{kind}{last}": arrays[f"{folder}{kind}{last}"][..., :2] for kind in "wb"}
    return {"w0": np.concatenate(list(pieces.values()), axis=-2), **bank, **outputs}


REFERENCE: dict[str, Callable[[Arrays], PyTree]] = {
    "mlp": _mlp,
    "rnn_mlp": _rnn_mlp,
    "adafac_mlp": _adafac_mlp,
    "velo": _velo,
    "celo": _celo,
    "celo_adam": _recurrent,
    "celo2": _celo2,
}

# Arguments of the weights as they were published, where these differ from our defaults: an import starts from them.
PUBLISHED: dict[str, dict[str, int | float]] = {
    "velo": {"lstm_hidden": 512, "bank": 256, "bank_mult": 100.0},
}
