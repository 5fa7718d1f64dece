from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openvla.codec.statistics import compute, save_statistics
from openvla.data.compatibility.profiles import load_profile
from openvla.errors import DataError, UsageError


@pytest.fixture
def statistics(tmp_path: Path) -> Path:
    rows = np.random.default_rng(0).normal(size=(50, 7))
    save_statistics(
        tmp_path / "statistics.json", {"bridge_orig": compute([(rows, None)]), "x": compute([(rows, None)])}
    )
    return tmp_path / "statistics.json"


def test_data_know_how_the_robot_follows_and_how_episodes_begin(shared: Path) -> None:
    profile = load_profile(str(shared / "data/bridge_dataset"))
    np.testing.assert_allclose(profile.follows[:6], 1, atol=1e-6)
    assert np.isnan(profile.follows[6])
    assert profile.start > 0.9
    assert profile.spec.control_hz == 5


def test_a_record_of_ones_own_applies_after_a_colon(shared: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from openvla.data.registry.record import DataRecord, StateEncoding\n"
        "MINE = DataRecord(images={}, columns=(lambda s: -s['action'],), proprio=('observation|state',),\n"
        "                  state_encoding=StateEncoding.POS_EULER)\n"
    )
    profile = load_profile(f"{shared / 'data/bridge_dataset'}:{file}:MINE")
    assert (profile.follows[:3] < -0.2).all()


def test_a_checkpoint_knows_its_rate_and_gripper() -> None:
    import openvla

    profile = load_profile(str(Path(openvla.__file__).parent / "shipped/nano"))
    assert (profile.spec.control_hz, profile.spec.dim) == (16, 4)


def test_a_file_of_many_needs_a_name(statistics: Path) -> None:
    assert load_profile(f"{statistics}:bridge_orig").spec.control_hz == 5
    assert load_profile(f"{statistics}:x").spec.control_hz == 0
    assert load_profile(str(statistics), "bridge_orig").name == str(statistics)
    with pytest.raises(UsageError, match=r"there are 2 sets of statistics, .* known are bridge_orig, x; write .*:NAME"):
        load_profile(str(statistics))
    with pytest.raises(UsageError, match="unknown statistics 'bridge'; known are bridge_orig, x"):
        load_profile(f"{statistics}:bridge")


def test_statistics_as_published_training_caches_them_are_read(golden: Path) -> None:
    place = str(golden / "oxe_statistics/taco_play_statistics.json")
    assert load_profile(place).spec.control_hz == 0
    assert load_profile(f"{place}:taco_play").spec.control_hz == 15


def test_what_is_neither_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no directory or file"):
        load_profile(str(tmp_path / "none.json"))
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DataError, match=r"a\.json is not JSON"):
        load_profile(str(tmp_path / "a.json"))
    (tmp_path / "a.json").write_text('{"action": {}}')
    with pytest.raises(DataError, match=r"a\.json, field 'action', lacks 'mean'"):
        load_profile(str(tmp_path / "a.json"))
