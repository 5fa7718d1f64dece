from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from openvla.cli.output import Result, plain, table


def test_json_has_lists_for_arrays_and_null_for_what_json_lacks() -> None:
    data = {"a": np.array([[1.5, np.nan]]), "n": np.int64(3), "f": float("inf"), "p": Path("x"), "t": (1, None, True)}
    assert json.loads(Result(data, "").as_json()) == {
        "a": [[1.5, None]],
        "n": 3,
        "f": None,
        "p": "x",
        "t": [1, None, True],
    }


def test_floats_survive_json_bit_for_bit() -> None:
    values = np.random.default_rng(0).normal(size=100)
    assert np.array_equal(json.loads(Result({"v": values}, "").as_json())["v"], values)


def test_plain_leaves_plain_values_alone() -> None:
    assert plain({"a": [1, "b", None, 0.5]}) == {"a": [1, "b", None, 0.5]}


def test_a_table_aligns_its_columns() -> None:
    assert table(("task", "n"), [("open", 3), ("reach", 25)]) == "task    n\nopen    3\nreach  25"


def test_a_table_without_rows_is_its_header() -> None:
    assert table(("task", "n"), []) == "task  n"


def test_words_line_up_left_and_numbers_right() -> None:
    rows = [("a", "float32 (7)", "-0.5", "80 %"), ("longer", "text", "-", "100 %")]
    assert table(("name", "kind", "low", "rate"), rows).splitlines() == [
        "name    kind          low   rate",
        "a       float32 (7)  -0.5   80 %",
        "longer  text            -  100 %",
    ]
