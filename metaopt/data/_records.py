"""Record files in TensorFlow's TFRecord framing, read and checked without TensorFlow.

A record is: uint64 length | uint32 masked crc of the length | the bytes | uint32 masked crc of the bytes; all little
endian (https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details). The crc is CRC-32C
(RFC 3720, appendix B.4), masked by a rotation of 15 bits and a constant.
"""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

CHUNK = 2**26  # bytes of records that are checked together
POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed


def tfrecords(path: Path) -> Iterator[bytes]:
    """The records of a file, in order. Raises ValueError where the file is cut off or a checksum does not fit."""
    left = path.stat().st_size
    heads: list[bytes] = []
    records: list[bytes] = []
    sums: list[bytes] = []
    size = 0
    with open(path, "rb") as file:
        while left:
            head = file.read(12)
            (length,) = struct.unpack("<Q", head[:8]) if len(head) == 12 else (left,)
            if length + 16 > left:
                raise ValueError(f"{path} is damaged: it ends within a record")
            heads.append(head)
            records.append(file.read(length))
            sums.append(file.read(4))
            size += length
            left -= length + 16
            if size >= CHUNK or not left:
                _verify(path, heads, records, sums)
                yield from records
                heads, records, sums, size = [], [], [], 0


def _verify(path: Path, heads: Sequence[bytes], records: Sequence[bytes], sums: Sequence[bytes]) -> None:
    lengths = np.frombuffer(b"".join(head[8:] for head in heads), "<u4")
    contents = np.frombuffer(b"".join(sums), "<u4")
    good = (masked(crc32c([head[:8] for head in heads])) == lengths) & (masked(crc32c(records)) == contents)
    if not good.all():
        raise ValueError(f"{path} is damaged: the checksum of a record does not fit")


def masked(crc: np.ndarray) -> np.ndarray:
    """The checksums [n] as they are stored."""
    return ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)


def crc32c(records: Sequence[bytes]) -> np.ndarray:
    """CRC-32C of each record, uint32 [n].

    One step takes the next byte of all records at once: a loop over bytes in Python would take minutes for real data.
    """
    lengths = np.array([len(record) for record in records], np.int64)
    order = np.argsort(-lengths, kind="stable")  # the longest first, so that those with a byte left are in front
    flat = np.frombuffer(b"".join(records[i] for i in order), np.uint8)
    lengths = lengths[order]
    starts = np.cumsum(lengths) - lengths
    crc = np.full(len(records), 0xFFFFFFFF, np.uint32)
    longest = int(lengths.max(initial=0))
    active = np.searchsorted(-lengths, -np.arange(longest), side="left")  # records with more than j bytes
    for j in range(longest):
        now = crc[: active[j]]
        crc[: active[j]] = TABLE[(now ^ flat[starts[: active[j]] + j]) & 0xFF] ^ (now >> 8)
    result = np.empty_like(crc)
    result[order] = ~crc
    return result


def _table() -> np.ndarray:
    table: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ np.where(table & 1, np.uint32(POLYNOMIAL), np.uint32(0))
    return table


TABLE = _table()
