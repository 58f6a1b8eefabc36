"""What every data set shares: the error for a missing one, and the splits."""

import numpy as np

Splits = dict[str, dict[str, np.ndarray]]

SEED = 0  # of the permutation that makes the splits: fixed, so that every run sees the same ones


class DataError(Exception):
    """A data set is unknown, absent or unreadable; the message says what to do about it."""


def split(x: np.ndarray, y: np.ndarray, test: tuple[np.ndarray, np.ndarray] | None = None) -> Splits:
    """Disjoint random splits of the rows of `x` [n, ...] and `y` [n].

    A tenth each for inner_valid, outer_valid and test, the rest for train. An official `test` set (x, y) is kept as it
    is, and no row is taken for it. `x` keeps its dtype: float32 of about unit range, or uint8 that means x / 255.
    """
    held_out = ["inner_valid", "outer_valid"] + (["test"] if test is None else [])
    order = np.random.default_rng(SEED).permutation(len(x))
    tenth = len(x) // 10
    rows = {name: order[i * tenth : (i + 1) * tenth] for i, name in enumerate(held_out)}
    rows["train"] = order[len(held_out) * tenth :]
    splits = {name: {"x": x[i], "y": y[i].astype(np.int32)} for name, i in rows.items()}
    if test is not None:
        splits["test"] = {"x": test[0], "y": test[1].astype(np.int32)}
    return splits
