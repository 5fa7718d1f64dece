from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from openvla.data.registry.find import DATASETS, find_record
from openvla.data.registry.record import DataRecord
from openvla.errors import UsageError

NO_CAMERA = "\u2013"
MY_FILE = """
from openvla.data.registry.record import DataRecord, end_effector

def halved(steps):
    return steps["action"] / 2

MINE = DataRecord(images={"primary": "observation|image"}, columns=(halved,), action=end_effector(10))
NAMED = DataRecord(images={"primary": "observation|image"}, name="my_robot")
OTHER = {"a": 1}
"""


@pytest.fixture
def my_file(tmp_path: Path) -> Path:
    path = tmp_path / "my_file.py"
    path.write_text(MY_FILE)
    return path


def test_the_published_70_are_there_in_the_published_order_of_lines() -> None:
    lines = [record.line for record in DATASETS.values() if record.line]
    assert len(lines) == len(set(lines)) == 70
    assert (min(lines), max(lines)) == (55, 666)


def test_each_record_knows_its_name() -> None:
    assert all(record.name == name for name, record in DATASETS.items())
    assert find_record(DATASETS["droid"]) is DATASETS["droid"]
    assert find_record(DataRecord(images={})).name == "dataset"


def test_records_are_those_of_the_published_table(shared: Path) -> None:
    text = (shared / "facts/data.md").read_text() if (shared / "facts/data.md").exists() else pytest.skip("no table")
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if "EEF_POS |" in line]
    rows += [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if "JOINT_POS |" in line
    ]
    assert len(rows) == 70
    for name, primary, secondary, wrist, depth, state, state_encoding, encoding, line in rows:
        record = DATASETS[name]
        cameras = zip(("primary", "secondary", "wrist"), (primary, secondary, wrist), strict=True)
        assert dict(record.images) == {view: f"observation|{camera}" for view, camera in cameras if camera != NO_CAMERA}
        views = zip(("primary", "secondary", "wrist"), depth.split("/"), strict=False)
        assert set(record.depth) == {view for view, camera in views if camera != NO_CAMERA}
        keys = ["None"] * 8 if state.endswith("\u00d7None") else re.split(r",\s*", state)
        assert record.proprio == tuple(None if key == "None" else f"observation|{key}" for key in keys)
        assert (record.state_encoding.name, record.line) == (state_encoding, int(line))
        assert record.encoding is not None
        assert record.encoding.name == encoding


def test_every_record_can_be_sent_to_a_worker() -> None:
    for record in DATASETS.values():
        again = pickle.loads(pickle.dumps(record))
        assert (again.columns, again.fields, again.proprio) == (record.columns, record.fields, record.proprio)


def test_a_record_of_a_file_is_found_by_its_name(my_file: Path) -> None:
    record = find_record(f"{my_file}:MINE")
    assert (record.name, record.action.control_hz) == ("MINE", 10)
    assert find_record(f"{my_file}:NAMED").name == "my_robot"
    again = pickle.loads(pickle.dumps(record))
    assert again.columns == record.columns


def test_a_file_is_given_with_a_name_in_it(my_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"my_file\.py holds data sets, but which\? write .*:NAME; it has MINE, NAMED"):
        find_record(str(my_file))
    with pytest.raises(UsageError, match=r"my_file\.py: unknown data set 'MIME'; did you mean 'MINE'"):
        find_record(f"{my_file}:MIME")
    with pytest.raises(UsageError, match=r"my_file\.py: OTHER is a dict; a data set must be a DataRecord"):
        find_record(f"{my_file}:OTHER")
    with pytest.raises(UsageError, match=r"there is no file .*none\.py; a data set of your own is given as FILE\.py"):
        find_record(f"{tmp_path}/none.py:MINE")


@pytest.mark.parametrize("code", ["1 / 0", "x = (", "import nothing_of_that_name", "raise SystemExit(1)"])
def test_a_file_that_does_not_run_is_one_sentence(tmp_path: Path, code: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(code)
    with pytest.raises(UsageError, match=r"broken\.py does not run: \w+: .*; correct the file"):
        find_record(f"{path}:MINE")


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown data set 'fractal2022_data'; did you mean 'fractal20220817_data'"):
        find_record("fractal2022_data")
