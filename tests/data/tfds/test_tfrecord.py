from __future__ import annotations

import struct
from pathlib import Path

import pytest

from openvla.data.tfds.tfrecord import masked_crc32c, read_records, write_record
from openvla.errors import DataError

PAYLOADS = [b"first", b"", b"third\0\0"]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "x.tfrecord-00000-of-00001"
    with path.open("wb") as file:
        for payload in PAYLOADS:
            assert write_record(file, payload) == len(payload) + 16
    return path


def slow_masked_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def test_the_checksum_is_that_of_a_slow_reference() -> None:
    for data in (b"", b"123456789", bytes(range(256))):
        assert masked_crc32c()(data) == slow_masked_crc32c(data)


def test_records_come_back_with_number_and_byte_offset(shard: Path) -> None:
    records = list(read_records(shard))
    assert [record.payload for record in records] == PAYLOADS
    assert [record.number for record in records] == [0, 1, 2]
    assert [record.offset for record in records] == [0, 21, 37]
    content = shard.read_bytes()
    for record in records:
        assert content[record.payload_offset :].startswith(record.payload)


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (1, 2), (1, None), (2, 9), (3, None), (2, 2)])
def test_a_range_of_records_can_be_read(shard: Path, start: int, stop: int | None) -> None:
    assert [record.payload for record in read_records(shard, start, stop)] == PAYLOADS[start:stop]


def test_an_empty_file_holds_no_records(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert list(read_records(tmp_path / "empty")) == []


def test_a_flipped_byte_names_file_record_and_offset(shard: Path) -> None:
    content = bytearray(shard.read_bytes())
    content[37 + 12] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.tfrecord-00000-of-00001: record 2 at byte 37 is damaged: .* its content"):
        list(read_records(shard))
    content[22] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"record 1 at byte 21 is damaged: .* its length"):
        list(read_records(shard))


def test_a_torn_file_names_record_and_offset(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(
        DataError, match="record 2 at byte 37 is cut short: it needs 23 bytes and the file ends after 22"
    ):
        list(read_records(shard))
    shard.write_bytes(shard.read_bytes()[:40])
    with pytest.raises(
        DataError, match="record 2 at byte 37 is cut short: it needs 12 bytes and the file ends after 3"
    ):
        list(read_records(shard))


def test_a_huge_length_with_a_valid_checksum_is_not_believed(tmp_path: Path) -> None:
    header = struct.pack("<Q", 2**60)
    path = tmp_path / "huge"
    path.write_bytes(header + struct.pack("<I", masked_crc32c()(header)) + b"abc")
    with pytest.raises(DataError, match="needs 1152921504606846992 bytes and the file ends after 15"):
        list(read_records(path))


def test_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*absent: No such file"):
        list(read_records(tmp_path / "absent"))


def read_until_damage(path: Path) -> tuple[list[bytes], str]:
    payloads: list[bytes] = []
    try:
        payloads.extend(record.payload for record in read_records(path))
    except DataError as error:
        return payloads, str(error)
    return payloads, ""


def test_every_flip_and_every_truncation_is_noticed_after_the_records_before_it(shard: Path) -> None:
    content = shard.read_bytes()
    starts = [0, 21, 37]
    for at in range(len(content)):
        whole = sum(at >= start for start in starts) - 1
        place = f"record {whole} at byte {starts[whole]}"
        shard.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        payloads, message = read_until_damage(shard)
        assert payloads == PAYLOADS[:whole]
        assert place in message
        shard.write_bytes(content[:at])
        payloads, message = read_until_damage(shard)
        assert payloads == PAYLOADS[:whole]
        assert message == "" if at in starts else place in message
