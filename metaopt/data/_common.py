"""What every data set shares: the error for a missing one, the splits, the kinds."""

import numpy as np

Splits = dict[str, dict[str, np.ndarray]]
Arrays = dict[str, np.ndarray]  # before it is split: {"x", "y"} or {"text"}, and an official "test_x", ... if there is

SEED = 0  # of the permutation that makes the splits: fixed, so that every run sees the same ones
WINDOW = 128  # bytes of a row of text
KINDS = ("classes", "regression", "text")
LIMIT = 2**31  # bytes of an array: what is larger does not belong on a device as a whole


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


def splits_of(arrays: Arrays) -> Splits:
    """The splits of arrays that passed `checked`: numbers other than bytes are standardised."""
    if "text" in arrays:
        test = arrays.get("test_text")
        return split_text(arrays["text"].tobytes(), None if test is None else test.tobytes())
    official = (arrays["test_x"], arrays["test_y"]) if "test_x" in arrays else None
    return standardise(split(arrays["x"], arrays["y"], official))


def standardise(splits: Splits) -> Splits:
    """Float arrays with zero mean and unit variance over the train split; a constant becomes 0, bytes stay.

    Tables [n, columns] column by column, arrays of higher rank and targets [n] as a whole.
    """
    scaled: Splits = {name: dict(part) for name, part in splits.items()}
    for key, array in splits["train"].items():
        if np.issubdtype(array.dtype, np.floating):
            axis = 0 if array.ndim == 2 else None
            mean, std = array.mean(axis=axis), np.asarray(array.std(axis=axis))
            std = np.where(std == 0, np.ones_like(std), std)
            for part in scaled.values():
                part[key] = (part[key] - mean) / std
    return scaled


def checked(arrays: Arrays) -> Arrays:
    """The arrays, if `splits_of` can serve them. Raises DataError, which says what is wrong with which."""
    if "text" in arrays:
        return arrays
    shape = arrays["x"].shape[1:]
    for prefix in ("", "test_") if "test_x" in arrays else ("",):
        x, y = arrays[prefix + "x"], arrays[prefix + "y"]
        if y.shape != (len(x),) or x.ndim < 2 or x.shape[1:] != shape or 0 in x.shape:
            raise DataError(
                f"{prefix}x {list(x.shape)} and {prefix}y {list(y.shape)} are no rows {list(shape)} with labels"
            )
        if x.dtype not in (np.uint8, np.float32) or x.nbytes > LIMIT:
            raise DataError(
                f"{prefix}x is {x.dtype}, {x.nbytes} bytes; uint8 or float32 up to {LIMIT >> 20} MiB is served"
            )
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise DataError(f"{prefix}x or {prefix}y has numbers that are not finite")
        if not np.issubdtype(y.dtype, np.floating) and y.min() < 0:
            raise DataError(f"{prefix}y has negative labels (often: rows whose label is kept secret)")
    if len(arrays["x"]) < 10:
        raise DataError(f"{len(arrays['x'])} rows are too few to be split: at least 10 are needed")
    return arrays


def kind_of(splits: Splits) -> str:
    """One of KINDS: text has tokens; regression has (x, y) with float y; classes has (x, y) with integer y."""
    train = splits["train"]
    if "tokens" in train:
        return "text"
    return "regression" if np.issubdtype(train["y"].dtype, np.floating) else "classes"
