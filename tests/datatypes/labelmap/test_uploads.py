"""Uploads of which nothing stays in memory are what small ones are."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import lz4.block
import numpy as np
import pytest
from dense_labels import EDGE, cells, check_index, halved, new_labels, post, read
from labelmap_instances import Labels

from fascicle.datatypes.labelmap import block_writes, new_blocks, uploads
from fascicle.datatypes.labelmap.block_writes import stored_of
from fascicle.datatypes.labelmap.events import BlockChange
from fascicle.datatypes.labelmap.new_blocks import ChangedRows, KeptHandles, NewBlocks, Rows
from fascicle.errors import FascicleError, StoreFull
from fascicle.formats import label_block
from fascicle.formats.block_code import block_xyz
from fascicle.store import LateValue, spool
from fascicle.store.lmdb_engine import LmdbStore
from fascicle.store.spool import Spool


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that may go into files does, and what is done in parts has many of them."""
    monkeypatch.setattr(spool, "MEMORY_BYTES", 0)
    monkeypatch.setattr(spool, "LEAST_BYTES", 0)
    monkeypatch.setattr(new_blocks, "OPEN_BYTES", 0)
    monkeypatch.setattr(block_writes, "COMPARED_BLOCKS", 3)
    monkeypatch.setattr(block_writes, "COMPARED_BYTES", 1500)
    monkeypatch.setattr(new_blocks, "ROWS_AT_ONCE", 40)
    monkeypatch.setattr(uploads, "UNPACKED_BYTES", 5000)


def blocks_of(dense: np.ndarray[Any, Any]) -> bytes:
    """A stream of the label blocks of a volume, those along z first."""
    parts = []
    for x, y, z in np.ndindex(*(n // EDGE for n in reversed(dense.shape))):
        block = dense[z * EDGE : (z + 1) * EDGE, y * EDGE : (y + 1) * EDGE, x * EDGE : (x + 1) * EDGE]
        payload = gzip.compress(label_block.encode(np.ascontiguousarray(block)))
        parts.append(struct.pack("<iiiI", x, y, z, len(payload)) + payload)
    return b"".join(parts)



def put(labels: Labels, dense: np.ndarray[Any, Any], how: str) -> None:
    z, y, x = dense.shape
    if how == "blocks":
        labels.post("blocks?downres=true", blocks_of(dense))
    else:
        packed = {"": bytes, "lz4": lambda data: lz4.block.compress(data, store_size=False), "gzip": gzip.compress}
        labels.post(f"raw/0_1_2/{x}_{y}_{z}/0_0_0?compression={how}", packed[how](dense.tobytes()))


@pytest.mark.usefixtures("no_memory")
@pytest.mark.parametrize("how", ["blocks", "", "lz4", "gzip"])
def test_through_files(how: str) -> None:
    labels = new_labels()
    first, second = cells((32, 64, 64), 12, 1), cells((32, 32, 64), 9, 2, 5)
    put(labels, first, how)
    check_index(labels, first)
    labels.post("merge", [3, 4, 5])
    put(labels, second, how)
    dense = first.copy()
    dense[:, :32] = second
    assert np.array_equal(read(labels, dense.shape), dense)
    assert np.array_equal(read(labels, (16, 32, 32), options="scale=1&supervoxels=true"), halved(dense))
    assert np.array_equal(read(labels, (8, 16, 16), options="scale=2&supervoxels=true"), halved(halved(dense)))
    supervoxels, counts = np.unique(dense[dense != 0], return_counts=True)
    of_supervoxel = dict(zip(supervoxels.tolist(), counts.tolist(), strict=True))
    assert labels.json("sizes?supervoxels=true", supervoxels.tolist()) == counts.tolist()
    assert labels.json("sizes", [3]) == [of_supervoxel[3] + of_supervoxel[4] + of_supervoxel[5]]
    blocks = sorted(set(map(tuple, (np.argwhere(np.isin(dense, [3, 4, 5]))[:, ::-1] // EDGE).tolist())))
    assert labels.json("sparsevol-size/3")["numblocks"] == len(blocks)
    change = labels.events[-1]
    assert isinstance(change, BlockChange)
    assert len(change.stored) == len(change.blocks) == len(change.previous) == 16
    for stored, (x, y, z) in zip(change.stored[5:], block_xyz(change.blocks[5:]).tolist(), strict=True):
        part = second[z * EDGE : (z + 1) * EDGE, y * EDGE : (y + 1) * EDGE, x * EDGE : (x + 1) * EDGE]
        assert np.array_equal(label_block.decode(label_block.opened_stored(stored)), part)


@pytest.mark.usefixtures("no_memory")
def test_a_body_that_is_wrong_at_its_end_changes_nothing() -> None:
    labels = new_labels()
    dense = cells((32, 64, 64), 12, 1)
    before = labels.everything()
    for path, body in (
        ("blocks", blocks_of(dense)[:-3]),
        ("ingest-supervoxels?scale=0", blocks_of(dense) + b"\0" * 16),
        ("raw/0_1_2/64_64_32/0_0_0", dense.tobytes() + b"1"),
    ):
        with pytest.raises(FascicleError):
            labels.post(path, body)
    assert labels.everything() == before


def test_a_full_disk_while_a_body_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "MEMORY_BYTES", 4000)
    labels = new_labels()
    post(labels, cells((16, 16, 16), 3, 5))
    before = labels.everything()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    dense = cells((64, 64, 64), 12, 1)
    with monkeypatch.context() as patch:
        patch.setattr(spool, "write_whole", full)
        for how in ("blocks", "", "lz4"):
            with pytest.raises(StoreFull):
                put(labels, dense, how)
    assert labels.everything() == before
    put(labels, dense, "")
    assert np.array_equal(read(labels, dense.shape), dense)


def test_new_blocks_given_twice() -> None:
    new = NewBlocks(Spool(None, 0))
    first, second = (stored_of(cells((16, 16, 16), 40, seed)) for seed in (1, 2))
    new.add(7, *first)
    new.add(3, *first)
    new.add(7, *second)
    assert isinstance(new.kept[7], LateValue)
    assert len(new) == 2
    assert new.codes().tolist() == [3, 7]
    assert (new.stored(3), new.stored(7)) == (first[0], second[0])
    for _ in range(2):
        assert label_block.decode(new.opened(7, new.stored(7))).tolist() == label_block.decode(second[1]).tolist()
        new.close()


def test_handles_that_wait_in_a_spool() -> None:
    kept = Spool(None, 0)
    expected = [None, b"\x01short", bytes(1000), None, bytes(range(250)), b""]
    handles = KeptHandles([None if handle is None else kept.keep(handle) for handle in expected])
    assert kept.file_bytes == 1250
    assert list(handles) == expected
    assert list(handles[1:5]) == expected[1:5]
    assert [handles[i] for i in (-1, 2, 0)] == [b"", bytes(1000), None]
    assert len(handles[2:]) == 4


@pytest.mark.parametrize("parts", [[], [3], [5, 1, 40, 2, 90, 7]])
def test_rows_come_in_pieces_and_none_is_lost(monkeypatch: pytest.MonkeyPatch, parts: list[int]) -> None:
    monkeypatch.setattr(new_blocks, "ROWS_AT_ONCE", 45)
    rng = np.random.default_rng(1)
    rows = [
        Rows(rng.integers(1, 9, n, np.uint64), rng.integers(1, 9, n, np.uint64), *rng.integers(0, 9, (2, n), np.uint32))
        for n in parts
    ]
    changed = ChangedRows(Spool(None, 100))
    for part in rows:
        changed.add(part)
    found = list(changed)
    assert [len(piece) for piece in found] == ([46, 92, 7] if len(parts) == 6 else parts)
    for column in ("sv", "block", "before", "after"):
        given, told = ([getattr(part, column) for part in side] for side in (rows, found))
        assert [part.dtype for part in told] == [part.dtype for part in given[: len(told)]]
        assert [row for part in told for row in part.tolist()] == [row for part in given for row in part.tolist()]
    assert [len(piece) for piece in changed] == [len(piece) for piece in found], "they can be read again"


def test_the_spool_of_an_upload_lies_in_the_stores_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "MEMORY_BYTES", 0)
    asked: list[Path | None] = []
    real = spool.unnamed_file
    monkeypatch.setattr(spool, "unnamed_file", lambda folder: asked.append(folder) or real(folder))
    labels = new_labels(0)
    labels.store.close()
    store = LmdbStore(tmp_path / "store")
    with monkeypatch.context() as patch:
        patch.setattr("labelmap_instances.MemoryStore", lambda: store)
        labels = new_labels(0)
    post(labels, cells((16, 32, 32), 40, 1))
    assert asked
    assert set(asked) == {tmp_path / "store"}
    assert np.array_equal(read(labels, (16, 32, 32)), cells((16, 32, 32), 40, 1))
    assert store.check() == []
    store.close()
