"""What creation and POST info accept, and how info and metadata show it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from labelmap_instances import Labels

from fascicle.errors import BadRequest


def info(labels: Labels, version: int | None = None) -> dict[str, Any]:
    with labels.store.read() as txn:
        view = labels.view(txn, version)
        instance = labels.cache.at(txn).instance_by_id(labels.instance_id)
        return labels.datatype.extended(instance, view)


def test_defaults() -> None:
    assert info(Labels()) == {
        "Values": [{"DataType": "uint64", "Label": "labelmap"}],
        "Interpolable": False,
        "BlockSize": [64, 64, 64],
        "VoxelSize": [8, 8, 8],
        "VoxelUnits": ["nanometers", "nanometers", "nanometers"],
        "MinPoint": None,
        "MaxPoint": None,
        "MinIndex": None,
        "MaxIndex": None,
        "Background": 0,
        "GridStore": "",
        "ScaleLevel": 0,
        "MaxLabel": {},
        "MaxRepoLabel": 0,
        "NextLabel": 0,
        "IndexedLabels": True,
        "MaxDownresLevel": 0,
    }


def test_settings_are_shown() -> None:
    labels = Labels(
        BlockSize="32,64,16",
        VoxelSize="8.0,8.5,40",
        MaxDownresLevel="3",
        VoxelUnits="nanometers,nanometers,microns",
        MinPoint="0,0,0",
        MaxPoint="99,98,97",
        IndexedLabels="1",
        CountLabels="true",
    )
    shown = info(labels)
    assert shown["BlockSize"] == [32, 64, 16]
    assert (shown["MinPoint"], shown["MaxPoint"]) == ([0, 0, 0], [99, 98, 97])
    assert (shown["MinIndex"], shown["MaxIndex"]) == ([0, 0, 0], [3, 1, 6])
    answer = labels.call("metadata")
    assert answer.content_type == "application/vnd.dvid-nd-data+json"
    axes = msgspec.json.decode(bytes(answer.body))["Axes"]  # type: ignore[arg-type]
    assert axes[1] == {"Label": "Y", "Resolution": 8.5, "Units": "nanometers", "Size": 99, "Offset": 0}
    assert b'"Resolution":8,' in bytes(answer.body)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [
        {"BlockSize": "30,32,32"},
        {"BlockSize": "32,32"},
        {"BlockSize": "0,0,0"},
        {"BlockSize": "-16,16,16"},
        {"BlockSize": "a,b,c"},
        {"BlockSize": "1024,1024,1024"},
        {"BlockSize": "16,16,16,16"},
        {"VoxelSize": "8,8"},
        {"VoxelSize": "a,b,c"},
        {"VoxelSize": "0,8,8"},
        {"VoxelSize": "nan,8,8"},
        {"VoxelUnits": "nanometers"},
        {"MaxDownresLevel": "300"},
        {"MaxDownresLevel": "-1"},
        {"MaxDownresLevel": "x"},
        {"IndexedLabels": "maybe"},
        {"Background": "300"},
        {"MinPoint": "0,0"},
        {"MaxPoint": "1,2,x"},
        {"MinPoint": "5,0,0", "MaxPoint": "4,9,9"},
        {"GridStore": "elsewhere"},
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, str]) -> None:
    with pytest.raises(BadRequest, match=next(iter(settings))):
        Labels(**settings)


def test_extents_belong_to_versions() -> None:
    labels = Labels(BlockSize="32,32,32")
    labels.post("extents", {"MinPoint": [10, 20, 30], "MaxPoint": [109, 119, 129]})
    child = labels.child(labels.root)
    labels.post("extents", {"MinPoint": [-40, 25, 35], "MaxPoint": [20, 30, 40]}, child)
    assert info(labels)["MaxPoint"] == [109, 119, 129]
    shown = info(labels, child)
    assert (shown["MinPoint"], shown["MinIndex"], shown["MaxIndex"]) == ([-40, 25, 35], [-2, 0, 1], [0, 0, 1])


def test_extents_of_merged_versions() -> None:
    labels = Labels(BlockSize="32,32,32")
    one, two = labels.child(labels.root), labels.child(labels.root, "side")
    labels.post("extents", {"MinPoint": [0, 0, 0], "MaxPoint": [9, 99, 9]}, one)
    labels.post("extents", {"MinPoint": [-5, 0, 3], "MaxPoint": [7, 9, 20]}, two)
    merged = labels.merged(one, two)
    assert (info(labels, merged)["MinPoint"], info(labels, merged)["MaxPoint"]) == ([-5, 0, 0], [9, 99, 20])
    labels.post("maxlabel/7", version=merged)
    assert labels.json("maxlabel", version=merged) == {"maxlabel": 7}


def test_changes_of_settings() -> None:
    labels = Labels(BlockSize="32,32,32")
    labels.post("info", {"MaxDownresLevel": "5", "blocksize": "16,16,16"})
    assert (info(labels)["MaxDownresLevel"], info(labels)["BlockSize"]) == (5, [16, 16, 16])
    labels.post("resolution", [4.0, 4.5, 40.0])
    assert info(labels)["VoxelSize"] == [4, 4.5, 40]
    labels.post("raw/0_1_2/16_16_16/0_0_0", b"\x01" + bytes(8 * 16**3 - 1))
    with pytest.raises(BadRequest, match="blocks are stored"):
        labels.post("info", {"BlockSize": "32,32,32"})
    labels.post("info", {"BlockSize": "16,16,16", "MaxDownresLevel": 2})
    assert info(labels)["MaxDownresLevel"] == 2


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("info", b"nonsense"),
        ("info", []),
        ("info", {"MaxDownresLevel": "256"}),
        ("info", {"BlockSize": "10,10,10"}),
        ("info", {"IndexedLabels": "false"}),
        ("extents", b"nonsense"),
        ("extents", {"MinPoint": [1, 2, 3]}),
        ("extents", {"MinPoint": [1, 2], "MaxPoint": [1, 2, 3]}),
        ("extents", {"MinPoint": [1, 2, 3.5], "MaxPoint": [9, 9, 9]}),
        ("extents", {"MinPoint": [1, 2, 3], "MaxPoint": [9, 9, 2**31]}),
        ("extents", {"MinPoint": [9, 2, 3], "MaxPoint": [1, 9, 9]}),
        ("resolution", b"nonsense"),
        ("resolution", [1, 2]),
        ("resolution", [1, 2, -3]),
        ("resolution", ["1", "2", "3"]),
    ],
)
def test_refusals_change_nothing(path: str, body: Any) -> None:
    labels = Labels()
    before = labels.everything()
    with pytest.raises(BadRequest):
        labels.post(path, body)
    assert labels.everything() == before
