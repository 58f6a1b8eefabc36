"""What `metaopt data list` shows: every data set that this machine has, where it comes from, and what is absent."""

from typing import NamedTuple

from metaopt.data import DATASETS, SYNTHETIC, cache, images, tfds
from metaopt.data._common import WINDOW, DataError, Splits, kind_of

FROM = {"topics": "this Python", "source": "this Python"} | dict.fromkeys(SYNTHETIC, "made up here")


class Row(NamedTuple):
    """A data set. `reason` is None if it is there, else why it is not or how to get it; `place` is where it is from."""

    name: str
    kind: str
    shape: str  # of a row
    rows: str  # train + inner_valid + outer_valid, and test
    place: str
    reason: str | None = None


def rows() -> list[Row]:
    """First the data sets with a name of their own, then the imported ones, then those that TFDS has prepared."""
    named = [_known(name) if name in images.KNOWN else _named(name) for name in DATASETS]
    imported = [_imported(name) for name in cache.names() if name not in images.KNOWN]
    prepared = [Row(f"tfds:{name}", "", "", "", str(tfds.data_dir())) for name in tfds.names()]
    return named + imported + prepared


def _named(name: str) -> Row:
    """One that is always there and small enough to be read for this."""
    try:
        return _described(name, DATASETS[name](), FROM.get(name, "shipped"))
    except DataError as error:
        return Row(name, "", "", "", "absent", str(error))


def _described(name: str, splits: Splits, place: str) -> Row:
    array = splits["train"].get("x", splits["train"].get("tokens"))
    assert array is not None
    sizes = {split: len(next(iter(part.values()))) for split, part in splits.items()}
    test = sizes.pop("test")
    return Row(
        name, kind_of(splits), _shape(array.dtype.name, array.shape[1:]), f"{sum(sizes.values())} + {test}", place
    )


def _known(name: str) -> Row:
    known = images.KNOWN[name]
    facts = ("classes", _shape("uint8", known.shape), f"{known.train} + {known.test}")
    try:
        return Row(name, *facts, images.place(name))
    except DataError:
        return Row(
            name,
            *facts,
            "absent",
            f"{known.ways}prepare TFDS's {known.tfds}, then `metaopt data import tfds:{known.tfds}`",
        )


def _imported(name: str) -> Row:
    """From its origin alone: the arrays may be large."""
    try:
        origin = cache.origin(name)
        arrays = origin["arrays"]
        dtype, n, *shape = arrays["text" if "text" in arrays else "x"]
        if "text" in arrays:
            kind, shape, n = "text", [WINDOW], n // WINDOW
        else:
            kind = "regression" if arrays["y"][0].startswith("float") else "classes"
        sizes = f"{n} + {arrays['test_x'][1]}" if "test_x" in arrays else f"{n - n // 10} + {n // 10}"
        return Row(f"user:{name}", kind, _shape(dtype, shape), sizes, origin["source"])
    except DataError as error:
        return Row(f"user:{name}", "", "", "", "damaged", str(error))


def _shape(dtype: str, shape: tuple[int, ...] | list[int]) -> str:
    return f"{dtype} {'x'.join(map(str, shape))}"
