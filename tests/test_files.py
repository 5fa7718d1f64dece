from __future__ import annotations

from pathlib import Path

import pytest

from openvla.errors import DataError
from openvla.files import made_directory, new_directory, new_file, write_text


def test_a_directory_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "made" / "too" / "target"
    with new_directory(target, DataError) as place:
        (place / "inner").mkdir()
        (place / "inner" / "a.txt").write_text("a")
        assert place.parent == target.parent
        assert not target.exists()
    assert (target / "inner" / "a.txt").read_text() == "a"
    assert [path.name for path in target.parent.iterdir()] == ["target"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_directory_leaves_nothing_not_even_its_parents(
    tmp_path: Path, error: type[BaseException]
) -> None:
    def interrupted() -> None:
        with new_directory(tmp_path / "made" / "target", DataError) as place:
            (place / "half.txt").write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_others_use_by_now_stays(tmp_path: Path) -> None:
    def interrupted() -> None:
        with new_directory(tmp_path / "made" / "target", DataError):
            (tmp_path / "made" / "theirs").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["theirs"]


def test_an_existing_directory_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old.txt").touch()
    message = r"target exists already; remove it, or choose another directory"
    with pytest.raises(DataError, match=message), new_directory(tmp_path / "target", DataError):
        pass
    assert (tmp_path / "target" / "old.txt").exists()


def test_a_directory_below_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = r"cannot write .*file/target: (Not a directory|File exists)"
    with pytest.raises(DataError, match=message), new_directory(tmp_path / "file" / "target", DataError):
        pass


def test_a_made_directory_stays_once_it_holds_something(tmp_path: Path) -> None:
    with made_directory(tmp_path / "a" / "b", DataError):
        pass
    assert (tmp_path / "a" / "b").is_dir()

    def interrupted(path: Path, *, fill: bool) -> None:
        with made_directory(path, DataError):
            if fill:
                (path / "kept.txt").touch()
            raise OSError("something else")

    for fill in (False, True):
        with pytest.raises(OSError, match="something else"):
            interrupted(tmp_path / "a" / "c" / "d", fill=fill)
        assert (tmp_path / "a" / "c").exists() == fill
    assert (tmp_path / "a" / "b").is_dir()


def test_a_directory_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = r"cannot create .*file/a: (Not a directory|File exists); choose another directory"
    with pytest.raises(DataError, match=message), made_directory(tmp_path / "file" / "a", DataError):
        pass


def test_a_new_file_is_never_an_old_one(tmp_path: Path) -> None:
    with new_file(tmp_path / "a") as file:
        file.write(b"first")
    with pytest.raises(FileExistsError), new_file(tmp_path / "a"):
        pass
    assert (tmp_path / "a").read_bytes() == b"first"


def test_text_is_written_or_replaced_in_one_step(tmp_path: Path) -> None:
    for text in ("first", "größer"):
        write_text(tmp_path / "a.txt", text, DataError)
        assert (tmp_path / "a.txt").read_text(encoding="utf-8") == text
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_text_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old", DataError)
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.txt", "\ud800", DataError)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(("parent", "reason"), [("absent", "No such file or directory"), ("file", "Not a directory")])
def test_text_in_an_impossible_place_is_one_sentence(tmp_path: Path, parent: str, reason: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=rf"cannot write .*{parent}/a\.txt: {reason}; choose another place"):
        write_text(tmp_path / parent / "a.txt", "a", DataError)


def test_text_over_a_directory_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match=r"cannot write .*/a: Is a directory; choose another place"):
        write_text(tmp_path / "a", "a", DataError)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
