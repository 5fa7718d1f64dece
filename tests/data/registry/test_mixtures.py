from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from openvla.data.registry.find import DATASETS
from openvla.data.registry.mixture_tables import MIXTURES
from openvla.data.registry.mixtures import epoch_length, mixture, sampling_weights
from openvla.errors import DataError, UsageError

SIZES = {"rtx": 10, "rtx_franka": 28, "oxe_magic_soup": 23, "oxe_magic_soup_plus": 27, "oxe_magic_soup_plus_minus": 25}


def test_the_large_mixtures_have_the_published_entries(shared: Path) -> None:
    text = (shared / "facts/data.md").read_text() if (shared / "facts/data.md").exists() else pytest.skip("no table")
    table = text[text.index("| dataset | rtx |") : text.index("| **number of entries")]
    header, _, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in table.strip().splitlines())
    for column, name in enumerate(header[1:], start=1):
        wanted = [(row[0], float(weight)) for row in rows for weight in row[column].split(" then ") if weight]
        assert sorted(MIXTURES[name]) == sorted(wanted)
        first = {row[0]: float(row[column].split(" then ")[0]) for row in rows if row[column]}
        assert {entry.name: entry.weight for entry in mixture(name)}.items() <= first.items()


def test_every_mixture_can_be_opened() -> None:
    assert {name: len(MIXTURES[name]) for name in SIZES} == SIZES
    for name, weights in MIXTURES.items():
        assert {dataset for dataset, _ in weights} <= DATASETS.keys()
        assert mixture(name)


def test_twice_is_the_first_weight_and_unloadable_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        entries = {entry.name: entry.weight for entry in mixture("rtx_franka")}
    assert len(entries) == 23
    assert (entries["taco_play"], entries["berkeley_cable_routing"], entries["viola"]) == (2.0, 3.0, 2.0)
    assert "taco_play is in the mixture twice; the first weight, 2, counts" in caplog.text
    assert (
        "leaving berkeley_rpt_converted_externally_to_rlds out of the mixture: its actions are JOINT_POS" in caplog.text
    )


def test_a_data_set_is_a_mixture_of_itself() -> None:
    (entry,) = mixture("kuka")
    assert (entry.name, entry.weight, entry.record) == ("kuka", 1.0, DATASETS["kuka"])
    assert len(mixture("libero_4_task_suites_no_noops")) == 4


def test_a_list_names_data_sets_and_weights(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from openvla.data.registry.record import DataRecord\nMINE = DataRecord(images={})\n")
    entries = mixture(f"bridge_orig=2, kuka,{file}:MINE=0.5")
    assert [(entry.name, entry.weight) for entry in entries] == [("bridge_orig", 2), ("kuka", 1), ("MINE", 0.5)]
    assert [entry.name for entry in mixture([("kuka", 0.25), (f"{file}:MINE", 1)])] == ["kuka", "MINE"]
    assert mixture(f"{file}:MINE")[0].name == "MINE"


def test_what_is_no_mixture_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="unknown mixture or data set 'oxe_magic_sup'; did you mean 'oxe_magic_soup'"):
        mixture("oxe_magic_sup")
    with pytest.raises(UsageError, match="unknown data set 'bridge_oirg'"):
        mixture("bridge_oirg=1,kuka")
    with pytest.raises(UsageError, match=r"'kuka=much' has the weight 'much'; write NAME=NUMBER"):
        mixture("kuka=much")
    for weight in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match=r"the weight of 'kuka' is .*; give a number above 0"):
            mixture([("kuka", weight)])
    with pytest.raises(UsageError, match="nothing is left of the mixture 'roboset'"):
        mixture("roboset")
    with pytest.raises(UsageError, match="nothing is left of the mixture ''"):
        mixture("")


def test_balanced_weights_count_steps_and_others_data_sets() -> None:
    entries = mixture([("bridge_orig", 1.0), ("kuka", 0.5), ("taco_play", 2.0)])
    lengths = {"bridge_orig": 1000, "kuka": 4000, "taco_play": 500}
    np.testing.assert_allclose(sampling_weights(entries, lengths), [0.25, 0.5, 0.25])
    np.testing.assert_allclose(sampling_weights(entries, lengths, balance=False), np.array([2, 1, 4]) / 7)


def test_an_epoch_shows_each_data_set_of_weight_one_once() -> None:
    entries = mixture([("bridge_orig", 1.0), ("kuka", 0.5), ("taco_play", 2.0)])
    lengths = {"bridge_orig": 1000, "kuka": 4000, "taco_play": 500}
    assert epoch_length(entries, lengths) == 4000
    assert epoch_length(entries, lengths, balance=False) == 3500
    assert epoch_length(mixture([("kuka", 0.5)]), lengths) == 2000
    assert epoch_length(mixture([("kuka", 0.5)]), lengths, balance=False) == 4000


def test_an_unknown_length_is_refused() -> None:
    with pytest.raises(DataError, match="the mixture has 'kuka', of which 0 steps are known; compute its statistics"):
        sampling_weights(mixture("kuka"), {"bridge_orig": 5})
