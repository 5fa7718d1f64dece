"""The index of a data set: every number and word of its episodes, and the byte range of every step's images.

    index.json     what it was made of, how many there are of everything, what was left out as unusable
    episodes.bin   `EPISODE` for each episode           runs.bin   `RUN` for each stretch of rows with an instruction
    rows.bin       `row_dtype` for each row             words.bin  the instructions, each with its length

Opening maps the files and reads nothing but index.json. Rows are read with `pread`, one call for a frame's numbers and
one for its image: pages that a map has touched would count as this process's memory, and after an epoch that is all.

Shapes: E episodes, R runs, N rows, V views, A action and P proprioception dimensions.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla.data.index.place import Origin
from openvla.data.index.scan import EPISODE, RUN, row_dtype
from openvla.data.loading.reader import Files
from openvla.errors import DataError
from openvla.files import read_json

HEADER = "index.json"
AGAIN = "run `openvla data index` again"
WORDS_KEPT = 4096
"""Instructions that are remembered; more are forgotten all at once."""


@dataclass(frozen=True)
class Header:
    """The content of index.json. data: the data set's version directory. skipped: a sentence for each omission."""

    data: str
    name: str
    views: tuple[str, ...]
    action_dim: int
    proprio_dim: int
    episodes: int
    runs: int
    rows: int
    word_bytes: int
    skipped: tuple[str, ...]
    origin: Origin

    def to_json(self) -> str:
        """The document."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def load(cls, path: Path) -> Header:
        """Read index.json. Raises DataError where it is missing, torn or of another format."""
        raw: Any = read_json(path, DataError, AGAIN)
        try:
            origin = raw.pop("origin")
            shards: tuple[dict[str, Any], ...] = tuple(origin.pop("shards"))
            views: tuple[str, ...] = tuple(raw.pop("views"))
            skipped: tuple[str, ...] = tuple(raw.pop("skipped"))
            return cls(**raw, views=views, skipped=skipped, origin=Origin(**origin, shards=shards))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path} is no index of this version ({error}); {AGAIN}") from error


class Index:
    """An open index; threads may share it, and a pickled copy opens the same files."""

    def __init__(self, directory: str | Path, files: Files | None = None) -> None:
        """Raises DataError where the index is missing or damaged."""
        self.directory = Path(directory)
        self.files = files or Files()
        self.header = header = Header.load(self.directory / HEADER)
        self._row = row_dtype(len(header.views), header.action_dim, header.proprio_dim)
        self.episodes = self._map("episodes.bin", EPISODE, header.episodes)
        self.runs = self._map("runs.bin", RUN, header.runs)
        self._rows_path = str(self.directory / "rows.bin")
        self._words: dict[int, str] = {}
        self._check("rows.bin", header.rows * self._row.itemsize)
        self._check("words.bin", header.word_bytes)
        self._paths = [str(Path(header.data) / shard["file"]) for shard in header.origin.shards]

    def __reduce__(self) -> tuple[Any, ...]:
        return Index, (self.directory,)

    def __len__(self) -> int:
        """Episodes."""
        return self.header.episodes

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop`, as `row_dtype` describes them."""
        size = self._row.itemsize
        data = self.files.read(self._rows_path, start * size, (stop - start) * size)
        return np.frombuffer(data, self._row)

    def words(self, place: int) -> str:
        """The instruction at `place`, a row's "words"."""
        known = self._words.get(place)
        if known is None:
            path = str(self.directory / "words.bin")
            length = int.from_bytes(self.files.read(path, place, 4), "little")
            known = self.files.read(path, place + 4, length).decode()
            if len(self._words) >= WORDS_KEPT:
                self._words.clear()
            self._words[place] = known
        return known

    def path(self, shard: int) -> str:
        """The file of `shard`."""
        return self._paths[shard]

    def source(self, row: int) -> str:
        """Where `row` is, for messages: file, record, byte offset, step."""
        held = self.episodes[np.searchsorted(self.episodes["row"], row, side="right") - 1]
        step = self.rows(row, row + 1)["step"][0]
        return f"{self.path(held['shard'])}: record {held['record']} at byte {held['byte']}, step {step}"

    def select(self, split: str, numbers: range) -> NDArray[np.bool_]:
        """Which episodes (E,) are those of `split` with these numbers in it."""
        known = [shard["split"] == split for shard in self.header.origin.shards]
        inside = (self.episodes["number"] >= numbers.start) & (self.episodes["number"] < numbers.stop)
        return np.asarray(known, bool)[self.episodes["shard"]] & inside

    def _map(self, name: str, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
        self._check(name, count * dtype.itemsize)
        if not count:
            return np.empty(0, dtype)
        return np.memmap(self.directory / name, dtype, "r", shape=(count,)).view(np.ndarray)

    def _check(self, name: str, wanted: int) -> None:
        path = self.directory / name
        found = path.stat().st_size if path.is_file() else -1
        if found != wanted:
            held = f"has {found} bytes instead of {wanted}" if found >= 0 else "is missing"
            raise DataError(f"the index file {path} {held}; {AGAIN}")
