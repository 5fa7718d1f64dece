from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tensorflow_datasets.core.features import FeatureConnector

from openvla.data.tfds.features import Features, Image, Leaf, Sequence, Tensor, Text
from openvla.errors import DataError

ROOT = {
    "steps": Sequence(
        {
            "observation": {
                "image": Image((64, 48, 3), "png"),
                "present/xyz": Tensor((3,), "float64"),
                "boxes": Sequence({"corner": Tensor((2,), "int32")}),
            },
            "depth": Tensor((None, None), "uint16", "zlib"),
            "is_first": Tensor((), "bool"),
        },
        dataset=True,
    ),
    "episode_metadata": {"file_path": Text(), "tags": Sequence(Text(), 3)},
    "aspects": {"success": Tensor((), "bool")},
}


def test_leaves_are_named_by_walking_the_tree_and_never_by_splitting_keys() -> None:
    features = Features(ROOT)
    assert list(features.steps) == [
        "observation|image",
        "observation|present/xyz",
        "observation|boxes|corner",
        "depth",
        "is_first",
    ]
    leaf = features.steps["observation|present/xyz"]
    assert leaf == Leaf("observation|present/xyz", "steps/observation/present/xyz", Tensor((3,), "float64"), 1)
    assert features.steps["observation|boxes|corner"].depth == 2


def test_metadata_loses_its_prefix_and_other_branches_keep_theirs() -> None:
    leaves = Features(ROOT).metadata
    assert {name: (leaf.key, leaf.depth) for name, leaf in leaves.items()} == {
        "file_path": ("episode_metadata/file_path", 0),
        "tags": ("episode_metadata/tags", 1),
        "aspects|success": ("aspects/success", 0),
    }


def test_a_description_survives_a_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "features.json"
    path.write_text(json.dumps(Features(ROOT).to_json()))
    assert Features.load(path).root == ROOT


def test_tensorflow_datasets_reads_the_description_and_writes_the_same() -> None:
    connector = FeatureConnector.from_json(Features(ROOT).to_json())
    assert Features.from_json(connector.to_json(), "tfds").root == ROOT


def test_the_older_spelling_is_read() -> None:
    new = Features(ROOT).to_json()
    for content in (new["featuresDict"], json.dumps(new["featuresDict"])):
        old = {"type": new["pythonClassName"], "content": content, "proto_cls": "tensorflow_datasets.FeaturesDict"}
        assert Features.from_json(old, "old").root == ROOT


def test_the_real_description_is_read_and_written_back(shared: Path) -> None:
    path = shared / "data/bridge_dataset/1.0.0/features.json"

    def without_docs(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        return {k: without_docs(v) for k, v in node.items() if not (k == "description" and isinstance(v, str))}

    features = Features.load(path)
    assert features.steps["observation|image_0"].feature == Image((64, 64, 3), "jpeg")
    assert features.to_json() == without_docs(json.loads(path.read_text()))


def tensor(**content: Any) -> dict[str, Any]:
    step = {"featuresDict": {"features": {"x": content}}}
    return {"featuresDict": {"features": {"steps": {"sequence": {"feature": step, "length": "-1"}}}}}


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        ([], "does not describe features"),
        ({}, "the episode is of kind no known kind; known are FeaturesDict"),
        ({"featuresDict": {"features": {}}}, "describes no 'steps'"),
        ({"text": {}}, "describes no 'steps'"),
        (tensor(tensor={"dtype": "complex64"}), "feature 'steps', feature 'x' has dtype 'complex64'"),
        (tensor(tensor={"dtype": "float33"}), "data type 'float33' not understood"),
        (tensor(tensor={"dtype": "int8", "encoding": "gzip"}), "encoding 'gzip'; known are none, bytes, zlib"),
        (tensor(image={"encodingFormat": "webp"}), "image format 'webp'; known are jpeg, png"),
        (tensor(audio={}, pythonClassName="a.Audio"), "feature 'x' is of kind a.Audio; known are"),
        (tensor(tensor={"dtype": "int8", "shape": {"dimensions": ["x"]}}), "invalid literal"),
        ({"type": "T", "content": "{", "proto_cls": "x.FeaturesDict"}, "does not describe features"),
    ],
)
def test_a_foreign_description_is_refused(raw: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        Features.from_json(raw, "features.json")


def test_a_missing_or_broken_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*features\.json: No such file"):
        Features.load(tmp_path / "features.json")
    (tmp_path / "features.json").write_text("{")
    with pytest.raises(DataError, match=r"features\.json is not JSON"):
        Features.load(tmp_path / "features.json")
