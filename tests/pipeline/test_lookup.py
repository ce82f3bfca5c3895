"""Labels at points: of volumes of every kind and of versions, from and to tables."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fascicle.errors import BadRequest
from fascicle.formats import precomputed_info
from fascicle.formats.precomputed_info import Scale, VolumeInfo
from fascicle.formats.sharding import Sharding
from fascicle.pipeline import point_tables
from fascicle.pipeline.ingest import IngestOptions, ingest
from fascicle.pipeline.ingest_connections import LocalConnection
from fascicle.pipeline.lookup import LookupOptions, labels_at, lookup
from fascicle.pipeline.sources import SourceSpec
from fascicle.pipeline.tables import TableError
from fascicle.volumes import VolumeError, open_pyramid, open_volume
from remote_volumes import bucket, label_volume

tensorstore = pytest.importorskip("tensorstore")
SHAPE = (40, 60, 70)
OFFSET = (64, -32, 16)
IDENTITY = Sharding(preshift_bits=2, hash="identity", minishard_bits=2, shard_bits=2, data_encoding="gzip")
FORMS = {
    "segmentation": ("compressed_segmentation", "uint64", None),
    "segmentation32": ("compressed_segmentation", "uint32", None),
    "sharded": ("compressed_segmentation", "uint64", IDENTITY),
    "raw": ("raw", "uint64", None),
    "raw sharded": ("raw", "uint32", IDENTITY),
    "png": ("png", "uint16", None),
}


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    """u64[z,y,x]; one quarter of it is background."""
    volume = label_volume(SHAPE, seed=3) % np.uint64(1 << 63)
    volume[:20, :30, :] = 0
    return volume


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory, labels: np.ndarray) -> Path:
    """Volumes of two scales in every form, written by TensorStore; a store with the same labels."""
    root = tmp_path_factory.mktemp("lookup")
    for name, (encoding, dtype, sharding) in FORMS.items():
        scales = tuple(
            Scale(
                key=str(k), size=tuple(-(-n // (1 << k)) for n in SHAPE[::-1]), resolution=(4 << k, 4 << k, 40 << k),
                chunk_sizes=((16, 16, 8),), encoding=encoding, voxel_offset=tuple(o >> k for o in OFFSET),
                compressed_segmentation_block_size=(8, 8, 4) if "seg" in encoding else None, sharding=sharding,
            )
            for k in range(2)
        )  # fmt: skip
        (root / name).mkdir()
        info = VolumeInfo(type="segmentation", data_type=dtype, scales=scales)
        (root / name / "info").write_bytes(precomputed_info.encode(info))
        for k in range(2):
            kvstore = {"driver": "file", "path": f"{root / name}/"}
            spec = {"driver": "neuroglancer_precomputed", "kvstore": kvstore, "scale_index": k}
            part = labels[:: 1 << k, :: 1 << k, :: 1 << k].astype(dtype)
            tensorstore.open(spec).result().write(part.transpose(2, 1, 0)[..., None]).result()
    np.save(root / "labels.npy", labels)
    np.save(root / "mapping.npy", np.array([[5, 1000], [6, 1000]], np.uint64))
    with LocalConnection(root / "db") as connection, open_volume(str(root / "labels.npy")) as source:
        options = IngestOptions(
            instance="segmentation", repo="r", offset_xyz=OFFSET, resolution_nm=(4, 4, 40), block_size=32,
            mapping=str(root / "mapping.npy"),
        )  # fmt: skip
        ingest(connection, source, options, root / "journal.jsonl", lambda *_: None)
    return root


def some_points(count: int = 500, seed: int = 0) -> np.ndarray:
    """Points x, y, z, some of them outside."""
    rng = np.random.default_rng(seed)
    low, high = np.array(OFFSET) - 4, np.array(OFFSET) + np.array(SHAPE[::-1]) + 4
    return rng.integers(low, high, (count, 3))


def expected_at(volume: np.ndarray, points: np.ndarray) -> np.ndarray:
    out = np.zeros(len(points), np.uint64)
    for i, (x, y, z) in enumerate((points - OFFSET).tolist()):
        if 0 <= z < volume.shape[0] and 0 <= y < volume.shape[1] and 0 <= x < volume.shape[2]:
            out[i] = volume[z, y, x]
    return out


@pytest.mark.parametrize("name", FORMS)
def test_volumes_of_every_form(volumes: Path, labels: np.ndarray, name: str) -> None:
    points = some_points()
    seen = labels.astype(FORMS[name][1])
    found = labels_at(str(volumes / name), points)
    assert found.dtype == np.uint64
    assert np.array_equal(found, expected_at(seen, points))
    # of another scale, and in nanometres
    half = points // 2 * 2
    coarse = expected_at(seen, half)
    assert np.array_equal(labels_at(str(volumes / name), half, scale=1), coarse)
    nm = half * (4.0, 4.0, 40.0) + 3.9
    assert np.array_equal(labels_at(str(volumes / name), nm, scale=1, unit="nm"), coarse)
    assert np.array_equal(labels_at(str(volumes / name), nm, unit="nm"), coarse)
    with bucket(volumes / name) as server:
        assert np.array_equal(labels_at(server.url, points[:60]), expected_at(seen, points[:60]))


def test_other_sources(volumes: Path, labels: np.ndarray) -> None:
    points = some_points() - OFFSET
    found = labels_at(str(volumes / "labels.npy"), points)
    assert np.array_equal(found, expected_at(labels, points + OFFSET))
    with pytest.raises(BadRequest, match="does not say how large"):
        labels_at(str(volumes / "labels.npy"), points, unit="nm")


def test_versions(volumes: Path, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    from fascicle.pipeline import lookup as module

    points = some_points(3000)
    expected = expected_at(labels, points)
    spec = SourceSpec(data=str(volumes / "db"), repo="r", instance="segmentation", supervoxels=True)
    assert np.array_equal(labels_at(spec, points), expected)
    monkeypatch.setattr(module, "_STORE_BATCH", 300)
    assert np.array_equal(labels_at(spec, points), expected)
    half = points // 2 * 2
    spec = SourceSpec(data=str(volumes / "db"), repo="r", instance="segmentation")
    bodies = expected.copy()
    bodies[np.isin(expected, [5, 6])] = 1000
    assert (bodies == 1000).any()
    assert np.array_equal(labels_at(spec, points), bodies)
    assert len(labels_at(spec, half, scale=1)) == len(points)


@settings(max_examples=25)
@given(st.lists(st.tuples(*[st.floats(-1e6, 1e6)] * 3), max_size=20))
def test_fractions_are_rounded_down(
    volumes: Path, labels: np.ndarray, points: list[tuple[float, float, float]]
) -> None:
    with open_pyramid(str(volumes / "segmentation")) as pyramid:
        whole = np.floor(np.array(points).reshape(-1, 3)).astype(np.int64)
        assert np.array_equal(labels_at(pyramid, points), expected_at(labels, whole))


def test_bad_points(volumes: Path) -> None:
    source = str(volumes / "raw")
    for points, message in (
        ([[1, 2]], r"\[n, 3\]"),
        ([[1.0, float("nan"), 2.0]], "point 1 is .* nowhere"),
        ([["a", "b", "c"]], "must be numbers"),
    ):
        with pytest.raises(BadRequest, match=message):
            labels_at(source, points)
    with pytest.raises(BadRequest, match="neither voxels nor nm"):
        labels_at(source, [[1, 2, 3]], unit="m")  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="there is no scale 2"):
        labels_at(source, [[1, 2, 3]], scale=2)
    assert labels_at(source, []).shape == (0,)
    assert labels_at(source, np.array([[2**64 - 1, 0, 0]], np.uint64)).tolist() == [0]
    assert labels_at(source, [[1e300, -1e300, 0.0]]).tolist() == [0]


def test_damaged_chunks_are_errors(volumes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "v"
    (folder / "0").mkdir(parents=True)
    (folder / "info").write_bytes((volumes / "segmentation/info").read_bytes())
    names = [path.name for path in (volumes / "segmentation/0").iterdir()]
    for name in names:
        data = (volumes / "segmentation/0" / name).read_bytes()
        (folder / "0" / name).write_bytes(data[: len(data) // 8 * 4])
    with pytest.raises(VolumeError, match="cannot be decoded"):
        labels_at(str(folder), some_points())


# -- tables


def written(volumes: Path, table: Path, output: Path, **options: Any) -> Any:
    spec = SourceSpec(address=str(volumes / "segmentation"))
    return lookup(spec, str(table), str(output), LookupOptions(**options))


@pytest.mark.parametrize("arrow", [True, False])
def test_csv(
    volumes: Path, labels: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrow: bool
) -> None:
    monkeypatch.setattr(point_tables, "has_arrow", lambda: arrow)
    points = some_points(50)
    rows = [["id", "name", "Z", "Y", "X"]]
    for i, (x, y, z) in enumerate(points.tolist()):
        rows.append([f"00{i}", 'a "b", c\nd' if i else "a\rb", str(z), f" {y + 0.5:.2f}", str(x)])
    for name in ("points.csv", "points.csv.gz"):
        with (tmp_path / "points.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        if name.endswith("gz"):
            import gzip

            (tmp_path / name).write_bytes(gzip.compress((tmp_path / "points.csv").read_bytes()))
        out = tmp_path / f"out{name.removeprefix('points')}"
        result = written(volumes, tmp_path / name, out, columns=("X", "Y", "Z"), label_column="body")
        text = out.read_bytes()
        if name.endswith("gz"):
            text = gzip.decompress(text)
        found = list(csv.reader(io.StringIO(text.decode(), newline="")))
        assert found[0] == [*rows[0], "body"]
        assert [row[:5] for row in found[1:]] == rows[1:]
        assert text.count(b'"') == 6 * 49 + 2 * 6  # only names have quotes, around and doubled within
        expected = expected_at(labels, points)
        assert [int(row[5]) for row in found[1:]] == expected.tolist()
        assert result.points == 50
        assert result.outside + result.background + np.count_nonzero(expected) == 50
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "out.csv.gz", "points.csv", "points.csv.gz"]


def test_parquet_and_npy(volumes: Path, labels: np.ndarray, tmp_path: Path) -> None:
    points = some_points(50)
    expected = expected_at(labels, points).tolist()
    x, y, z = points.T
    pq.write_table(pa.table({"x": x, "id": ["a"] * 50, "y": y.astype(np.float32), "z": z}), tmp_path / "p.parquet")
    written(volumes, tmp_path / "p.parquet", tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["x", "id", "y", "z", "label"]
    assert table.column("label").type == pa.uint64()
    assert table.column("label").to_pylist() == expected
    np.save(tmp_path / "p.npy", points)
    written(volumes, tmp_path / "p.npy", tmp_path / "out.npy")
    found = np.load(tmp_path / "out.npy")
    assert found.dtype.names == ("x", "y", "z", "label")
    assert found["label"].tolist() == expected
    assert found["y"].tolist() == y.tolist()
    written(volumes, tmp_path / "out.npy", tmp_path / "out2.npy", label_column="again")
    assert np.load(tmp_path / "out2.npy")["again"].tolist() == expected


def test_bad_tables(volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(name: str, content: bytes, message: str, **options: Any) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TableError, match=message):
            written(volumes, tmp_path / name, tmp_path / f"out-{name}", **options)
        assert not (tmp_path / f"out-{name}").exists()

    for arrow in (True, False):
        monkeypatch.setattr(point_tables, "has_arrow", lambda arrow=arrow: arrow)
        refused("a.csv", b"x,y\n1,2\n", "no column z, only x, y")
        refused("b.csv", b"x,y,z\n1,2,3\n4,five,6\n", "row 2 after the header: y is 'five'")
        refused("c.csv", b"x,y,z\n1,2\n", "cannot be read|1, row|2 cells|row 1")
        refused("d.csv", b"x,y,z\n1,,3\n", "y is ''")
        refused("e.csv", b"x,y,z,label\n1,2,3,4\n", "has a column label already")
        refused("f.csv", b"", "no header")
        refused("g.csv", b"x,y,y\n1,2,3\n", "same name")
    refused("a.txt", b"x,y,z\n", "end with .csv")
    refused("a.npy", b"nothing", "cannot be read")
    refused("a.parquet", b"nothing", "cannot be read")
    with pytest.raises(TableError, match="cannot be read"):
        written(volumes, tmp_path / "missing.csv", tmp_path / "out.csv")
    (tmp_path / "h.csv").write_bytes(b"x,y,z\n1,2,3\n")
    with pytest.raises(TableError, match="the table is csv"):
        written(volumes, tmp_path / "h.csv", tmp_path / "out.npy")


def test_the_command(volumes: Path, labels: np.ndarray, tmp_path: Path) -> None:
    points = some_points(20)
    (tmp_path / "p.csv").write_text("x,y,z\n" + "".join(f"{x},{y},{z}\n" for x, y, z in points.tolist()))
    code = "from fascicle.cli import main; main()"
    command = [sys.executable, "-c", code, "lookup", str(tmp_path / "p.csv")]
    done = subprocess.run([*command, str(volumes / "sharded")], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"x,y,z,label\n{points[0, 0]},")
    assert [int(line.split(",")[3]) for line in done.stdout.splitlines()[1:]] == expected_at(labels, points).tolist()
    assert "20 points" in done.stderr
    again = [*command, "--data", str(volumes / "db"), "--repo", "r", "--instance", "segmentation", "--supervoxels"]
    assert subprocess.run(again, capture_output=True, text=True, check=True).stdout == done.stdout
    bad = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (bad.returncode, len(bad.stderr.splitlines())) == (2, 1)
