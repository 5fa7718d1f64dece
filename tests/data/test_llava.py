from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from openvla.data.bad import BadData
from openvla.data.llava import Llava
from openvla.errors import DataError

HUMAN, GPT = "human", "gpt"
Write = Callable[..., Path]


def turn(speaker: object, value: object) -> dict[str, object]:
    return {"from": speaker, "value": value}


def entry(**changes: object) -> dict[str, object]:
    made: dict[str, object] = {
        "id": "1",
        "image": "pictures/a.png",
        "conversations": [turn(HUMAN, "<image>\nWhat is this?"), turn(GPT, "A cup.")],
    }
    return {name: value for name, value in (made | changes).items() if value is not ...}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write entries, or the text of a file, as chat.json beside pictures/a.png."""
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.full((4, 6, 3), 9, np.uint8)).save(tmp_path / "pictures" / "a.png")

    def put(content: object, name: str = "chat.json") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return put


def test_conversations_come_back_with_their_images(write: Write) -> None:
    more = [*entry()["conversations"], turn(HUMAN, "Whose?"), turn(GPT, "Mine.")]  # pyright: ignore[reportGeneralTypeIssues]
    llava = Llava(write([entry(), entry(image=..., conversations=more)]))
    first, second = llava.read(0), llava.read(1)
    assert first.turns == ("<image>\nWhat is this?", "A cup.")
    picture = llava.image(0, first)
    assert picture is not None
    assert (picture.shape, int(picture.max())) == ((4, 6, 3), 9)
    assert len(second.turns) == 4
    assert llava.image(1, second) is None


@pytest.mark.parametrize("text", ["Straße 猫 🐈", "\u00a0\u2028 é"])
@pytest.mark.parametrize("escaped", [True, False])
def test_any_language_comes_back_as_it_was_written(write: Write, text: str, escaped: bool) -> None:
    entries = [entry(conversations=[turn(HUMAN, text), turn(GPT, f"{text}.")]) for _ in range(3)]
    llava = Llava(write(json.dumps(entries, ensure_ascii=escaped, indent=1).encode()))
    assert [llava.read(number).turns for number in range(3)] == [(text, f"{text}.")] * 3


def test_an_image_may_have_a_name_in_any_language(write: Write, tmp_path: Path) -> None:
    (tmp_path / "pictures" / "a.png").rename(tmp_path / "pictures" / "é猫.png")
    for escaped in (True, False):
        content = json.dumps([entry(image="pictures/é猫.png")], ensure_ascii=escaped)
        assert len(Llava(write(content.encode()))) == 1


def test_the_file_may_be_named_by_its_directory(write: Write, tmp_path: Path) -> None:
    path = write([entry()], "llava_v1_5_mix665k.json")
    assert Llava(tmp_path).path == path
    assert Llava(path).path == path
    write([entry()], "more.json")
    with pytest.raises(DataError, match=r"holds no chat\.json but llava_v1_5_mix665k\.json, more\.json; name the file"):
        Llava(tmp_path)
    assert Llava(write([entry()]).parent).path.name == "chat.json"


def test_images_may_lie_elsewhere(write: Write, tmp_path: Path) -> None:
    path = write([entry(image="a.png")])
    assert len(Llava(path, tmp_path / "pictures")) == 1
    with pytest.raises(DataError, match=r"there is no directory .*/none with the images of"):
        Llava(path, tmp_path / "none")


def says(*turns: object) -> dict[str, object]:
    return entry(conversations=list(turns))


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (entry(conversations=...), "its 'conversations' is no list of a question and an answer or more"),
        (entry(conversations="hello"), "its 'conversations' is no list of"),
        (says(turn(HUMAN, "Hi")), "its 'conversations' is no list of"),
        (says(turn(GPT, "Hi"), turn(HUMAN, "Hi")), "turn 0 is from 'gpt', but 'human' and 'gpt' take turns"),
        (says(turn(HUMAN, "Hi"), turn(HUMAN, "Hi")), "turn 1 is from 'human'.* so it must be 'gpt'"),
        (says(turn(HUMAN, "Hi"), turn("bard", "Hi")), "turn 1 is from 'bard'"),
        (says(turn(["human"], "Hi"), turn(GPT, "Hi")), r"turn 0 is from \['human'\]"),
        (says(turn(HUMAN, "Hi"), turn(GPT, " \n")), "the answer in turn 1 is empty"),
        (says(turn(HUMAN, "Hi"), turn(GPT, "<image>")), "the answer in turn 1 is empty"),
        (says(turn(HUMAN, "Hi"), turn(GPT, 7)), "the 'value' of turn 1 is 7, not text"),
        (says(turn(HUMAN, "Hi"), turn(GPT, "half \ud800")), "surrogates not allowed"),
        (says("Hi", turn(GPT, "Hi")), "turn 0 is 'Hi', not an object"),
        ([1], r"an entry is '\[1\]', not an object"),
        (entry(image=5), "its image is 5, not the path of a file"),
        (entry(image=""), "its image is '', not the path of a file"),
        (entry(image="a\0b"), "its image is .*, not the path of a file"),
        (entry(image="none.jpg"), r"there is no image .*/none\.jpg; fetch it, or name the directory"),
        (entry(image="pictures"), "there is no image .*/pictures; fetch it"),
        (entry(image="a" * 5000), "there is no image .*aaa; fetch it"),
    ],
)
def test_an_entry_that_is_not_llavas_is_named_with_file_index_and_rule(
    write: Write, bad: object, sentence: str
) -> None:
    path = write([entry(), bad, entry()])
    with pytest.raises(DataError, match=rf"chat\.json, entry 1: .*{sentence}"):
        Llava(path)
    account = BadData("skip")
    assert len(Llava(path, bad=account)) == 2
    assert len(account.skipped) == 1


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", r"does not begin with '\['"),
        (b'{"conversations": []}', r"does not begin with '\['"),
        (b"[", r"is not JSON \(Expecting value"),
        (b"[1, ", r"is not JSON \(Expecting value"),
        (b'[{"a": 1} {"b": 2}]', "at byte 10 neither ',' nor ']' follows an entry"),
        (b"[] []", "at byte 3 something follows the list"),
        (b"[\xa0]", r"is not JSON \(Expecting value"),
        (b"[]", r"chat\.json holds no conversation that can be used"),
        (b"[" * 100_000, r"is not JSON \("),
        (b"\xff\xfe[", r"does not begin with '\['"),
    ],
)
def test_a_file_that_is_no_list_of_conversations_is_refused(write: Write, content: bytes, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        Llava(write(content), bad=BadData("skip"))


def test_bytes_that_are_no_utf_8_are_named(write: Write) -> None:
    content = json.dumps([entry()]).encode().replace(b"A cup", b"A \xffcup")
    with pytest.raises(DataError, match="entry 0: 'utf-8' codec can't decode"):
        Llava(write(content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"there is no file .*none\.json with conversations about images; check the path"
    ):
        Llava(tmp_path / "none.json", tmp_path)


def test_skipping_everything_leaves_nothing_to_train_on(write: Write) -> None:
    with pytest.raises(DataError, match="holds no conversation that can be used"):
        Llava(write([entry(image="none.jpg")]), bad=BadData("skip"))


@pytest.mark.parametrize(
    "bad",
    [
        entry(image=...),
        says(turn(HUMAN, "a"), turn(GPT, "b"), turn(HUMAN, "c"), turn(GPT, "d")),
        says(turn(HUMAN, "a"), turn(GPT, "b <image>")),
    ],
)
def test_captions_are_pairs_of_an_image_and_one_answer(write: Write, bad: object) -> None:
    path = write([bad])
    assert len(Llava(path)) == 1
    with pytest.raises(DataError, match="entry 0: an image-caption pair has an image, one question and one answer"):
        Llava(path, captions=True)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_any_kind_of_picture_becomes_rgb(write: Write, tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGB", (5, 4), (10, 200, 30)).convert(mode)
    picture.save(tmp_path / "pictures" / "b.tiff")
    llava = Llava(write([entry(image="pictures/b.tiff")]))
    found = llava.image(0, llava.read(0))
    assert found is not None
    assert found.shape == (4, 5, 3)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_an_image_that_does_not_decode_names_the_entry_and_itself(write: Write, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pictures" / "a.png").write_bytes(content)
    llava = Llava(write([entry(image=...), entry()]))
    with pytest.raises(DataError, match=r"chat\.json, entry 1: the image .*/pictures/a\.png cannot be decoded"):
        llava.image(1, llava.read(1))


def test_what_is_held_is_the_place_of_each_entry(write: Write) -> None:
    llava = Llava(write([entry(), entry(conversations=...), entry()]), bad=BadData("skip"))
    assert llava.source(1).endswith("chat.json, entry 2")
    held: Any = llava._places  # pyright: ignore[reportPrivateUsage]
    assert held.nbytes == 2 * 24


def test_a_flipped_bit_in_a_picture_is_a_data_error_or_nothing(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "pictures" / "a.png"
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 255, (16, 16, 3), np.uint8)).save(tmp_path / "pictures" / "b.jpg")
    sound = path.read_bytes(), (tmp_path / "pictures" / "b.jpg").read_bytes()
    llava = Llava(write([entry()]))
    talk = llava.read(0)
    for number in range(300):
        data = bytearray(sound[number % 2])
        data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
        path.write_bytes(data[: int(random.integers(1, len(data) + 1))] if number % 3 else data)
        try:
            llava.image(0, talk)
        except DataError as error:
            assert "cannot be decoded" in str(error)  # noqa: PT017 - either outcome is right
