r"""Conversations about images in LLaVA's JSON: chat.json, llava_v1_5_mix665k.json and their like.

    [{"image": "below/the/images.jpg",
      "conversations": [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "A cup."}, ...]},
     {"conversations": [...]}, ...]

An entry without an image is text alone. The file is read and checked once; what is kept is where each entry lies in it,
24 bytes instead of some 5 kB of objects. (Entries are told apart as Latin-1, in which a byte is a character: JSON's own
signs are ASCII, and no other UTF-8 character has ASCII bytes.) Images stay where they are.

Shapes: H, W image.
Source: Liu et al. 2023 (LLaVA, arXiv:2304.08485) and its data files.
"""

from __future__ import annotations

import io
import json
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openvla.data.bad import BadData
from openvla.data.loading.reader import Files
from openvla.errors import DataError

CHAT = "chat.json"
SPEAKERS = ("human", "gpt")
_GAP = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True)
class Talk:
    """turns: question, answer, question, ...; image: path below the images, or None for text alone."""

    turns: tuple[str, ...]
    image: str | None


class Llava:
    """The usable entries of one file, addressed by number."""

    def __init__(self, path: Path, images: Path | None = None, captions: bool = False, bad: BadData | None = None):
        """path: the file, or a directory that holds chat.json or one JSON file. images: None is the file's directory.

        captions: every entry must be an image and its caption. bad: what to do with entries that cannot be used.
        Raises DataError for a file that is no such JSON, and for the first entry that cannot be used, with its index.
        """
        self.path = find_llava(path)
        self.images, self._captions, self._files = images or self.path.parent, captions, Files()
        if not self.images.is_dir():
            raise DataError(f"there is no directory {self.images} with the images of {self.path}; check the path")
        self._places = np.asarray(list(self._good(bad or BadData())), np.int64).reshape(-1, 3)
        if not len(self):
            raise DataError(f"{self.path} holds no conversation that can be used; check the file")

    def __len__(self) -> int:
        return len(self._places)

    def read(self, number: int) -> Talk:
        """Conversation `number`. Raises DataError where the file is no longer what it was."""
        index, start, stop = self._places[number].tolist()
        return self._talk(index, self._files.read(str(self.path), start, stop - start))

    def image(self, number: int, talk: Talk) -> NDArray[np.uint8] | None:
        """The picture uint8 (H, W, 3) of conversation `number`; None for text alone. Raises DataError naming it."""
        if talk.image is None:
            return None
        path = self.images / talk.image
        try:
            return _decode(path.read_bytes())
        except Exception as error:  # the decoders of many formats raise types of their own
            raise DataError(
                f"{self.source(number)}: the image {path} cannot be decoded ({error}); replace it"
            ) from error

    def source(self, number: int) -> str:
        """File and index of conversation `number`, for messages."""
        return self._named(int(self._places[number, 0]))

    def _named(self, index: int) -> str:
        return f"{self.path}, entry {index}"

    def _good(self, bad: BadData) -> Iterator[tuple[int, int, int]]:
        """(index, first byte, byte after the last) of every entry that can be used."""
        data = _read(self.path)
        for index, (start, stop) in enumerate(_entries(data, self.path)):
            try:
                talk = self._talk(index, data[start:stop].encode("latin-1"))
                if talk.image is not None and not os.path.isfile(self.images / talk.image):  # noqa: PTH113 - never raises
                    raise DataError(
                        f"{self._named(index)}: there is no image {self.images / talk.image}; fetch it, or name the "
                        "directory that the paths of the images begin at"
                    )
            except DataError as error:
                bad.report(error)
            else:
                yield index, start, stop

    def _talk(self, index: int, data: bytes) -> Talk:
        try:
            talk = _parse(json.loads(data.decode()))
            if self._captions and (talk.image is None or len(talk.turns) != 2 or "<image>" in talk.turns[1]):
                raise ValueError("an image-caption pair has an image, one question and one answer without <image>")
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self._named(index)}: {error}; mend it, or leave it out") from error
        return talk


def find_llava(path: Path) -> Path:
    """The JSON file at `path`, or in the directory that it names. Raises DataError where there is none."""
    if not path.is_dir():
        if not path.exists():
            raise DataError(f"there is no file {path} with conversations about images; check the path")
        return path
    found = sorted(path.glob("*.json"))
    if path / CHAT in found:
        return path / CHAT
    if len(found) == 1:
        return found[0]
    names = ", ".join(each.name for each in found[:5]) or "no JSON file"
    raise DataError(f"{path} holds no {CHAT} but {names}; name the file with the conversations")


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("latin-1")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; check the path") from error


def _entries(text: str, path: Path) -> Iterator[tuple[int, int]]:
    """(start, stop) of every element of the list that `text` is. Raises DataError where it is none."""
    decoder, place = json.JSONDecoder(), _after_gap(text, 0)
    if text[place : place + 1] != "[":
        raise DataError(f"{path} is not LLaVA's JSON: it does not begin with '[', as a list of conversations does")
    place = _after_gap(text, place + 1)
    while text[place : place + 1] != "]":
        try:
            _, stop = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not JSON ({error}); restore the file") from error
        yield place, stop
        place = _after_gap(text, stop)
        if text[place : place + 1] == ",":
            place = _after_gap(text, place + 1)
        elif text[place : place + 1] != "]":
            raise DataError(
                f"{path} is not JSON: at byte {place} neither ',' nor ']' follows an entry; restore the file"
            )
    end = _after_gap(text, place + 1)
    if end != len(text):
        raise DataError(f"{path} is not JSON: at byte {end} something follows the list; restore the file")


def _after_gap(text: str, place: int) -> int:
    found = _GAP.match(text, place)
    return found.end() if found else place


def _parse(entry: object) -> Talk:
    """The turns of an entry. Raises ValueError with what breaks which rule."""
    fields = _fields(entry, "an entry")
    image = fields.get("image")
    if image is not None and not (isinstance(image, str) and image and "\0" not in image):
        raise ValueError(f"its image is {image!r}, not the path of a file")
    turns = fields.get("conversations")
    if not isinstance(turns, list) or len(cast("list[object]", turns)) < 2:
        raise ValueError("its 'conversations' is no list of a question and an answer or more")
    spoken = [_turn(number, turn) for number, turn in enumerate(cast("list[object]", turns))]
    return Talk(tuple(spoken), image)


def _turn(number: int, turn: object) -> str:
    fields = _fields(turn, f"turn {number}")
    speaker, value, wanted = fields.get("from"), fields.get("value"), SPEAKERS[number % 2]
    if speaker != wanted:
        raise ValueError(
            f"turn {number} is from {speaker!r}, but 'human' and 'gpt' take turns and 'human' is the first, so it "
            f"must be {wanted!r}"
        )
    if not isinstance(value, str):
        raise ValueError(f"the 'value' of turn {number} is {value!r}, not text")
    value.encode()  # half a surrogate pair is a ValueError
    if number % 2 and not value.replace("<image>", "").strip():
        raise ValueError(f"the answer in turn {number} is empty")
    return value


def _fields(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {str(value)[:40]!r}, not an object")
    return cast("dict[str, Any]", value)


def _decode(data: bytes) -> NDArray[np.uint8]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
