from __future__ import annotations

import pytest

from openvla.data.formats.splits import select
from openvla.errors import DataError

COUNTS = {"train": 25, "val": 5}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("train[:95%]", [("train", range(24))]),
        ("train[95%:]", [("train", range(24, 25))]),
        ("train[:50%]", [("train", range(12))]),  # 12.5, half to even
        ("train[-3:]+val[:2]", [("train", range(22, 25)), ("val", range(2))]),
        ("all", [("train", range(25)), ("val", range(5))]),
    ],
)
def test_bounds_round_half_to_even_as_published(spec, expected):
    assert select(spec, COUNTS, "set") == expected


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("test", "has no split 'test'; it has train, val"),
        ("train[:26]", "reaches beyond the 25 episodes"),
        ("train[1.5:]", "neither a whole number nor a percentage"),
        ("train[", "cannot be read; write"),
    ],
)
def test_a_split_that_does_not_exist_is_refused(spec, words):
    with pytest.raises(DataError, match=words.replace("[", r"\[")):
        select(spec, COUNTS, "set")
