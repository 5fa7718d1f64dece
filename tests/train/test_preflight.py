from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import pytest
import torch
from torch.distributed import HashStore

from openvla.errors import TrainingError
from openvla.train import preflight
from openvla.train.config import TrainConfig
from openvla.train.loop import train
from openvla.train.preflight import Place, check_reports
from openvla.train.world import connect

Make = Callable[..., TrainConfig]
Launch = Callable[..., list[tuple[int, str]]]
CPU = torch.device("cpu")


def meet(second: dict[str, object], **changed: str) -> None:
    """The preflight of rank 0, whose only companion reports `second` settings and `changed` facts."""
    store = HashStore()
    theirs = preflight.report(CPU, second) | {"host": "b"} | changed
    store.set("openvla/preflight/report/1", json.dumps(theirs))
    store.set("openvla/preflight/read/1", "")
    check_reports(store, Place(0, 2, 0, "a:1"), CPU, {"steps": 5}, 0.2)


def test_processes_that_agree_pass() -> None:
    meet({"steps": 5})


def test_another_version_is_named_with_its_rank() -> None:
    with pytest.raises(TrainingError, match=r"rank 1 on b has torch '1\.0', and rank 0 on .* all processes .* agree"):
        meet({"steps": 5}, torch="1.0")


def test_another_setting_is_named_by_its_flag() -> None:
    with pytest.raises(TrainingError, match=r"rank 1 on b has --steps 6, and rank 0 on .* has 5"):
        meet({"steps": 6})


def test_another_device_is_named() -> None:
    with pytest.raises(TrainingError, match=r"rank 1 on b has device 'NVIDIA H200', and rank 0 on .* has 'cpu'"):
        meet({"steps": 5}, device="NVIDIA H200")


def test_a_process_that_never_comes_is_named_in_time() -> None:
    with pytest.raises(TrainingError, match=r"rank 0 of 3 waited 0\.1 s at a:1, and rank 1, 2 did not report"):
        check_reports(HashStore(), Place(0, 3, 0, "a:1"), CPU, {}, 0.1)


def test_a_rendezvous_that_is_not_there_is_named(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match=r"rank 1 of 2 cannot reach the rendezvous at 127\.0\.0\.1:9 within 1 s"):
        train(config(preflight_timeout_s=1.0))
    assert not config().output.exists()


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "sets RANK or WORLD_SIZE but not LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        (
            {"RANK": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            "must be whole numbers",
        ),
    ],
)
def test_an_environment_that_is_not_torchruns_is_named(monkeypatch, place: dict[str, str], sentence: str) -> None:
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match=sentence), connect("cpu", {}, 1.0):
        pass


def test_processes_with_other_settings_both_say_so_and_leave_nothing(config: Make, launch: Launch) -> None:
    first = config()
    done = launch(first, dataclasses.replace(first, learning_rate=1.0))
    assert [code for code, _ in done] == [2, 2], done
    for _, said in done:
        assert "has --learning-rate 1.0, and rank 0 on" in said
        assert "Traceback" not in said
    assert not first.output.exists()
