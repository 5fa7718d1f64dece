from __future__ import annotations

import inspect

import pytest

from openvla import errors
from openvla.errors import InputError, MissingDependencyError, OpenVLAError, UsageError, lookup, require, unknown


def test_every_error_is_an_openvla_error() -> None:
    own = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__]
    assert len(own) >= 8
    assert all(issubclass(cls, OpenVLAError) for cls in own)


def test_bad_input_is_also_a_value_error() -> None:
    with pytest.raises(ValueError, match="too long"):
        raise InputError("too long")


def test_lookup_returns_the_entry() -> None:
    assert lookup("nano", {"nano": 1, "micro": 2}, "preset") == 1


def test_lookup_offers_the_nearest_names() -> None:
    with pytest.raises(UsageError, match=r"^unknown preset 'nanno'; did you mean 'nano'\?$"):
        lookup("nanno", {"nano": 1, "micro": 2}, "preset")


def test_lookup_without_a_near_name_lists_all() -> None:
    with pytest.raises(UsageError, match=r"^unknown preset 'xyzzy'; known are micro, nano$"):
        lookup("xyzzy", {"nano": 1, "micro": 2}, "preset")


def test_an_empty_table_says_none() -> None:
    assert unknown("a", [], "statistics key") == "unknown statistics key 'a'; known are none"


def test_lookup_hides_the_key_error_behind_its_own() -> None:
    with pytest.raises(UsageError) as caught:
        lookup("a", {}, "preset")
    assert caught.value.__suppress_context__


def test_require_imports_what_is_there() -> None:
    assert require("json", "data").loads("1") == 1


def test_require_names_the_extra_that_brings_a_missing_package() -> None:
    with pytest.raises(
        MissingDependencyError,
        match=r"^the Python package 'no_such_package' is not installed; it comes with `pip install 'openvla\[sim\]'`$",
    ):
        require("no_such_package.inner", "sim")
