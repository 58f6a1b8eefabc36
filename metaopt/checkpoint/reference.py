"""Weights of the JAX library google/learned_optimization, and of code built on it, as our theta.

One function an architecture: it takes a flat dict of arrays under '/'-joined names, as that library names its leaves,
and gives theta as our architecture of the same name has it.
"""

from collections.abc import Callable, Mapping

import numpy as np

from metaopt.types import PyTree

Arrays = Mapping[str, np.ndarray]


def from_reference(name: str, arrays: Arrays) -> PyTree:
    """theta of our architecture `name` from the other implementation's leaves, '/'-joined name -> array.

    Raises ValueError when no other implementation of it is known, KeyError for a leaf that is not there.
    """
    if name not in REFERENCE:
        raise ValueError(f"{name}: weights can be imported for {', '.join(REFERENCE)}")
    return REFERENCE[name](arrays)


def _mlp(arrays: Arrays) -> PyTree:
    return {f"{kind}{i}": arrays[f"mlp/~/linear_{i}/{kind}"] for i in range(len(arrays) // 2) for kind in "wb"}


def _adafac_mlp(arrays: Arrays) -> PyTree:
    network = {name.removeprefix("nn/~/"): x for name, x in arrays.items() if name.startswith("nn/")}
    decays = [arrays[f"{kind}_decays"] for kind in ("momentum", "rms", "adafactor")]
    return {"mlp": network, "decays": dict(zip(("m", "v", "factored"), decays, strict=True))}


REFERENCE: dict[str, Callable[[Arrays], PyTree]] = {
    "mlp": _mlp,
    "adafac_mlp": _adafac_mlp,
}
