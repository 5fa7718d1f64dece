"""Parquet files and their columns as numpy arrays, with errors that name file, column and row.

Shapes: T rows; a column of fixed-size items gives (T, ...).
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla.data.tfds.fields import objects
from openvla.errors import DataError, require

FETCH = "fetch the file again"


@contextlib.contextmanager
def reading(path: Path) -> Generator[None]:
    """Turn what pyarrow raises over the file at `path` into DataError."""
    pyarrow = require("pyarrow", "data")
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; {FETCH}") from error
    except (OSError, pyarrow.ArrowException, KeyError, ValueError) as error:
        raise DataError(f"{path} is no readable parquet file: {' '.join(str(error).split())}; {FETCH}") from error


def read_table(path: Path, columns: list[str] | None = None) -> Any:
    """The table in `path`, or those of `columns` that it has. Raises DataError."""
    parquet = require("pyarrow.parquet", "data")
    with reading(path), parquet.ParquetFile(path) as file:
        held = file.schema_arrow.names
        return file.read(columns=held if columns is None else [name for name in held if name in columns])


def column(table: Any, name: str, shape: tuple[int, ...], dtype: str, source: str) -> NDArray[Any]:
    """The column `name` as an array (T, *shape) of `dtype`.

    Raises DataError for a column that is missing, has empty cells or items of another size, naming the row.
    """
    cells = pick(table, name, source)
    if cells.null_count:
        row = cells.is_null().to_pylist().index(True)
        raise DataError(f"{source}: {name!r} is empty at step {row}; drop the episode, or fill the value in")
    values, size = cells, int(np.prod(shape, dtype=np.int64))
    while hasattr(values.type, "value_type") and str(values.type).split("<")[0].endswith("list"):
        values = _flatten(values)
    if len(values) != len(table) * size or values.null_count:
        lengths = [int(np.size(np.asarray(item, object))) for item in cells.to_pylist()]
        row = next((i for i, length in enumerate(lengths) if length != size), 0)
        raise DataError(
            f"{source}: {name!r} has {lengths[row]} values at step {row} where its description says {size} "
            f"(shape {list(shape)}); record all steps alike"
        )
    try:
        array = values.to_numpy(zero_copy_only=False).astype(dtype, casting="same_kind")
    except (TypeError, ValueError) as error:
        raise DataError(f"{source}: {name!r} holds {values.type}, its description says {dtype}") from error
    return array.reshape(len(table), *shape)


def texts(table: Any, name: str, source: str) -> NDArray[Any]:
    """The column `name` as an object array of str. Raises DataError for other content and empty cells."""
    cells = pick(table, name, source).to_pylist()
    for row, cell in enumerate(cells):
        if not isinstance(cell, str):
            raise DataError(f"{source}: {name!r} holds {cell!r} at step {row}, not text")
    return objects(cells)


def pick(table: Any, name: str, source: str) -> Any:
    """The column `name` in one piece. Raises DataError listing what there is."""
    if name not in table.column_names:
        raise DataError(f"{source} lacks the column {name!r}; it has {', '.join(table.column_names)}")
    return table.column(name).combine_chunks()


def _flatten(values: Any) -> Any:
    """The items of a list array, one after the other."""
    if hasattr(values, "storage"):
        values = values.storage
    return values.flatten()
