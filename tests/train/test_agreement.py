from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from openvla.codec.codec import Codec
from openvla.codec.prompt import Prompt
from openvla.errors import TrainingError
from openvla.train.agreement import check_agreement
from openvla.train.config import TrainConfig
from openvla.train.data import load_batches, with_statistics
from openvla.train.loop import train
from openvla.train.setup import starting_point

Make = Callable[..., TrainConfig]


def served_with(monkeypatch: pytest.MonkeyPatch, change: Callable[[Codec], Codec]) -> None:
    """Let what is read back from a checkpoint differ from what was written."""
    load = Codec.load
    monkeypatch.setattr(Codec, "load", classmethod(lambda cls, place: change(load(place))))


def corrupted(config: Make, tmp_path: Path, change: Callable[[dict], None]) -> str:
    """A checkpoint whose statistics were changed."""
    final = train(config(output=tmp_path / "base", steps=1)).final
    path = final / "dataset_statistics.json"
    table = json.loads(path.read_text())
    change(table["metaworld"]["action"])
    path.write_text(json.dumps(table))
    return str(final)


@pytest.mark.parametrize("changes", [{}, {"augment": True}, {"fast_images": True}], ids=str)
def test_a_run_whose_paths_agree_starts(config: Make, changes: dict[str, bool]) -> None:
    train(config(steps=1, doctor=True, **changes))


def test_other_pictures_are_refused(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def dark(codec: Codec) -> Codec:
        means = tuple(tuple(mean + 0.3 for mean in each) for each in codec.images.means)
        return dataclasses.replace(codec, images=dataclasses.replace(codec.images, means=means))

    served_with(monkeypatch, dark)
    with pytest.raises(
        TrainingError, match=r"in 10 frames of 'metaworld', pictures differ by 7\d\.\d of 255 levels .* --doctor$"
    ):
        train(config(doctor=True))
    assert not config().output.exists()


def test_other_words_are_refused(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    served_with(monkeypatch, lambda codec: dataclasses.replace(codec, prompt=Prompt("Do: {instruction}\n")))
    with pytest.raises(TrainingError, match="in 10 frames of 'metaworld', 10 prompts differ"):
        train(config(doctor=True))


def test_other_bins_are_refused(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def coarse(codec: Codec) -> Codec:
        return dataclasses.replace(codec, actions=dataclasses.replace(codec.actions, num_bins=128))

    served_with(monkeypatch, coarse)
    with pytest.raises(TrainingError, match="the action's x does not come back from its tokens"):
        train(config(doctor=True))


def test_a_codec_that_cannot_be_read_back_is_refused(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    save = Codec.save

    def torn(codec: Codec, place: Path) -> None:
        save(codec, place)
        (Path(place) / "codec.json").write_text("{")

    monkeypatch.setattr(Codec, "save", torn)
    with pytest.raises(TrainingError, match=r"the codec of this run cannot be read back from its files: .*codec\.json"):
        train(config(doctor=True))


def test_statistics_of_other_data_are_refused(config: Make, tmp_path: Path) -> None:
    def shrink(action: dict) -> None:
        action["q01"], action["q99"] = [-0.01] * 4, [0.01] * 4

    start = corrupted(config, tmp_path, shrink)
    with pytest.raises(TrainingError, match="most values of x, y lie outside of the statistics' range"):
        train(config(checkpoint=start, doctor=True))


def test_every_data_set_of_a_run_is_looked_at(config: Make) -> None:
    codec = with_statistics(starting_point(config()).codec, config())
    batches, _ = load_batches(config(), codec)
    batches.sources = (batches.sources[0], batches.sources[0])
    seen: list[int] = []
    original = Codec.encode_image

    def count(self: Codec, image: np.ndarray) -> np.ndarray:
        seen.append(1)
        return original(self, image)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Codec, "encode_image", count)
        check_agreement(batches, codec, augment=False)
    assert len(seen) == 10
