from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from openvla.errors import TrainingError
from openvla.train.config import TrainConfig
from openvla.train.run_file import RUN, begin, check_output, read_run

Make = Callable[..., TrainConfig]


def test_a_run_begun_before_a_setting_existed_had_its_default(config: Make) -> None:
    begin(config())
    path = config().output / RUN
    settings = json.loads(path.read_text())
    for name in ("vision_weights", "image_text_ratio"):
        del settings[name]
    path.write_text(json.dumps(settings))
    check_output(config(resume=True))
    assert read_run(config().output) == config()
    with pytest.raises(TrainingError, match=r"image_text_ratio was 0\.5 and is 0\.25"):
        check_output(config(resume=True, image_text_ratio=0.25))


def test_the_parts_of_a_new_model_may_not_change_even_by_force(config: Make) -> None:
    begin(config(language_model="llm"))
    with pytest.raises(
        TrainingError, match=r"language_model was 'llm' and is 'other'; give the same values as before$"
    ):
        check_output(config(resume=True, force=True, language_model="other"))


def test_a_file_is_no_output(config: Make) -> None:
    config().output.touch()
    with pytest.raises(TrainingError, match="is a file; choose a directory as the output"):
        check_output(config())
