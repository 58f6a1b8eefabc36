"""Record files in TensorFlow's TFRecord framing, read and checked without TensorFlow.

A record is: uint64 length | uint32 masked crc of the length | the bytes | uint32 masked crc of the bytes; all little
endian (https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details). The crc is CRC-32C
(RFC 3720, appendix B.4), masked by a rotation of 15 bits and a constant.
"""

import functools
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

BLOCK = 256
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

    A loop over bytes in Python would take minutes for real data, so each step takes a byte of everything at once: first
    of what the records have before their whole blocks, then of all blocks, as if each stood alone. The checksum is
    linear, so that blocks are joined by crc(a + b) = skip(crc(a)) ^ crc(b), skip being a block of zeros.
    """
    flat = np.frombuffer(b"".join(records), np.uint8)
    lengths = np.array([len(record) for record in records], np.int64)
    starts, heads, counts = np.cumsum(lengths) - lengths, lengths % BLOCK, lengths // BLOCK
    crc = np.full(len(records), 0xFFFFFFFF, np.uint32)
    for j in range(int(heads.max(initial=0))):
        rows = np.flatnonzero(heads > j)
        crc[rows] = _step(crc[rows], flat[starts[rows] + j])
    first = np.cumsum(counts) - counts  # block of each record
    at = np.repeat(starts + heads - BLOCK * first, counts) + BLOCK * np.arange(counts.sum())
    blocks: np.ndarray = np.zeros(len(at), np.uint32)
    for j in range(BLOCK if len(at) else 0):
        blocks = _step(blocks, flat[at + j])
    for j in range(int(counts.max(initial=0))):
        rows = np.flatnonzero(counts > j)
        crc[rows] = _skip(crc[rows]) ^ blocks[first[rows] + j]
    return ~crc


def _step(crc: np.ndarray, byte: np.ndarray) -> np.ndarray:
    """The checksums after one more byte."""
    return _table()[(crc ^ byte) & 0xFF] ^ (crc >> 8)


def _skip(crc: np.ndarray) -> np.ndarray:
    """The checksums after BLOCK more zeros: the exclusive or of what that makes of each of their four bytes."""
    return functools.reduce(np.bitwise_xor, (_zeros()[i][(crc >> 8 * i) & 0xFF] for i in range(4)))


@functools.cache
def _table() -> np.ndarray:
    """uint32 [256]: what a byte does to the checksum."""
    table: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ np.where(table & 1, np.uint32(POLYNOMIAL), np.uint32(0))
    return table


@functools.cache
def _zeros() -> np.ndarray:
    """uint32 [4, 256]: what BLOCK zeros make of each value of each byte of the checksum."""
    crc: np.ndarray = np.arange(256, dtype=np.uint32)[None, :] << np.arange(0, 32, 8, dtype=np.uint32)[:, None]
    for _ in range(BLOCK):
        crc = _step(crc, np.zeros(1, np.uint8)[None, :])
    return crc
