"""The images of an episode that are fetched one by one, when asked for, from a video or an array in a file.

`LazyImages` stands where an episode otherwise has an object array of encoded images: its items are bytes, it has a
length and takes slices, index arrays and masks. What is stored as pixels becomes PNG when its bytes are asked for, and
stays pixels when only these are.

Shapes: T images, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from openvla.data.images.pixels import decode_image, encode_image

Fetch = Callable[[int], "bytes | NDArray[np.uint8]"]


class LazyImages:
    """T images behind `fetch(row)`, which gives encoded bytes or uint8 (H, W, 3) and raises DataError."""

    dtype = np.dtype(object)
    ndim = 1

    def __init__(self, fetch: Fetch, rows: NDArray[np.int64], source: str) -> None:
        """rows: what to call `fetch` with for each item. source: names the images in errors."""
        self._fetch, self._rows, self._source = fetch, rows, source

    @property
    def shape(self) -> tuple[int]:
        """(T,), as of an object array."""
        return (len(self),)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[bytes]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, which: int | np.integer[Any]) -> bytes: ...
    @overload
    def __getitem__(self, which: slice | NDArray[Any] | list[int]) -> LazyImages: ...
    def __getitem__(self, which: Any) -> bytes | LazyImages:
        if not isinstance(which, int | np.integer):
            return LazyImages(self._fetch, self._rows[which], self._source)
        held = self._fetch(int(self._rows[which]))
        return held if isinstance(held, bytes) else encode_image(held, "png", self._named(int(which)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """An object array of bytes: everything is fetched. For what cannot work item by item."""
        del dtype, copy
        array = np.empty(len(self), object)
        for i, item in enumerate(self):
            array[i] = item
        return array

    def pixels(self, which: int) -> NDArray[np.uint8]:
        """Image `which` as uint8 (H, W, 3), without the detour through PNG. Raises DataError."""
        held = self._fetch(int(self._rows[which]))
        return decode_image(held, self._named(which)) if isinstance(held, bytes) else held

    def _named(self, which: int) -> str:
        return f"{self._source} at step {which % max(len(self), 1)}"
