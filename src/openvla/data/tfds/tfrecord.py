"""TFRecord framing: length, checksum of the length, payload, checksum of the payload; read and written strictly.

    uint64 length | uint32 masked_crc32c(length bytes) | payload | uint32 masked_crc32c(payload)      (little-endian)

There is no index and no file header, so a flipped byte or a torn end is seen only by checking. Every checksum is
checked (15 GB/s, far above decoding), and damage is a DataError with file, record number and byte offset.

Source: the TFRecord format of TensorFlow; crc32c is the Castagnoli polynomial, RFC 3720 appendix B.4.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from openvla.data.bad import BadData
from openvla.errors import DataError, require

HEADER_BYTES = 12
FOOTER_BYTES = 4
OVERHEAD_BYTES = HEADER_BYTES + FOOTER_BYTES


@dataclass(frozen=True)
class Record:
    """One record: its number in the file, the byte offset of its frame, and its payload."""

    path: Path | str
    number: int
    offset: int
    payload: bytes

    @property
    def source(self) -> str:
        """Where the record is, for messages: `file: record 3 at byte 1200`."""
        return _place(self.path, self.number, self.offset)

    @property
    def payload_offset(self) -> int:
        """Byte offset of the payload's first byte in the file."""
        return self.offset + HEADER_BYTES


def read_records(
    path: str | Path, start: int = 0, stop: int | None = None, bad: BadData | None = None
) -> Iterator[Record]:
    """Yield records number `start` to `stop` (exclusive; None reads to the end of the file), checking checksums.

    Records before `start` are stepped over: their length is checked, their payload is not read.
    Raises DataError for a missing file, a file cut short, and damaged bytes; where `bad` skips, a record whose content
    is damaged is left out, and nothing is read behind a damaged length or a torn end.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            yield from scan_records(file, path, path.stat().st_size, start, stop, bad)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def scan_records(
    file: BinaryIO, path: Path | str, size: int, start: int = 0, stop: int | None = None, bad: BadData | None = None
) -> Iterator[Record]:
    """`read_records` of an open file of `size` bytes, wherever it is; `path` names it."""
    crc32c = masked_crc32c()
    bad = bad or BadData()
    number = offset = 0
    while offset < size and (stop is None or number < stop):
        try:
            end = offset + OVERHEAD_BYTES + _read_length(file, path, number, offset, size, crc32c)
        except DataError as error:
            bad.report(error)
            return
        if number >= start:
            file.seek(offset + HEADER_BYTES)
            payload = file.read(end - offset - OVERHEAD_BYTES)
            if file.read(FOOTER_BYTES) == struct.pack("<I", crc32c(payload)):
                yield Record(path, number, offset, payload)
            else:
                bad.report(DataError(f"{_place(path, number, offset)} is damaged: {_PAYLOAD_DAMAGED}"))
        number, offset = number + 1, end


def write_record(file: BinaryIO, payload: bytes) -> int:
    """Append one record to `file`; returns the bytes written."""
    crc32c = masked_crc32c()
    header = struct.pack("<Q", len(payload))
    file.write(header + struct.pack("<I", crc32c(header)))
    file.write(payload)
    file.write(struct.pack("<I", crc32c(payload)))
    return len(payload) + OVERHEAD_BYTES


def masked_crc32c() -> Callable[[bytes], int]:
    """The checksum function of the format: crc32c, rotated right by 15 bits, plus a constant, modulo 2**32."""
    crc32c = cast("Callable[[bytes], int]", require("google_crc32c", "data").value)

    def masked(data: bytes) -> int:
        crc = crc32c(data)
        return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF

    return masked


_LENGTH_DAMAGED = "the checksum of its length does not match; the file is corrupt from here on, fetch it again"
_PAYLOAD_DAMAGED = "the checksum of its content does not match; the file is corrupt, fetch it again"


def _read_length(
    file: BinaryIO, path: Path | str, number: int, offset: int, size: int, crc32c: Callable[[bytes], int]
) -> int:
    file.seek(offset)
    header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        raise DataError(_torn(path, number, offset, HEADER_BYTES, size))
    length, checksum = struct.unpack("<QI", header)
    if checksum != crc32c(header[:8]):
        raise DataError(f"{_place(path, number, offset)} is damaged: {_LENGTH_DAMAGED}")
    if offset + OVERHEAD_BYTES + length > size:
        raise DataError(_torn(path, number, offset, OVERHEAD_BYTES + length, size))
    return length


def _place(path: Path | str, number: int, offset: int) -> str:
    return f"{path}: record {number} at byte {offset}"


def _torn(path: Path | str, number: int, offset: int, needed: int, size: int) -> str:
    return (
        f"{_place(path, number, offset)} is cut short: it needs {needed} bytes and the file ends after "
        f"{size - offset}; the file was not written or copied to its end, fetch it again"
    )
