"""Each format against bytes written here by hand or by another library."""

import gzip
import io
import struct

import numpy as np
import pytest
from scipy.io import savemat

from metaopt.data import _formats


def as_idx(array, kind=8):
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def test_idx():
    bytes_ = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert (_formats.idx(as_idx(bytes_)) == bytes_).all()
    assert (_formats.idx(gzip.compress(as_idx(bytes_))) == bytes_).all()
    floats = np.array([1.5, -2], ">f4")
    assert _formats.idx(as_idx(floats, 13)).tolist() == [1.5, -2]


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"\0\0\x08", b"not one", as_idx(np.zeros(5, np.uint8))[:-1], as_idx(np.zeros(5, np.uint8)) + b"x",
        b"\0\0\x08\x02" + struct.pack(">2I", 2**31, 2**31) + bytes(4), b"\0\0\x07\x01" + bytes(4),
        b"\0\0\x08\xff" + bytes(8),
    ],
)  # fmt: skip
def test_an_idx_file_that_is_none(raw):
    with pytest.raises(ValueError):
        _formats.idx(raw)


def test_what_unpacks_to_too_much_is_refused():
    with pytest.raises(ValueError, match="larger than 0 MiB"):
        _formats.gunzip(gzip.compress(bytes(1001)), 1000)
    assert _formats.gunzip(gzip.compress(bytes(1000)), 1000) == bytes(1000) and _formats.gunzip(b"ab") == b"ab"


def test_cifar_puts_colours_last():
    """The layout on the authors' page: label(s), then red, green, blue planes, each row by row."""
    rng = np.random.default_rng(0)
    planes = rng.integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    x, y = _formats.cifar(b"".join(bytes([i]) + planes[i].tobytes() for i in range(3)), 1)
    assert x.shape == (3, 32, 32, 3) and y.tolist() == [0, 1, 2]
    assert (x[2, 4, 7] == planes[2, :, 4, 7]).all()
    x, y = _formats.cifar(b"".join(bytes([9, 50 + i]) + planes[i].tobytes() for i in range(3)), 2)
    assert y.tolist() == [50, 51, 52] and (x[1, ..., 2] == planes[1, 2]).all()  # the fine label
    for raw in (b"", bytes(3072), bytes(2 * 3073 + 1)):
        with pytest.raises(ValueError, match="no rows of 3073"):
            _formats.cifar(raw, 1)


def test_svhn_has_its_rows_last_and_a_ten_for_zero():
    file, images = io.BytesIO(), np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    savemat(file, {"X": images, "y": np.array([[10], [1], [9], [2]], np.uint8)})
    x, y = _formats.svhn(file.getvalue())
    assert (x[3] == images[..., 3]).all() and y.tolist() == [0, 1, 9, 2]
    for raw in (b"", file.getvalue()[:300], b"MATLAB 5.0 MAT-file" + bytes(200)):
        with pytest.raises(ValueError, match="MATLAB"):
            _formats.svhn(raw)


def test_nothing_is_unpickled():
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("code of the file was run",))

    for save in (np.save, lambda file, array: np.savez(file, x=array)):
        file = io.BytesIO()
        save(file, np.array([Bomb()], object))
        with pytest.raises(ValueError, match="allow_pickle=False"):
            (_formats.npy if file.getvalue()[:2] != b"PK" else _formats.npz)(file.getvalue())


def test_a_table_with_a_header_and_categories():
    x, y = _formats.table(b"\xef\xbb\xbfage,town,grade\r\n20,Bonn,a\r\n\r\n30, Ulm ,b\r\n40,Bonn,a\r\n", None)
    assert x.tolist() == [[20, 1, 0], [30, 0, 1], [40, 1, 0]] and x.dtype == np.float32
    assert y.tolist() == ["a", "b", "a"]
    x, y = _formats.table(b"age,town,grade\n20,Bonn,1\n30,Ulm,2", "age")
    assert x.tolist() == [[1, 0, 1], [0, 1, 2]] and y.tolist() == [20, 30]


@pytest.mark.parametrize("text", ["1,2,3\n4,5,6", "1;2;3\n4;5;6\n", "1\t2\t3\n4\t5\t6", "1, 2, 3\n4, 5, 6\n"])
def test_a_table_without_a_header(text):
    x, y = _formats.table(text.encode(), None)
    assert x.tolist() == [[1, 2], [4, 5]] and y.tolist() == [3, 6]
    x, y = _formats.table(text.encode(), "0")
    assert x.tolist() == [[2, 3], [5, 6]] and y.tolist() == [1, 4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,c\n1,2,3\n4,5", "row 3 has 2 fields, the first one has 3"),
        ("a,b,c\n1,2,3\n4,?,6", "column 'b': '\\?' in row 3 is not a number"),
        ("1,2,3\n4,,6", "column '1': '' in row 2 is not a number"),
        ("a,b\n1,x\n2,", "the label 'b' is missing in row 3"),
        ("a\n1\n2", "2 rows of 1 columns"),
        ("", "0 rows of 0 columns"),
        ("a,b\n", "0 rows of 2 columns"),
        ("a,b\n" + "\n".join(f"n{i},1" for i in range(300)), "column 'a' has 300 different texts"),
    ],
)
def test_a_table_with_mistakes(text, message):
    with pytest.raises(ValueError, match=message):
        _formats.table(text.encode(), None)


def test_a_label_column_that_is_not_there():
    with pytest.raises(ValueError, match="no column 'z'; there are a, b"):
        _formats.table(b"a,b\n1,2", "z")
    with pytest.raises(ValueError, match="no column '2'; there are 0, 1"):
        _formats.table(b"1,2", "2")
