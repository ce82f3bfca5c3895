"""Links to the viewer: layers, positions, ranges of values, and forms of links."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from neuroglancer import url_state

from fascicle.errors import BadRequest, FascicleError
from fascicle.pipeline import view as views
from fascicle.pipeline.ingest_connections import ServerConnection
from fascicle.pipeline.sources import SourceSpec
from fascicle.pipeline.view import ViewOptions, view
from fascicle.pipeline.view_choice import viewable_instances
from fascicle.pipeline.viewer_layers import describe, value_range
from remote_volumes import smooth_volume
from serving import TOKEN, RunningServer, new_instance, new_repo
from static_samples import gray_zyx, labels_zyx, write_volume

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("view")
    write_volume(folder / "gray", gray_zyx(), offset_xyz=(32, 0, -32))
    write_volume(folder / "seg", labels_zyx(), "compressed_segmentation")
    (folder / "mesh").mkdir()
    (folder / "mesh" / "info").write_text('{"@type":"neuroglancer_legacy_mesh"}')
    (folder / "points").mkdir()
    info = {
        "@type": "neuroglancer_annotations_v1",
        "dimensions": {axis: [4e-9, "m"] for axis in "xyz"},
        "lower_bound": [0, 0, 0],
        "upper_bound": [100, 200, 300],
        "relationships": [{"id": "body", "key": "related"}],
    }
    (folder / "points" / "info").write_text(json.dumps(info))
    (folder / "odd").mkdir()
    (folder / "odd" / "info").write_text('{"@type":"something_else"}')
    return folder


def published(folder: str) -> str:
    return f"https://x.org/{Path(folder).name}"


def parsed(url: str) -> dict[str, object]:
    """The state in a link, as Neuroglancer's own package reads it."""
    found: dict[str, object] = json.loads(url_state.url_fragment_to_json(urlparse(url).fragment))
    return found


@given(_JSON)
def test_links_are_read_back(value: object) -> None:
    url = views.link("http://x/v/", {"a": value})
    assert parsed(url) == {"a": value}
    assert " " not in url
    assert url.isascii()


def test_layers_of_folders(root: Path) -> None:
    sources = [SourceSpec(address=str(root / name)) for name in ("gray", "seg", "mesh", "points")]
    found = view(sources, ViewOptions(segments=(3, 2**63 + 5), title="here"), published)
    assert found.viewer == views.PUBLIC_VIEWER
    state = parsed(found.url)
    assert state == found.state
    gray, seg, mesh, points = found.state["layers"]
    assert [layer["type"] for layer in found.state["layers"]] == ["image", "segmentation", "segmentation", "annotation"]
    assert gray["source"] == "precomputed://https://x.org/gray"
    low, high = gray["shaderControls"]["normalized"]["range"]
    assert 40 <= low < 60
    assert 180 < high <= 208
    assert gray["shaderControls"]["normalized"]["window"] == [0, 255]
    assert "invlerp" in gray["shader"]
    assert seg["segments"] == mesh["segments"] == ["3", str(2**63 + 5)]
    assert points["source"] == "precomputed://https://x.org/points"
    assert points["linkedSegmentationLayer"] == {"body": "seg"}  # the first of the two
    two = view([sources[1], sources[3]], ViewOptions(segments=(3,)), published).state["layers"][1]
    assert (two["linkedSegmentationLayer"], two["filterBySegmentation"]) == ({"body": "seg"}, ["body"])
    assert found.state["position"] == [64.5, 24.5, -11.5]
    assert found.state["dimensions"] == {"x": [8e-9, "m"], "y": [8e-9, "m"], "z": [1.6e-8, "m"]}
    assert found.state["projectionScale"] == pytest.approx(80 * 1.3)
    assert found.short_url("https://x.org/s.json") == f"{views.PUBLIC_VIEWER}#!https://x.org/s.json"


def test_what_is_asked_for(root: Path) -> None:
    options = ViewOptions(
        position_xyz=(1, 2, 3.5), scale=0.25, layout="xz", value_range=(10, 300), viewer="https://v.org/"
    )
    found = view([SourceSpec(address=str(root / "gray"))] * 2, options, published)
    assert found.url.startswith("https://v.org/#!")
    assert (found.state["position"], found.state["crossSectionScale"], found.state["layout"]) == (
        [1, 2, 3.5],
        0.25,
        "xz",
    )
    assert [layer["name"] for layer in found.state["layers"]] == ["gray", "gray 2"]
    controls = found.state["layers"][0]["shaderControls"]["normalized"]
    assert controls == {"range": [10, 300], "window": [0, 300]}


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("odd", BadRequest, "something_else"),
        ("none", BadRequest, "no folder"),
        (".", BadRequest, "neither"),
    ],
)
def test_what_cannot_be_shown(root: Path, name: str, error: type[Exception], text: str) -> None:
    address = name if "://" in name else str(root / name)
    with pytest.raises(error, match=text):
        describe(SourceSpec(address=address), published)


def test_bad_options(root: Path) -> None:
    gray = SourceSpec(address=str(root / "gray"))
    with pytest.raises(BadRequest, match="layout"):
        view([gray], ViewOptions(layout="xyz"), published)
    with pytest.raises(BadRequest, match="at least one"):
        view([])
    with pytest.raises(BadRequest, match="on this machine"):
        view([gray])
    with pytest.raises(BadRequest, match="fascicle serve"):
        view([SourceSpec(data=str(root), repo="x", instance="y")])


def test_ranges_of_values() -> None:
    values = np.arange(1, 1001)
    assert value_range(values) == (6, 995)
    assert value_range(np.zeros(5, np.uint8)) == (0, 255)
    assert value_range(np.full(5, 7, np.uint16)) == (0, 7)
    assert value_range(np.array([np.nan, 0.25, 0.5, np.inf], np.float32)) == (0.25, 0.5)


def test_states_are_saved(tmp_path: Path) -> None:
    address = views.save_state(str(tmp_path / "s.json"), {"layout": "xy"})
    assert json.loads(Path(address).read_text()) == {"layout": "xy"}
    assert not views.is_web_address(address)
    assert views.is_web_address("gs://bucket/s.json")
    with pytest.raises(BadRequest, match="no name of a file"):
        views.save_state("gs://bucket/", {})


def test_instances_of_a_server(server: RunningServer) -> None:
    with server.client() as client:
        root = new_repo(client, "seen")
        for name in ("em", "em_1"):
            path = new_instance(client, root, "uint8blk", name)
            client.post(f"{path}/raw/0_1_2/64_64_64/0_0_0", smooth_volume((64, 64, 64)).tobytes()).expect()
        path = new_instance(client, root, "labelmap", "bodies")
        client.post(f"{path}/raw/0_1_2/64_64_64/0_0_0", np.full((64, 64, 64), 7, np.uint64).tobytes()).expect()
        new_instance(client, root, "labelmap", "nothing")
        new_instance(client, root, "keyvalue", "notes")
    assert viewable_instances(server.url, "seen", "") == ["em", "bodies"]
    specs = [SourceSpec(server=server.url, repo="seen", instance=name) for name in ("em", "bodies")]
    found = view(specs)
    assert found.viewer == f"{server.url}/neuroglancer/v/here/"
    assert found.state["layers"][1]["source"] == f"precomputed://{server.url}/precomputed/seen/master/bodies"
    dvid = view([SourceSpec(address=f"dvid://{server.url}/{root}/em")])
    assert dvid.state["layers"][0]["source"] == f"dvid://{server.url}/{root}/em"
    assert dvid.state["position"] == [32.5, 32.5, 32.5]
    with ServerConnection(server.url, TOKEN) as connection:
        path = views.store_state(connection, root, found.state)
        assert views.store_state(connection, root, found.state) == path
        assert connection.json("GET", path) == found.state
    with pytest.raises(FascicleError, match="nobody"):
        describe(SourceSpec(address=f"dvid://{server.url}/{root}/nobody"))
    with pytest.raises(BadRequest, match="keyvalue"):
        describe(SourceSpec(address=f"dvid://{server.url}/{root}/notes"))
    with pytest.raises(BadRequest, match="no repo"):
        viewable_instances(server.url, "unseen", "")
