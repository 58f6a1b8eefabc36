"""TFRecord framing and its checksum, against published check values and a checksum written bit by bit."""

import struct

import numpy as np
import pytest

from metaopt.data import _records
from metaopt.data._records import crc32c, masked, tfrecords


def frame(record: bytes) -> bytes:
    head = struct.pack("<Q", len(record))
    length, content = masked(crc32c([head, record])).tolist()
    return head + struct.pack("<I", length) + record + struct.pack("<I", content)


def test_published_check_values():
    """RFC 3720, appendix B.4 (sums of 32 bytes, as numbers), and the check value of catalogues, "123456789"."""
    known = {
        bytes(32): 0x8A9136AA,
        b"\xff" * 32: 0x62A8AB43,
        bytes(range(32)): 0x46DD794E,
        bytes(range(31, -1, -1)): 0x113FDB5C,
        b"123456789": 0xE3069283,
        b"": 0,
    }
    assert crc32c(list(known)).tolist() == list(known.values())  # of different lengths, all at once


def test_long_records_are_joined_of_blocks():
    """Against the definition, bit by bit; lengths around those of one and of several blocks."""

    def bitwise(record):
        crc = 0xFFFFFFFF
        for byte in record:
            crc ^= byte
            for _ in range(8):
                crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        return crc ^ 0xFFFFFFFF

    rng = np.random.default_rng(0)
    records = [rng.bytes(n) for n in (0, 1, 255, 256, 257, 511, 512, 513, 1500)]
    assert crc32c(records).tolist() == list(map(bitwise, records))
    assert crc32c([]).shape == (0,)


def test_mask_is_a_rotation_and_a_constant():
    crc = 0x8A9136AA
    want = ((((crc >> 15) | (crc << 17)) & 0xFFFFFFFF) + 0xA282EAD8) % 2**32
    assert masked(np.array([crc], np.uint32)).tolist() == [want]


@pytest.mark.parametrize("chunk", [1, 300, 2**26])
def test_records_come_back_whatever_the_chunk(chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(_records, "CHUNK", chunk)
    rng = np.random.default_rng(0)
    records = [rng.bytes(n) for n in (5, 0, 300, 1, 77)]
    (tmp_path / "f").write_bytes(b"".join(map(frame, records)))
    assert list(tfrecords(tmp_path / "f")) == records
    (tmp_path / "none").write_bytes(b"")
    assert list(tfrecords(tmp_path / "none")) == []


def test_every_flipped_bit_and_every_cut_is_seen(tmp_path):
    good, path = frame(b"abc") + frame(b"de"), tmp_path / "f"
    for i in range(len(good)):
        path.write_bytes(good[:i] + bytes([good[i] ^ 0x10]) + good[i + 1 :])
        with pytest.raises(ValueError, match="damaged"):
            list(tfrecords(path))
    for end in range(1, len(good)):
        if end != len(frame(b"abc")):  # that is a whole file of one record: its number is checked elsewhere
            path.write_bytes(good[:end])
            with pytest.raises(ValueError, match="damaged"):
                list(tfrecords(path))


def test_a_length_beyond_the_file_is_not_read(tmp_path):
    (tmp_path / "f").write_bytes(struct.pack("<Q", 2**62) + bytes(100))
    with pytest.raises(ValueError, match="ends within a record"):
        list(tfrecords(tmp_path / "f"))
