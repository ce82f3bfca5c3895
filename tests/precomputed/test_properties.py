"""What is known of bodies, as segment properties: which field becomes what, and the views of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fascicle.formats import segment_properties
from fascicle.formats.segment_properties import SegmentProperty
from fascicle.precomputed.properties import made_of
from remote_volumes import label_volume
from serving import Client, RunningServer, new_instance, new_repo


def made(*documents: dict[str, Any]) -> dict[str, SegmentProperty]:
    found = made_of((i, document) for i, document in enumerate(documents, start=1))
    segment_properties.encode(found)  # what is made can be written
    return {one.id: one for one in found.properties}


def test_labels_and_descriptions() -> None:
    found = made({"type": "KC", "instance": "KC_R", "name": ""}, {"type": "MBON"}, {"description": "a glia"})
    assert found["label"].type == "label"
    assert found["label"].values == ["KC_R", "MBON", ""]
    assert found["description"].type == "description"
    assert found["description"].values == ["", "", "a glia"]
    assert found["type"].type == "string"
    assert found["type"].values == ["KC", "MBON", ""]
    assert "name" in found


def test_numbers() -> None:
    found = made({"group": 5, "score": 0.5, "shift": -3, "big": 1 << 40}, {"group": 7}, {"shift": 4, "group": 2.0})
    assert found["group"].data_type == "int32"
    assert found["group"].values == [5, 7, 2]
    assert found["group"].description is None
    assert found["score"].data_type == "float32"
    assert found["score"].values == [0.5, -1, -1]
    assert "-1" in (found["score"].description or "")
    assert found["shift"].values == [-3, -4, 4]
    assert found["big"].type == "string"
    assert found["big"].values == [str(1 << 40), "", ""]


def test_tags() -> None:
    found = made(
        {"class": "Kenyon Cell", "status": "Traced", "done": True, "tags": ["odd one", "#x", ""]},
        {"class": "kenyon cell", "status": "", "done": False},
    )
    tags = found["tags"]
    assert tags.tags is not None
    assert tags.tag_descriptions is not None
    named = [{tags.tags[i] for i in row} for row in tags.values]
    assert named == [{"Kenyon_Cell", "Traced", "done", "odd_one", "x"}, {"Kenyon_Cell"}]
    assert tags.tag_descriptions[tags.tags.index("done")] == "done"
    assert "done" not in found


def test_what_is_left_out() -> None:
    found = made({"bodyid": 1, "type": "a", "type_user": "me", "type_time": "now", "position": [1, 2], "x": {"y": 1}})
    assert set(found) == {"label", "type"}
    assert made() == {}
    assert made({"label": "mine", "tags": "mine"}).keys() == {"label_", "tags_"}


NEURONS = [
    {"bodyid": 3, "type": "KC", "instance": "KC_R", "class": "Kenyon Cell", "status": "Traced", "group": 5},
    {"bodyid": (1 << 63) + 1, "type": "MBON", "description": "output"},
]


@pytest.fixture(scope="module")
def root(server: RunningServer) -> str:
    """A committed root with labels and what is known of them, and an open child."""
    with server.client() as client:
        root = new_repo(client, "names of bodies")
        path = new_instance(client, root, "labelmap", "seg")
        labels = label_volume((64, 64, 64))
        client.post(f"{path}/raw/0_1_2/64_64_64/0_0_0", np.ascontiguousarray(labels).tobytes()).expect()
        path = new_instance(client, root, "labelmap", "plain")
        client.post(f"{path}/raw/0_1_2/64_64_64/0_0_0", np.ascontiguousarray(labels).tobytes()).expect()
        new_instance(client, root, "neuronjson", "plain_annotations")
        path = new_instance(client, root, "neuronjson", "seg_annotations")
        for neuron in NEURONS:
            client.post(f"{path}/key/{neuron['bodyid']}?u=me", neuron).expect()
        client.post(f"/api/node/{root}/commit", {}).expect()
        client.post(f"/api/node/{root}/newversion").expect()
    return root


def test_views(client: Client, root: str) -> None:
    at = f"/precomputed/{root}/{root}"
    info = client.get(f"{at}/seg/info").expect().json()
    assert info["segment_properties"] == "properties"
    assert "segment_properties" not in client.get(f"{at}/seg/supervoxels/info").expect().json()
    assert "segment_properties" not in client.get(f"{at}/plain/info").expect().json()  # nothing is in it
    body = client.get(f"{at}/seg_annotations/info").expect().body
    assert client.get(f"{at}/seg/properties/info").expect().body == body
    assert client.get(f"{at}/seg/raw/properties/info").expect().body == body
    found = segment_properties.decode(body)
    assert list(found.ids) == [3, (1 << 63) + 1]
    by_id = {one.id: one for one in found.properties}
    assert by_id["label"].values == ["KC_R", "MBON"]
    assert by_id["tags"].tags == ["Kenyon_Cell", "Traced"]
    assert not any(name.endswith(("_user", "_time")) for name in by_id)
    empty = client.get(f"{at}/plain_annotations/info").expect().json()
    assert empty == {"@type": "neuroglancer_segment_properties", "inline": {"ids": [], "properties": []}}


def test_edits_are_seen(client: Client, root: str) -> None:
    path = f"/precomputed/{root}/master/seg/properties/info"
    before = client.get(path).expect()
    assert "immutable" not in before.headers["cache-control"]
    client.post(f"/api/node/{root}:master/seg_annotations/key/3?u=me", {"bodyid": 3, "instance": "KC_L"}).expect()
    after = client.request("GET", path, headers={"If-None-Match": before.headers["etag"]}).expect()
    assert b"KC_L" in after.body
    client.request("GET", path, headers={"If-None-Match": after.headers["etag"]}).expect(304)
    assert b"KC_L" not in client.get(f"/precomputed/{root}/{root}/seg/properties/info").expect().body


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("seg/properties/x", "'x'"),
        ("seg/properties", "info only"),
        ("seg_annotations/3", "'3'"),
        ("seg/supervoxels/properties/info", "seg_annotations"),
        ("seg/nothing/x", "no scale"),
    ],
)
def test_what_is_not_there(client: Client, root: str, path: str, word: str) -> None:
    reply = client.get(f"/precomputed/{root}/{root}/{path}").expect(404)
    assert word.encode() in reply.body
    assert reply.headers["access-control-allow-origin"] == "*"
