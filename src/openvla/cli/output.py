"""What a verb hands back to be printed: a JSON object, and the same for reading."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

NUMBER = re.compile(r"-|[-+]?[\d.]+(e[-+]?\d+)?( ?%)?")
"""A cell that lines up on its right: a number, a percentage, or the dash that stands for none."""


@dataclass(frozen=True)
class Result:
    """The outcome of a verb. `data` is what `--json` prints; `text` is for people.

    failure: a sentence, where the verb did its work and found something wrong: printed after the result, exit code 2.
    """

    data: Mapping[str, Any]
    text: str
    failure: str | None = None

    def as_json(self) -> str:
        """One line of strict JSON: arrays as nested lists, NaN and infinities as null."""
        return json.dumps(plain(self.data), allow_nan=False)


def plain(value: object) -> object:
    """`value` with numpy arrays and scalars, paths, tuples and non-finite floats replaced by what JSON has."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in cast("Mapping[object, object]", value).items()}
    if hasattr(value, "tolist"):
        return plain(cast("Any", value).tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in cast("Sequence[object]", value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns of text: numbers flush right, words flush left.

    >>> print(table(("task", "n"), [("open", 3), ("reach", 25)]))
    task    n
    open    3
    reach  25
    """
    body = [[str(cell) for cell in row] for row in rows]
    columns = [_column(title, [row[n] for row in body]) for n, title in enumerate(header)]
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def _column(title: str, cells: list[str]) -> list[str]:
    width = max(map(len, [title, *cells]))
    numeric = bool(cells) and all(NUMBER.fullmatch(cell) for cell in cells)
    return [cell.rjust(width) if numeric else cell.ljust(width) for cell in (title, *cells)]
