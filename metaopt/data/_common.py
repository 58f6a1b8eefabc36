"""What every data set shares: the error for a missing one, the splits, the kinds."""

import numpy as np

Splits = dict[str, dict[str, np.ndarray]]

SEED = 0  # of the permutation that makes the splits: fixed, so that every run sees the same ones
WINDOW = 128  # bytes of a row of text
KINDS = ("classes", "regression", "text")


class DataError(Exception):
    """A data set is unknown, absent or unreadable; the message says what to do about it."""


def split(x: np.ndarray, y: np.ndarray, test: tuple[np.ndarray, np.ndarray] | None = None) -> Splits:
    """Disjoint random splits of the rows of `x` [n, ...] and `y` [n].

    A tenth each for inner_valid, outer_valid and test, the rest for train. An official `test` set (x, y) is kept as it
    is, and no row is taken for it. `x` keeps its dtype: float32 of about unit range, or uint8 that means x / 255; `y`
    becomes float32 where it has decimals (regression), else int32 (classes).
    """
    held_out = ["inner_valid", "outer_valid"] + (["test"] if test is None else [])
    order = np.random.default_rng(SEED).permutation(len(x))
    tenth = len(x) // 10
    rows = {name: order[i * tenth : (i + 1) * tenth] for i, name in enumerate(held_out)}
    rows["train"] = order[len(held_out) * tenth :]
    dtype = np.float32 if np.issubdtype(y.dtype, np.floating) else np.int32
    splits = {name: {"x": x[i], "y": y[i].astype(dtype)} for name, i in rows.items()}
    if test is not None:
        splits["test"] = {"x": test[0], "y": test[1].astype(dtype)}
    return splits


def split_text(text: bytes, test: bytes | None = None) -> Splits:
    """Splits {"tokens": uint8 [n, WINDOW]} of a text: consecutive windows of its bytes, none of which overlap.

    Each split is one contiguous region, so that no sentence is in two of them: the first seven tenths are train, then
    a tenth each for inner_valid, outer_valid and test; with an official `test` text, eight tenths are train. What is
    left over at the end, under a window, is dropped. Raises DataError for a text of under ten windows.
    """
    tokens = windows(text)
    names = ["inner_valid", "outer_valid"] + (["test"] if test is None else [])
    tenth = len(tokens) // 10
    ends = np.cumsum([len(tokens) - len(names) * tenth, *[tenth] * len(names)])
    splits = {name: {"tokens": part} for name, part in zip(["train", *names], np.split(tokens, ends[:-1]), strict=True)}
    if test is not None:
        splits["test"] = {"tokens": windows(test)}
    if tenth == 0 or len(splits["test"]["tokens"]) == 0:
        raise DataError(f"a text needs at least {10 * WINDOW} bytes ({WINDOW} in its test part), got {len(text)}")
    return splits


def windows(text: bytes) -> np.ndarray:
    """uint8 [n, WINDOW]: the text cut into rows."""
    n = len(text) // WINDOW
    return np.frombuffer(text, np.uint8, count=n * WINDOW).reshape(n, WINDOW)


def standardise(splits: Splits) -> Splits:
    """Float inputs `x` with zero mean and unit variance, column by column, over the train split; a constant is 0."""
    x = splits["train"]["x"]
    mean, std = x.mean(axis=0), x.std(axis=0)
    std[std == 0] = 1
    return {name: {**part, "x": (part["x"] - mean) / std} for name, part in splits.items()}


def kind_of(splits: Splits) -> str:
    """One of KINDS: text has tokens; regression has (x, y) with float y; classes has (x, y) with integer y."""
    train = splits["train"]
    if "tokens" in train:
        return "text"
    return "regression" if np.issubdtype(train["y"].dtype, np.floating) else "classes"
