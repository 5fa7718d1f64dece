from __future__ import annotations

from pathlib import Path

import pytest

from openvla.codec.fields import (
    INTEGER,
    NUMBER,
    OBJECT,
    TEXT,
    exact_fields,
    list_of,
    nullable,
    read_object,
    some_fields,
)
from openvla.errors import CheckpointError

KINDS = {"size": INTEGER, "name": TEXT}


def test_fields_come_back_and_defaults_fill_in() -> None:
    assert exact_fields({"size": 3, "name": "a"}, KINDS, "f") == {"size": 3, "name": "a"}
    assert some_fields({"size": 3, "other": 1}, KINDS, "f", {"name": "b", "size": 9}) == {"size": 3, "name": "b"}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], r"f\.json holds a list, not an object; restore the original file"),
        ({"size": 3}, r"f\.json lacks the field 'name', which must be text; restore it"),
        ({"size": True, "name": "a"}, r"f\.json: field 'size' is True, but must be an integer; correct it"),
        ({"size": 3, "name": "a", "nmae": 1}, r"f\.json: unknown field 'nmae'; did you mean 'name'\?"),
    ],
)
def test_a_document_of_another_form_is_refused_by_field(document: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        exact_fields(document, KINDS, "f.json")


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (NUMBER, [1, 1.5], [True, "1", float("nan"), float("inf"), 10**400, None]),
        (OBJECT, [{}], [[], None]),
        (nullable(TEXT), [None, ""], [1]),
        (list_of(INTEGER), [[], [1, 2]], [[1.5], (1,), 1]),
        (list_of(NUMBER, 3), [[1, 2, 3.5]], [[1, 2], None]),
    ],
)
def test_kinds_hold_for_their_values_only(kind: object, good: list[object], bad: list[object]) -> None:
    assert [kind.holds(value) for value in good] == [True] * len(good)  # type: ignore[attr-defined]
    assert [kind.holds(value) for value in bad] == [False] * len(bad)  # type: ignore[attr-defined]


def test_files_that_are_missing_or_no_json_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read .*absent\.json: No such file.*; restore the original file"):
        read_object(tmp_path / "absent.json")
    (tmp_path / "torn.json").write_text('{"a": ')
    with pytest.raises(CheckpointError, match=r"torn\.json is not JSON .*; restore the original file"):
        read_object(tmp_path / "torn.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match=r"bytes\.json is not JSON"):
        read_object(tmp_path / "bytes.json")
