from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from openvla.data.bad import BadData
from openvla.data.conversion.compare import Comparison, compare
from openvla.data.conversion.convert import Conversion, convert
from openvla.data.episode import build_episode
from openvla.data.formats.detect import open_dataset, open_source
from openvla.data.rlds import write_episodes
from openvla.errors import DataError, UsageError


def make(number: int, steps: int = 5, size: int = 64):
    random = np.random.default_rng(number)
    values = {
        "observation|image": random.integers(0, 256, (steps, size, size, 3), np.uint8),
        "observation|proprio": random.normal(size=(steps, 4)),
        "action": random.normal(size=(steps, 7)),
        "language_instruction": [f"do {number % 2}"] * (steps - 1) + [""],
        "is_last": np.arange(steps) == steps - 1,
        "reward": np.zeros(steps, np.float32),
        "count": np.arange(steps, dtype=np.int32),
        "matrix": random.normal(size=(steps, 2, 3)),
    }
    return build_episode(values, {"seed": number, "note": "é"}, source=f"episode {number}")


@pytest.fixture
def rlds(tmp_path: Path) -> Path:
    return write_episodes(tmp_path / "made", {"train": map(make, range(6)), "val": [make(9, steps=3)]})


def same(one: Path, two: Path) -> None:
    for split in ("train", "val"):
        account = Comparison()
        again = compare(open_dataset(one, split=split), open_dataset(two, split=split), account)
        pairs = zip(open_dataset(one, split=split), again, strict=True)
        assert all(a.metadata == b.metadata and a.features == b.features for a, b in pairs)
        assert not account.psnr_db


@pytest.mark.parametrize("part_megabytes", [100, 0.02])
def test_there_and_back_changes_nothing(rlds, tmp_path, part_megabytes):
    settings = Conversion("lerobot", fps=5, part_megabytes=part_megabytes)
    done = convert(open_source(rlds), tmp_path / "there", settings)
    assert done.splits == {"train": 6, "val": 1}
    assert done.comparison.identical["action"] == 33 * 7
    convert(open_source(tmp_path / "there"), tmp_path / "back", Conversion("rlds", part_megabytes=part_megabytes))
    same(rlds, tmp_path / "back")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "made", "there"]


def test_a_video_reports_how_much_it_lost(rlds, tmp_path):
    done = convert(open_source(rlds), tmp_path / "film", Conversion("lerobot", fps=5, images="video"))
    assert len(done.comparison.psnr_db["observation|image"]) == 33
    assert 5 < min(done.comparison.psnr_db["observation|image"]) < 40  # noise is the worst there is
    assert done.comparison.identical["matrix"] == 33 * 6


def test_the_files_of_lerobot_have_its_schema(shared, tmp_path):
    import json

    import pyarrow.parquet as pq

    for kind, images in (("image", "keep"), ("video", "video")):
        source = shared / "data" / f"lerobot_v3_{kind}"
        convert(open_source(source), tmp_path / kind, Conversion("lerobot", images=images))
        for file in ("data/chunk-000/file-000.parquet", "meta/tasks.parquet"):
            ours, theirs = (pq.ParquetFile(root / file).schema_arrow for root in (tmp_path / kind, source))
            assert ours.equals(theirs)
        table = "meta/episodes/chunk-000/file-000.parquet"
        ours, theirs = (pq.read_schema(root / table) for root in (tmp_path / kind, source))
        assert set(theirs.names) <= set(ours.names)
        assert not [name for name in theirs.names if ours.field(name).type != theirs.field(name).type]
        ours, theirs = (json.loads((root / "meta/info.json").read_text()) for root in (tmp_path / kind, source))
        assert ours == theirs
        ours, theirs = (json.loads((root / "meta/stats.json").read_text()) for root in (tmp_path / kind, source))
        for key in ("min", "max", "mean"):
            assert ours["action"][key] == pytest.approx(theirs["action"][key], abs=1e-6)


def test_quantiles_over_the_whole_are_exact(rlds, tmp_path):
    import json

    convert(open_source(rlds), tmp_path / "there", Conversion("lerobot", fps=5, part_megabytes=0.02))
    stats = json.loads((tmp_path / "there" / "meta" / "stats.json").read_text())["action"]
    actions = np.concatenate([e.steps["action"] for e in open_dataset(rlds, split="all")]).astype(float)
    assert stats["q99"] == pytest.approx(np.quantile(actions, 0.99, axis=0))
    assert stats["std"] == pytest.approx(actions.std(axis=0))


KILLED = """
import os, signal, sys
from openvla.data.conversion.convert import Conversion, convert
from openvla.data.formats.detect import open_source

def progress(episodes, stage):
    for number, episode in enumerate(episodes):
        if stage.startswith(sys.argv[4]) and number == int(sys.argv[5]):
            os.kill(os.getpid(), signal.SIGKILL)
        yield episode

settings = Conversion(sys.argv[3], fps=5, part_megabytes=0.02)
convert(open_source(sys.argv[1]), sys.argv[2], settings, progress=progress)
"""


@pytest.mark.parametrize("form", ["rlds", "lerobot"])
def test_a_killed_conversion_goes_on_and_is_the_same(rlds, tmp_path, form):
    for stage, number in (("writing train", 3), ("writing train", 1), ("checking train", 2)):
        line = [sys.executable, "-c", KILLED, rlds, tmp_path / "out", form, stage, str(number)]
        done = subprocess.run(line, check=False, capture_output=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not (tmp_path / "out" / "1.0.0" / "dataset_info.json").exists()
        assert not (tmp_path / "out" / "meta").exists()
    read = []
    settings = Conversion(form, fps=5, part_megabytes=0.02)

    def progress(episodes, stage):
        for episode in episodes:
            read.append(stage)
            yield episode

    convert(open_source(rlds), tmp_path / "out", settings, progress=progress)
    assert not [stage for stage in read if stage.startswith("writing")]  # all of it was committed before
    same(rlds, tmp_path / "out")
    assert not [path for path in tmp_path.rglob(".*") if path.name.endswith(".partial")]


def test_nan_actions_name_the_step_and_leave_nothing(tmp_path):
    bad = make(1)
    bad.steps["action"][3, 2] = np.nan
    source = write_episodes(tmp_path / "made", [make(0), bad, make(2)])
    with pytest.raises(DataError, match=r"record 1 .*the action at step 3 is .*nan.*--on-bad skip"):
        convert(open_source(source), tmp_path / "out", Conversion("lerobot", fps=5))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made"]
    account = BadData("skip")
    done = convert(open_source(source), tmp_path / "out", Conversion("lerobot", fps=5), bad=account)
    assert done.splits == {"train": 2}
    assert len(done.skipped) == 1


def test_an_image_that_does_not_decode_is_found_before_it_is_passed_on(tmp_path):
    bad = make(1)
    bad.steps["observation|image"][2] = b"\xff\xd8\xff broken"
    source = write_episodes(tmp_path / "made", [make(0), bad])
    with pytest.raises(DataError, match=r"'observation.image' at step 2 is a damaged JPEG"):
        convert(open_source(source), tmp_path / "out", Conversion("rlds"))


def test_an_existing_target_is_left_alone(rlds, tmp_path):
    with pytest.raises(DataError, match="exists already; remove it"):
        convert(open_source(rlds), rlds.parent, Conversion("rlds"))


def test_lerobot_needs_a_rate(rlds, tmp_path):
    with pytest.raises(UsageError, match="a whole number of steps a second, these data do not say it; give --fps"):
        convert(open_source(rlds), tmp_path / "out", Conversion("lerobot"))


def test_timestamps_of_another_rate_are_refused(shared, tmp_path):
    with pytest.raises(DataError, match=r"the timestamp 0\.2000 s at step 1 does not fit 10 steps a second"):
        convert(open_source(shared / "data" / "lerobot_v3_image"), tmp_path / "out", Conversion("lerobot", fps=10))


def test_features_can_be_left_out(rlds, tmp_path):
    done = convert(open_source(rlds), tmp_path / "out", Conversion("rlds", drop=("matrix", "observation|proprio")))
    assert set(next(open_dataset(done.directory)).steps) == {
        "observation|image", "action", "language_instruction", "is_last", "reward", "count",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"format": "zarr"}, "unknown target format 'zarr'"),
        ({"format": "rlds", "images": "video"}, "not as a video"),
        ({"format": "rlds", "images": "gif"}, "unknown way to store images"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, words):
    with pytest.raises(UsageError, match=words):
        Conversion(**settings)


def test_tensorflow_datasets_reads_what_is_converted(shared, tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    done = convert(open_source(shared / "data" / "lerobot_v3_video"), tmp_path / "out", Conversion("rlds"))
    builder = tfds.builder_from_directory(str(done.directory))
    assert builder.info.splits["train"].num_examples == 4
    assert "observation" in builder.info.features["steps"].feature
