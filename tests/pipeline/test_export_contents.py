"""What exports have beside voxels: byte for byte what the live view shows, sharded or not."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fascicle.errors import NotFound
from fascicle.formats import annotation_info, multires_mesh, precomputed_info, skeleton
from fascicle.formats.sharding import Sharding, morton_code
from fascicle.pipeline import export_directories
from fascicle.pipeline.demo_annotations import ngmesh
from fascicle.pipeline.export import ExportOptions, ExportResult, export
from fascicle.pipeline.export_directories import sharding_for_cells
from fascicle.pipeline.ingest_connections import LocalConnection
from fascicle.pipeline.sample_annotations import synapse_elements
from fascicle.pipeline.sample_brain import make_brain
from fascicle.pipeline.sample_synapses import make_synapses
from fascicle.pipeline.sources import OpenNode, SourceSpec
from fascicle.precomputed import addresses, derived
from fascicle.precomputed.annotations import columns_of_all
from fascicle.precomputed.builders import Form
from fascicle.volumes import sorted_rows
from fascicle.volumes.objects import FileFolder
from fascicle.volumes.shards import ShardReader
from serving import RunningServer

SWC = b"1 0 1 2 3 1 -1\n2 0 4 5 6 1 1\n"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed version with labels, synapses, notes on bodies, and meshes and skeletons of some of them."""
    folder = tmp_path_factory.mktemp("contents") / "db"
    brain = make_brain(seed=2, size_zyx=(64, 64, 128))
    bodies = np.unique(brain.bodies_zyx)[1:4].tolist()
    with LocalConnection(folder) as connection:
        root = connection.json("POST", "/api/repos", {"alias": "r"})["root"]

        def make(kind: str, name: str, **settings: str) -> str:
            connection.json("POST", f"/api/repo/{root}/instance", {"typename": kind, "dataname": name, **settings})
            return f"/api/node/{root}/{name}"

        path = make("labelmap", "seg", VoxelSize="8,8,8")
        voxels = np.ascontiguousarray(brain.bodies_zyx).tobytes()
        connection.request("POST", f"{path}/raw/0_1_2/128_64_64/0_0_0", voxels)
        path = make("annotation", "synapses")
        connection.json("POST", f"{path}/sync", {"sync": "seg"})
        connection.json("POST", f"{path}/elements", synapse_elements(make_synapses(brain.bodies_zyx, 2)))
        make("annotation", "empty")
        path = make("neuronjson", "seg_annotations")
        for body in bodies:
            connection.json("POST", f"{path}/key/{body}?u=me", {"bodyid": body, "type": f"T{body}", "status": "Traced"})
        path = make("keyvalue", "seg_skeletons")
        for body in (bodies[0], bodies[1], 999_999):
            connection.request("POST", f"{path}/key/{body}_swc", SWC)
        path = make("keyvalue", "seg_meshes")
        tetrahedron = ngmesh(
            np.array([[0, 0, 0], [80, 0, 0], [0, 80, 0], [0, 0, 80]], np.float32),
            np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.uint32),
        )
        connection.request("POST", f"{path}/key/{bodies[0]}.ngmesh", tetrahedron)
        connection.request("POST", f"{path}/key/readme.ngmesh", b"what is this")
        connection.json("POST", f"/api/node/{root}/commit", {"note": "all"})
    return folder


class Live:
    """The directories of the live view."""

    def __init__(self, store: Path) -> None:
        self.opened = OpenNode(SourceSpec(data=str(store), repo="r"))

    def get(self, instance: str, directory: derived.Directory | None, path: str) -> bytes:
        assert directory is not None
        with self.opened.snapshot() as snapshot:
            found = addresses.find_instance(snapshot.catalog, self.opened.repo, instance)
            return directory.serve(snapshot, found, Form(), path).body

    def ids(self, as_lines: bool) -> list[int]:
        with self.opened.snapshot() as snapshot:
            found = addresses.find_instance(snapshot.catalog, self.opened.repo, "synapses")
            return [i for columns in columns_of_all(snapshot, found, as_lines) for i in columns.ids.tolist()]


@pytest.fixture(scope="module")
def live(store: Path) -> Iterator[Live]:
    copy = store.with_name("copy")  # a process opens a store once
    shutil.copytree(store, copy)
    view = Live(copy)
    yield view
    view.opened.close()


def exported(store: Path, out: Path, **options: object) -> ExportResult:
    return export(SourceSpec(data=str(store), repo="r"), str(out), ExportOptions(workers=1, **options))  # type: ignore[arg-type]


def stored(folder: Path, directory: str, sharding: Sharding | None, key: int, name: str) -> bytes | None:
    if sharding is None:
        path = folder / directory / name
        return path.read_bytes() if path.exists() else None
    return ShardReader(FileFolder(str(folder)), f"{directory}/", sharding).get(key, 1 << 20)


@pytest.mark.parametrize("sharded", [True, False])
def test_annotations_are_those_of_the_view(
    store: Path, live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sharded: bool
) -> None:
    monkeypatch.setattr(export_directories, "_FEW_CELLS", 3)
    monkeypatch.setattr(sorted_rows, "RUN_BYTES", 1)  # runs of 64 rows
    result = exported(store, tmp_path / "out", sharded=sharded, verify=True)
    view = derived.whole("annotation")
    for form, place in (("", "synapses"), ("lines/", "synapses/lines")):
        folder = tmp_path / "out" / place
        info = annotation_info.decode((folder / "info").read_bytes())
        shown = annotation_info.decode(live.get("synapses", view, f"{form}info"))
        assert info.by_id.key == shown.by_id.key
        assert [level.grid_shape for level in info.spatial] == [level.grid_shape for level in shown.spatial]
        assert (info.by_id.sharding is not None) == sharded
        ids = live.ids(bool(form))
        assert result.directories[place] == len(ids) > 100
        for key in ids[::17]:
            assert stored(folder, "by_id", info.by_id.sharding, key, str(key)) == live.get(
                "synapses", view, f"{form}by_id/{key}"
            )
        counted = 0
        for level in info.spatial:
            for cell in np.ndindex(*level.grid_shape):
                name = "_".join(map(str, cell))
                there = stored(folder, level.key, level.sharding, morton_code(cell, level.grid_shape), name)
                expected = live.get("synapses", view, f"{form}{level.key}/{name}")
                assert (there or bytes(8)) == expected
                counted += int.from_bytes(expected[:8], "little")
        assert counted >= len(ids)
        for index in info.relationships:
            for body in range(1, 40):
                there = stored(folder, index.key, index.sharding, body, str(body))
                assert (there or bytes(8)) == live.get("synapses", view, f"{form}{index.key}/{body}")
    assert "empty" not in result.directories
    assert not (tmp_path / "out/empty").exists()


def test_what_is_stored_of_bodies(store: Path, live: Live, tmp_path: Path) -> None:
    result = exported(store, tmp_path / "out", annotations=False)
    assert {name: count for name, count in result.directories.items() if name != "seg/properties"} == {
        "seg/mesh": 1, "seg/skeletons": 2,
    }  # fmt: skip
    seg = tmp_path / "out/seg"
    info = precomputed_info.decode((seg / "info").read_bytes())
    assert (info.mesh, info.skeletons, info.segment_properties) == ("mesh", "skeletons", "properties")
    assert (seg / "properties/info").read_bytes() == live.get("seg", derived.part("properties"), "info")
    described = skeleton.read_info((seg / "skeletons/info").read_bytes())
    (names,) = [[path.name for path in (seg / "skeletons").glob("*.shard")]]
    assert names == ["0.shard"]
    record = json.loads((tmp_path / "out/export.json").read_bytes())
    assert list(record["directories"]["seg/skeletons"]) == ["seg/skeletons/0.shard"]
    bodies = [body for body in range(1, 60) if stored(seg, "skeletons", described.sharding, body, "") is not None]
    assert len(bodies) == 2
    for body in bodies:
        found = stored(seg, "skeletons", described.sharding, body, "")
        assert found == live.get("seg", derived.part("skeletons"), str(body))
    # one mesh needs no shard
    assert multires_mesh.read_info((seg / "mesh/info").read_bytes()).sharding is None
    for name in (str(bodies[0]), f"{bodies[0]}.index"):
        assert (seg / "mesh" / name).read_bytes() == live.get("seg", derived.part("mesh"), name)


def test_meshes_and_skeletons_can_be_made(store: Path, tmp_path: Path) -> None:
    result = exported(store, tmp_path / "out", annotations=False, meshes=True, skeletons=True, properties=False)
    assert result.directories["seg/mesh"] > 10
    assert set(result.directories) == {"seg/mesh", "seg/skeletons"}
    info = precomputed_info.decode((tmp_path / "out/seg/info").read_bytes())
    assert (info.mesh, info.skeletons, info.segment_properties) == ("mesh", "skeletons", None)
    for name in ("mesh", "skeletons"):
        assert (tmp_path / "out/seg" / name / "info").exists()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["export.json", "seg"]


def test_what_is_not_wanted_or_not_there(store: Path, tmp_path: Path) -> None:
    result = exported(
        store, tmp_path / "out", meshes=False, skeletons=False, annotations=False, properties=False
    )
    assert result.directories == {}
    assert sorted(path.name for path in (tmp_path / "out/seg").iterdir() if path.is_file()) == ["info"]
    with pytest.raises(NotFound, match="no annotations to export"):
        exported(store, tmp_path / "other", annotations=True, instances=("seg",))
    only = exported(store, tmp_path / "only", instances=("synapses",))
    assert only.volumes == ()
    assert set(only.directories) == {"synapses", "synapses/lines"}


def test_an_older_export_is_replaced(store: Path, tmp_path: Path) -> None:
    exported(store, tmp_path / "new", sharded=False)
    exported(store, tmp_path / "out", sharded=False)
    stale = [tmp_path / "out/synapses/by_id/12", tmp_path / "out/seg/mesh/77.index"]
    for path in stale:
        path.write_bytes(b"from another time")
    exported(store, tmp_path / "out", sharded=False)
    assert not any(path.exists() for path in stale)
    assert tree(tmp_path / "out") == tree(tmp_path / "new")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_of_a_server(store: Path, tmp_path: Path) -> None:
    """Everything but stored meshes and skeletons, with the bytes that come from the folder."""
    server = RunningServer(store)
    server.start()
    source = SourceSpec(server=server.url, repo="r")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = export(source, str(tmp_path / "out"), ExportOptions(workers=1))
            export(source, str(tmp_path / "files"), ExportOptions(workers=1, instances=("synapses",), sharded=False))
    finally:
        server.kill9()
    assert set(result.directories) == {"seg/properties", "synapses", "synapses/lines"}
    assert result.left_out == tuple(
        f"seg_{kind}: a store folder is needed for what is stored" for kind in ("meshes", "skeletons")
    )
    exported(store, tmp_path / "local", meshes=False, skeletons=False)
    assert tree(tmp_path / "local") == tree(tmp_path / "out")
    exported(store, tmp_path / "local_files", instances=("synapses",), sharded=False)
    assert tree(tmp_path / "local_files") == tree(tmp_path / "files")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["files", "local", "local_files", "out"]


def test_elements_with_relations_on_one_side(tmp_path: Path) -> None:
    """Bodies and fine cells list the lines of which their own elements know, as the view does; also of a server."""
    folder = tmp_path / "db"
    pairs = [((x, 5, 5), (100 - x, 20, 40)) for x in range(3, 60, 4)]
    elements = []
    for number, (pre, post) in enumerate(pairs):
        for own, other, kind, relation in ((pre, post, "PreSyn", "PreSynTo"), (post, pre, "PostSyn", "PostSynTo")):
            told = number % 3 == 0 or (number % 3 == 1) == (kind == "PreSyn")
            relations = [{"Rel": relation, "To": other}] if told else []
            elements.append({"Pos": own, "Kind": kind, "Tags": [], "Prop": {}, "Rels": relations})
    with LocalConnection(folder) as connection:
        root = connection.json("POST", "/api/repos", {"alias": "r"})["root"]
        for kind, name in (("labelmap", "seg"), ("annotation", "synapses")):
            settings = {"typename": kind, "dataname": name, **({"BlockSize": "32,32,32"} if kind == "labelmap" else {})}
            connection.json("POST", f"/api/repo/{root}/instance", settings)
        labels = np.ones((64, 32, 128), np.uint64)
        labels[:, :, 50:] = 2
        connection.request("POST", f"/api/node/{root}/seg/raw/0_1_2/128_32_64/0_0_0", labels.tobytes())
        path = f"/api/node/{root}/synapses"
        connection.json("POST", f"{path}/sync", {"sync": "seg"})
        connection.json("POST", f"{path}/elements", elements)
        connection.json("POST", f"{path}/labels", {"2": json.dumps(elements[:5])})
        connection.json("POST", f"/api/node/{root}/commit", {"note": "all"})
    exported(folder, tmp_path / "out", sharded=False, instances=("synapses",))
    view = Live(folder)
    try:
        directory = derived.whole("annotation")
        for form in ("", "lines/"):
            names = [name.removeprefix("synapses/") for name in tree(tmp_path / "out") if name.startswith("synapses/")]
            for name in names:
                if name.startswith("lines/") == bool(form) and not name.endswith("info"):
                    assert (tmp_path / "out/synapses" / name).read_bytes() == view.get("synapses", directory, name)
            for body in ("presynaptic/1", "presynaptic/2", "postsynaptic/1", "postsynaptic/2") if form else ("body/2",):
                shown = view.get("synapses", directory, f"{form}{body}")
                assert (f"{form}{body}" in names) == (shown != bytes(8))
    finally:
        view.opened.close()


def test_shards_of_cells_hold_all_cells() -> None:
    for grid, count in (((1, 1, 1), 1), ((8, 8, 4), 200), ((100, 50, 70), 20_000), ((1000, 900, 800), 5_000_000)):
        sharding = sharding_for_cells(grid, count)
        if count < 100:
            assert sharding is None
            continue
        assert sharding is not None
        assert sharding.problem() == ""
        last: Any = morton_code([side - 1 for side in grid], grid)
        assert sharding.place(last)[0] < 1 << sharding.shard_bits
