"""Splits of supervoxels and bodies: voxels at every scale, index, mapping, and that refusals change nothing."""

from __future__ import annotations

import gzip
import struct
from typing import Any

import numpy as np
import pytest
from labelmap_instances import Labels

from fascicle.datatypes.labelmap import events
from fascicle.errors import BadRequest
from fascicle.formats import label_block, sub_blocks

Volume = np.ndarray[Any, np.dtype[np.uint64]]
SIZE = 32


def rles(mask: np.ndarray[Any, Any]) -> bytes:
    """The voxels of a mask [z,y,x] as a legacy sparse volume."""
    runs = []
    for z, y in np.argwhere(mask.any(axis=2)).tolist():
        edges = np.flatnonzero(np.diff(np.r_[0, mask[z, y].astype(np.int8), 0]))
        runs += [struct.pack("<4i", a, y, z, b - a) for a, b in edges.reshape(-1, 2).tolist()]
    return struct.pack("<BBBBII", 0, 3, 0, 0, 0, len(runs)) + b"".join(runs)


def halved(volume: Volume) -> Volume:
    """Half the size: the most frequent label of 2x2x2 that is not 0, of equals the smallest."""
    out = np.zeros(tuple(n // 2 for n in volume.shape), np.uint64)
    for z, y, x in np.ndindex(out.shape):
        cell = volume[2 * z : 2 * z + 2, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        labels, counts = np.unique(cell[cell != 0], return_counts=True)
        if len(labels):
            out[z, y, x] = labels[np.argmax(counts)]
    return out


@pytest.fixture
def volume() -> Volume:
    """Supervoxels 1 to 4 as slabs along x that are not aligned with the blocks of 16^3."""
    x = np.arange(SIZE) // 7 % 4 + 1
    return np.broadcast_to(x.astype(np.uint64), (SIZE, SIZE, SIZE)).copy()


@pytest.fixture
def labels(volume: Volume) -> Labels:
    labels = Labels(BlockSize="16,16,16", MaxDownresLevel="2")
    labels.post(f"raw/0_1_2/{SIZE}_{SIZE}_{SIZE}/0_0_0", volume.tobytes())
    labels.post("merge", [3, 4])
    return labels


def raw(labels: Labels, scale: int = 0, supervoxels: bool = True) -> Volume:
    n = SIZE >> scale
    path = f"raw/0_1_2/{n}_{n}_{n}/0_0_0?scale={scale}" + ("&supervoxels=true" if supervoxels else "")
    return np.frombuffer(labels.get(path), "<u8").reshape(n, n, n).copy()


def check_consistent(labels: Labels) -> None:
    """Index, sizes and mapping agree with the voxels, and lower scales with scale 0."""
    dense = raw(labels)
    ids, counts = np.unique(dense[dense != 0], return_counts=True)
    assert labels.json("sizes?supervoxels=true", ids.tolist()) == counts.tolist()
    owners = labels.json("mapping", ids.tolist())
    bodies = raw(labels, supervoxels=False)
    for body in sorted(set(owners)):
        members = [s for s, owner in zip(ids.tolist(), owners, strict=True) if owner == body]
        assert sorted(labels.json(f"supervoxels/{body}")) == members
        assert labels.json(f"size/{body}") == {"voxels": int((bodies == body).sum())}
    assert labels.json("existing-labels") == sorted(set(owners))
    for scale in (1, 2):
        dense = halved(dense)
        assert np.array_equal(raw(labels, scale), dense)


def test_split_supervoxel(labels: Labels, volume: Volume) -> None:
    mask = (volume == 3) & (np.indices(volume.shape)[0] < 19)
    size = labels.json("size/3")
    done = labels.post("split-supervoxel/3", rles(mask))
    assert done == {"SplitSupervoxel": 5, "RemainSupervoxel": 6, "MutationID": done["MutationID"]}
    expected = volume.copy()
    expected[volume == 3] = 6
    expected[mask] = 5
    assert np.array_equal(raw(labels), expected)
    assert labels.json("size/3") == size
    assert labels.json("mapping", [3, 4, 5, 6]) == [0, 3, 3, 3]
    with pytest.raises(BadRequest, match="doesn't exist anymore"):
        labels.get("size/3?supervoxels=true")
    assert labels.json("supervoxel-splits") == [labels.uuid(labels.root), [[done["MutationID"], 3, 6, 5]]]
    assert labels.json("lastmod/3")["mutation id"] == done["MutationID"]
    check_consistent(labels)
    record = labels.records()[-1]
    assert record["Action"] == "split-supervoxel-complete"
    assert (record["Supervoxel"], record["Body"]) == (3, 3)
    assert (record["SplitSize"], record["RemainSize"]) == (int(mask.sum()), int((volume == 3).sum() - mask.sum()))
    event = labels.events[-1]
    assert isinstance(event, events.SupervoxelSplit)
    assert (event.body, event.supervoxel, event.split, event.remain) == (3, 3, 5, 6)


def test_split_with_given_ids(labels: Labels, volume: Volume) -> None:
    mask = (volume == 1) & (np.indices(volume.shape)[1] % 2 == 0)
    done = labels.post("split-supervoxel/1?split=6000", rles(mask))
    assert (done["SplitSupervoxel"], done["RemainSupervoxel"]) == (6000, 6001)
    done = labels.post("split-supervoxel/6001?split=50&remain=40", rles(~mask & (volume == 1) & (np.arange(SIZE) < 3)))
    assert (done["SplitSupervoxel"], done["RemainSupervoxel"]) == (50, 40)
    check_consistent(labels)


def test_split_without_lower_resolutions(labels: Labels, volume: Volume) -> None:
    before = raw(labels, 1)
    labels.post("split-supervoxel/1?downres=false", rles((volume == 1) & (np.indices(volume.shape)[1] < 9)))
    assert np.array_equal(raw(labels, 1), before)
    assert sorted(labels.json("supervoxels/1")) == [5, 6]


BLOCK = 16
GRID = 4


def random_volume(rng: np.random.Generator) -> Volume:
    """Four supervoxels, with ids that were not there before, and background: pieces of some voxels, and single ones."""
    ids = np.append(rng.integers(1, 2**40, 4), 0).astype(np.uint64)
    volume: Volume = ids[rng.integers(0, 5, (BLOCK,) * 3)]
    for axis in range(3):
        volume = volume.repeat(GRID, axis)
    return np.where(rng.random(volume.shape) < 0.1, ids[rng.integers(0, 5, volume.shape)], volume)


def block_stream(rng: np.random.Generator, volume: Volume, share: float) -> bytes:
    """Some of the blocks of a volume."""
    records = b""
    for z, y, x in np.ndindex(*(n // BLOCK for n in volume.shape)):
        if rng.random() < share:
            part = volume[z * BLOCK :, y * BLOCK :, x * BLOCK :][:BLOCK, :BLOCK, :BLOCK]
            packed = gzip.compress(label_block.encode(np.ascontiguousarray(part)), 1)
            records += struct.pack("<4i", x, y, z, len(packed)) + packed
    return records


def disturb(labels: Labels, rng: np.random.Generator, version: int) -> None:
    """Leave scales out of step, in one of the ways in which that can be."""
    kind = int(rng.integers(3))
    size = BLOCK * GRID
    if kind == 0:
        labels.post("blocks", block_stream(rng, random_volume(rng), 0.1), version)
    elif kind == 1:
        scale = int(rng.integers(1, 3))
        coarse = random_volume(rng)[: size >> scale, : size >> scale, : size >> scale]
        labels.post(f"ingest-supervoxels?scale={scale}", block_stream(rng, coarse, 0.3), version)
    else:
        split_randomly(labels, rng, version, "?downres=false")


def split_randomly(labels: Labels, rng: np.random.Generator, version: int, query: str = "") -> None:
    """Split one of the larger supervoxels."""
    size = BLOCK * GRID
    dense = np.frombuffer(labels.get(f"raw/0_1_2/{size}_{size}_{size}/0_0_0?supervoxels=true", version=version), "<u8")
    ids, counts = np.unique(dense[dense != 0], return_counts=True)
    supervoxel = int(rng.choice(ids[counts >= min(100, counts.max())]))
    own = (dense == supervoxel).reshape(size, size, size)
    part = own & (np.indices(own.shape)[rng.integers(3)] < np.median(np.argwhere(own)))
    if not own.any() or not part.any() or (part == own).all():
        part = own & (np.cumsum(own).reshape(own.shape) == 1)
    labels.post(f"split-supervoxel/{supervoxel}{query}", rles(part), version)


@pytest.mark.parametrize("seed", range(6))
def test_splits_are_as_if_all_octants_were_made_anew(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With scales in step (even seeds) and out of step, in versions that branch off: voxels at every scale."""
    everything: list[list[bytes]] = []
    quick: list[int] = []
    follow = sub_blocks.follow

    def counted(block: Any, voxels: Any, children: Any, changed_in: Any) -> Any:
        quick.append(len(changed_in))
        return follow(block, voxels, children, changed_in)

    for anew in (False, True):
        quick.clear()
        monkeypatch.setattr(sub_blocks, "follow", counted)
        if anew:
            monkeypatch.setattr(label_block, "marks", lambda stored: np.zeros(8, np.uint64))
        rng = np.random.default_rng(seed)
        labels = Labels(BlockSize=f"{BLOCK},{BLOCK},{BLOCK}", MaxDownresLevel="2")
        size = BLOCK * GRID
        labels.post(f"raw/0_1_2/{size}_{size}_{size}/0_0_0", random_volume(rng).tobytes())
        versions = [labels.root]
        for step in range(6):
            if step % 3 == 2:
                versions.append(labels.child(int(rng.choice(versions)), branch=f"b{step}"))
            if seed % 2 and step % 2:
                disturb(labels, rng, versions[-1])
            split_randomly(labels, rng, versions[-1])
        assert any(quick) != anew
        everything.append(
            [
                labels.get(f"raw/0_1_2/{size >> k}_{size >> k}_{size >> k}/0_0_0?supervoxels=true&scale={k}", version=v)
                for v in versions
                for k in range(3)
            ]
        )
        monkeypatch.undo()
    assert everything[0] == everything[1]


def test_split_in_a_child_version(labels: Labels, volume: Volume) -> None:
    child = labels.child(labels.root)
    labels.post("split-supervoxel/1", rles((volume == 1) & (np.indices(volume.shape)[1] < 9)), child)
    assert np.array_equal(raw(labels), volume)
    assert labels.json("mapping", [1]) == [1]
    assert labels.json("mapping", [1, 5, 6], child) == [0, 1, 1]
    assert labels.json("supervoxel-splits") == []
    check_consistent(labels)


def test_body_split(labels: Labels, volume: Volume) -> None:
    z, _, x = np.indices(volume.shape)
    mask = (volume == 4) & (x < 26) | (volume == 3) & (z < 5)
    done = labels.post("split/3", rles(mask))
    new = done["label"]
    assert new == 5
    bodies = volume.copy()
    bodies[bodies == 4] = 3
    bodies[mask] = new
    assert np.array_equal(raw(labels, supervoxels=False), bodies)
    check_consistent(labels)
    record = labels.records()[-1]
    assert set(record["SVSplits"]) == {"3", "4"}
    assert labels.json("mapping", [3, 4]) == [0, 0]
    rows = labels.json("supervoxel-splits")[1]
    assert sorted(row[1:] for row in rows) == sorted(
        [int(old), ids["Remain"], ids["Split"]] for old, ids in record["SVSplits"].items()
    )
    assert isinstance(labels.events[-1], events.Split)


def test_body_split_of_a_whole_supervoxel(labels: Labels, volume: Volume) -> None:
    new = labels.post("split/3", rles(volume == 4))["label"]
    ids = labels.records()[-1]["SVSplits"]["4"]
    assert labels.json(f"supervoxels/{new}") == [ids["Split"]]
    assert labels.json("mapping", [ids["Remain"]]) == [3]
    assert labels.json("size/3?supervoxels=true") == {"voxels": int((volume == 3).sum())}


def test_dry_runs_change_nothing(labels: Labels, volume: Volume) -> None:
    before = labels.everything()
    mask = (volume == 3) & (np.indices(volume.shape)[0] < 19)
    told = labels.post("split-supervoxel/3?dryrun=true", rles(mask))
    assert (told["SplitSupervoxel"], told["SplitSize"]) == (5, int(mask.sum()))
    assert labels.post("split/3?dryrun=true", rles(mask))["SVSplits"] == {"3": {"Split": 6, "Remain": 7}}
    assert labels.everything() == before


def _cases(volume: Volume) -> list[tuple[str, bytes]]:
    part = (volume == 1) & (np.indices(volume.shape)[0] < 9)
    good = rles(part)
    whole, empty = rles(volume == 1), rles(volume == 99)
    stray = part.copy()
    stray[0, 0, 10] = True
    far = struct.pack("<BBBBII4i", 0, 3, 0, 0, 0, 1, 1000, 1000, 1000, 4)
    negative = struct.pack("<BBBBII4i", 0, 3, 0, 0, 0, 1, 0, 0, 0, -4)
    twice = good[:8] + struct.pack("<I", 2 * ((len(good) - 12) // 16)) + 2 * good[12:]
    bodies = [whole, empty, rles(stray), far, negative, twice, good[:20], b"", b"\x01" + good[1:]]
    cases = [(f"{keyword}/1", body) for keyword in ("split-supervoxel", "split") for body in bodies]
    cases += [(path, good) for path in ("split-supervoxel/99", "split-supervoxel/0", "split-supervoxel/x")]
    cases += [(path, good) for path in ("split-supervoxel", "split/99", "split/0", "split/x", "split", "split/2")]
    options = ("split=7&remain=7", "split=1", "split=2", "remain=4", "split=x", f"remain={2**64 - 1}", "split=-1")
    return cases + [(f"split-supervoxel/1?{option}", good) for option in options]


def test_refusals_change_nothing(labels: Labels, volume: Volume) -> None:
    before = labels.everything()
    for path, body in _cases(volume):
        with pytest.raises(BadRequest):
            labels.post(path, body)
        assert labels.everything() == before, path
    labels.settings["allow_labelmap_split"] = False
    with pytest.raises(BadRequest, match="deactivated"):
        labels.post("split/1", _cases(volume)[0][1])


def test_a_plan_is_made_again_when_ids_are_taken(labels: Labels, volume: Volume) -> None:
    """What another writer did between plan and transaction is not lost."""
    mask = (volume == 1) & (np.indices(volume.shape)[0] < 9)
    original = labels.write

    def late(change: Any, version: int | None = None) -> Any:
        labels.write = original  # type: ignore[method-assign]
        labels.post("nextlabel/10")
        labels.post("merge", [2, 1])
        return original(change, version)

    labels.write = late  # type: ignore[method-assign]
    done = labels.post("split-supervoxel/1", rles(mask))
    assert (done["SplitSupervoxel"], done["RemainSupervoxel"]) == (15, 16)
    assert labels.json("mapping", [15, 16]) == [2, 2]
    check_consistent(labels)


def test_proximity(labels: Labels, volume: Volume) -> None:
    labels.post("cleave/3", [4])
    found = labels.json("proximity/1,2,5")
    x = np.arange(16)
    for item in found:
        bx = item["Block"][0]
        row = {3: 3, 4: 5}
        line = np.array([row.get(int(s), int(s)) for s in volume[0, 0, 16 * bx : 16 * bx + 16]])
        own, other = x[line == 1], x[line == item["Label"]]
        assert item["Distance"] == np.abs(own[:, None] - other[None]).min()
    assert {(item["Block"][0], item["Label"]) for item in found} == {(0, 2), (1, 5)}
    assert "Label" not in labels.json("proximity/1,2")[0]
    assert labels.json("proximity/1/2") == labels.json("proximity/1,2")
    assert labels.json("proximity/2,5") == []
    assert labels.status("proximity/1,99") == 404
    for path in ("proximity", "proximity/1", "proximity/1,1", "proximity/0,1", "proximity/1,x"):
        with pytest.raises(BadRequest):
            labels.get(path)


@pytest.mark.parametrize("merged", [False, True])
def test_voxels_written_with_a_retired_id_count_for_no_body(labels: Labels, volume: Volume, merged: bool) -> None:
    """They are read as background: no index may name them, whether the body of that id lives on or not."""
    labels.post("split-supervoxel/1", rles((volume == 1) & (np.indices(volume.shape)[0] < 5)))
    if merged:
        labels.post("merge", [2, 1])
    before = labels.json("existing-labels"), labels.json("maxlabel")
    labels.post(f"raw/0_1_2/16_16_16/{SIZE}_0_0", np.ones((16, 16, 16), "<u8").tobytes())
    assert (labels.json("existing-labels"), labels.json("maxlabel")) == before
    check_consistent(labels)
    assert labels.json("labels", [[SIZE, 0, 0]]) == [0]
    assert labels.json("labels?supervoxels=true", [[SIZE, 0, 0]]) == [1]
    assert 1 not in labels.json(f"supervoxels/{2 if merged else 1}")
