"""The demo's table of bodies and what its link shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from rich.progress import Progress

from fascicle.pipeline.demo_repo import Server, load, mapping_message
from fascicle.pipeline.demo_tables import tables_in
from fascicle.pipeline.demo_view import demo_state
from serving import TOKEN, RunningServer


def _varints(data: bytes) -> list[int]:
    values, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            values.append(value)
            value = shift = 0
    return values


def _fields(data: bytes) -> list[tuple[int, int | bytes]]:
    """Field numbers and values of a protobuf message with varints and byte strings."""
    found: list[tuple[int, int | bytes]] = []

    def number(at: int) -> tuple[int, int]:
        end = at
        while data[end] > 0x7F:
            end += 1
        return _varints(data[at : end + 1])[0], end + 1

    at = 0
    while at < len(data):
        tag, at = number(at)
        value, at = number(at)
        if tag & 7 == 2:
            found.append((tag >> 3, data[at : at + value]))
            at += value
        else:
            found.append((tag >> 3, value))
    return found


def test_known_message() -> None:
    message = mapping_message(np.array([10, 300], np.uint64), np.array([10, 10], np.uint64))
    assert message.hex() == "0a090801100a1a030aac02"


@given(st.dictionaries(st.integers(1, 2**64 - 1), st.integers(0, 2**64 - 1), max_size=30))
def test_message_says_the_table(table: dict[int, int]) -> None:
    message = mapping_message(np.array(list(table), np.uint64), np.array(list(table.values()), np.uint64))
    found = {}
    for number, operation in _fields(message):
        assert number == 1
        assert isinstance(operation, bytes)
        fields = dict(_fields(operation))
        members = fields[3]
        assert isinstance(members, bytes)
        for supervoxel in _varints(members):
            found[supervoxel] = fields[2]
    assert found == table


def _info(**extended: object) -> dict[str, object]:
    return {"Base": {"TypeName": "labelmap"}, "Extended": extended}


def _repo(**instances: object) -> dict[str, object]:
    extended = {"MinPoint": [0, 0, 0], "MaxPoint": [249, 249, 99], "VoxelSize": [10, 10, 40]}
    return {"Root": "3f2a" * 8, "Alias": "x", "DataInstances": {"segmentation": _info(**extended), **instances}}


def test_view_follows_the_master_branch_and_shows_the_middle() -> None:
    state = demo_state("http://127.0.0.1:8000", _repo())
    assert [layer["source"] for layer in state["layers"]] == [
        "precomputed://http://127.0.0.1:8000/precomputed/3f2a3f2a/master/segmentation"
    ]
    assert state["position"] == [125.5, 125.5, 50.5]
    assert state["dimensions"]["z"][0] == 4e-8


def test_view_shows_regions_only_if_there_are_any() -> None:
    empty = _repo(segmentation_roi_voxels=_info(MinPoint=None), EB={"Base": {"TypeName": "roi"}, "Extended": {}})
    assert [layer["name"] for layer in demo_state("http://h", empty)["layers"]] == ["segmentation"]
    full = _repo(segmentation_roi_voxels=_info(MinPoint=[0, 0, 0]), EB={"Base": {"TypeName": "roi"}, "Extended": {}})
    regions = demo_state("http://h", full)["layers"][1]
    assert regions["source"]["url"] == "precomputed://http://h/precomputed/3f2a3f2a/master/segmentation_roi_voxels"
    assert regions["segments"] == ["1"]


def test_view_has_the_synapses_of_selected_bodies() -> None:
    todo = {"Pos": [7, 8, 9], "Prop": {"action": "to split", "comment": "here"}}
    synapses = {"Base": {"TypeName": "annotation"}, "Extended": {}}
    state = demo_state("http://h", _repo(synapses=synapses), [11], {"to do": [todo]})
    lines, notes = state["layers"][1:]
    assert lines["source"] == "precomputed://http://h/precomputed/3f2a3f2a/master/synapses/lines"
    assert lines["linkedSegmentationLayer"] == {"presynaptic": "segmentation", "postsynaptic": "segmentation"}
    assert notes["annotations"][0]["point"] == [7.5, 8.5, 9.5]
    assert notes["annotations"][0]["description"] == "to split: here"
    assert notes["source"]["transform"]["outputDimensions"] == state["dimensions"]


def test_real_data_bring_their_own_tables_and_nothing_is_made_up(tmp_path: Path, server: RunningServer) -> None:
    folder = tmp_path / "a volume"
    folder.mkdir()
    np.save(folder / "labels.npy", (np.indices((64, 64, 64)).sum(0) // 64 + 1).astype(np.uint64))
    (folder / "synapses.csv").write_text("x_pre,y_pre,z_pre,x_post,y_post,z_post\n1,2,3,60,61,62\n")
    (folder / "rois.json").write_text('{"a\'L(R)": [[0, 0, 0, 1]]}')
    assert set(tables_in(folder)) == {"synapses", "rois"}
    connection = Server(server.url, TOKEN)
    with Progress(disable=True) as progress:
        repo = load(connection, folder.name, folder, progress)
    node = f"/api/node/{repo['Root']}"
    (density,) = connection.json("GET", f"{node}/synapses/elements/4_4_4/58_59_60")
    assert density["Rels"] == [{"Rel": "PostSynTo", "To": [1, 2, 3]}]
    assert connection.json("GET", f"{node}/a'L(R)/roi") == [[0, 0, 0, 1]]
    assert connection.json("GET", f"{node}/segmentation_annotations/keys") == []
    assert connection.json("GET", f"{node}/segmentation_todo/all-elements") == {}
    assert "segmentation_skeletons" not in repo["DataInstances"]
