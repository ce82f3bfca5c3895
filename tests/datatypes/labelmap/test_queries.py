"""Questions about bodies, label indices and the mapping, over states made without voxels."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import lz4.block
import msgspec
import numpy as np
import pytest
from labelmap_instances import Labels

from fascicle.errors import BadRequest
from fascicle.formats import label_index, mapping_ops
from fascicle.formats.block_code import block_codes


def index_of(label: int, rows: dict[tuple[int, tuple[int, int, int]], int], **more: Any) -> bytes:
    """A LabelIndex message."""
    return label_index.encode(
        label_index.LabelIndex(
            label,
            np.array([sv for sv, _ in rows], np.uint64),
            block_codes([block for _, block in rows]),
            np.array(list(rows.values()), np.uint32),
            **more,
        )
    )


def test_each_body_has_its_index(four: Labels) -> None:
    for n in range(1, 5):
        index = label_index.decode(four.get(f"index/{n}"))
        assert (index.label, set(index.supervoxels.tolist())) == (n, {n})
        assert dict(zip(index.blocks.tolist(), index.counts.tolist(), strict=True)) == {
            int(block_codes([[0, 0, 0]])[0]): 1,
            int(block_codes([[n, 0, 0]])[0]): 100 * n,
        }
    several = label_index.decode_many(four.get("indices", [0, 1, 99]))
    assert [(index.label, len(index.counts)) for index in several] == [(0, 0), (1, 2), (99, 0)]
    assert four.get("indices", []) == b""


def test_index_of_a_merged_body(four: Labels) -> None:
    four.post("merge", [4, 3])
    index = label_index.decode(four.get("index/4"))
    assert (index.last_mutid, index.last_mod_user, index.last_mod_app) == (1_000_000_000, "ann", "test")
    touched = dict(zip(index.surface_blocks.tolist(), index.surface_mutids.tolist(), strict=True))
    blocks = block_codes([[0, 0, 0], [3, 0, 0]]).tolist()
    assert touched == dict.fromkeys(blocks, 1_000_000_000)
    told = four.json("index/4?metadata-only=true")
    assert told["num_voxels"] == 702
    assert list(told) == ["num_voxels", "last_mutid", "last_mod_time", "last_mod_user", "last_mod_app"]
    assert four.call("index/4?mutid=1000000000").status == 404


def test_compressed_indices(four: Labels) -> None:
    stream, at, found = four.get("indices-compressed", [2, 99, 2]), 0, []
    while at < len(stream):
        size, label = struct.unpack_from("<QQ", stream, at)
        payload = stream[at + 16 : at + 16 + size]
        if size:
            assert payload[0] == 0x80
            plain = lz4.block.decompress(payload[5:], uncompressed_size=int.from_bytes(payload[1:5], "little"))
            assert plain == four.get(f"index/{label}")
        found.append((label, size > 0))
        at += 16 + size
    assert found == [(2, True), (99, False), (2, True)]


def test_posted_index_replaces_and_deletes(four: Labels) -> None:
    rows = {(901, (0, 0, 0)): 100, (902, (0, 0, 0)): 3, (2**55, (-5, 6, 7)): 7}
    text = {"last_mutid": 7, "last_mod_time": "2024-01-02T03:04:05Z", "last_mod_user": "u", "last_mod_app": "a"}
    four.post("index/900", index_of(900, rows, **text))
    assert four.json("size/900") == {"voxels": 110}
    assert sorted(four.json("supervoxels/900")) == [901, 902, 2**55]
    assert four.get("lastmod/900") == (
        b'{"mutation id": 7, "last mod user": "u", "last mod app": "a", "last mod time": "2024-01-02T03:04:05Z" }'
    )
    assert four.json("maxlabel") == {"maxlabel": 900}
    four.post("indices", label_index.as_member(index_of(900, {})) + label_index.as_member(index_of(901, rows)))
    assert four.status("index/900") == 404
    assert four.json("existing-labels") == [1, 2, 3, 4, 901]


def test_mapping_of_ids_without_entry(four: Labels) -> None:
    assert four.json("mapping", [1, 99, 0]) == [1, 0, 0]
    assert four.json("mapping?nolookup=true", [1, 99, 0]) == [1, 99, 0]
    four.post("index/900", index_of(900, {(901, (0, 0, 0)): 1}))
    assert four.json("mapping", [900, 901]) == [0, 0]
    assert four.json("mapping", []) == []


def test_bulk_load_in_a_child_version(four: Labels) -> None:
    child = four.child(four.root)
    four.post("mappings", mapping_ops.encode([(1, 7, [1, 2]), (1, 8, [3])]), child)
    assert four.json("mapping", [1, 2, 7], child) == [7, 7, 0]
    assert four.get("mappings") == b""
    assert four.get("mappings", version=child) == b"1 7\n2 7\n3 8\n"
    binary = np.frombuffer(four.get("mappings?format=binary", version=child), "<u8").reshape(-1, 2)
    assert binary.tolist() == [[1, 7], [2, 7], [3, 8]]
    rows = {(1, (1, 0, 0)): 100, (2, (2, 0, 0)): 200}
    posted = [index_of(7, rows), index_of(8, {(3, (3, 0, 0)): 300}), *(index_of(n, {}) for n in (1, 2, 3))]
    four.post("indices", b"".join(map(label_index.as_member, posted)), child)
    assert four.json("existing-labels", version=child) == [4, 7, 8]
    assert four.json("existing-labels") == [1, 2, 3, 4]
    assert four.json("sizes", [7, 2, 8], child) == [300, 0, 300]
    assert four.json("sizes?supervoxels=true", [1, 2, 3, 7], child) == [100, 200, 300, 0]


def test_later_mappings_win_and_entries_may_be_zero(four: Labels) -> None:
    four.post("mappings", mapping_ops.encode([(1, 7, [1]), (2, 0, [2]), (3, 8, [1])]))
    assert four.json("mapping", [1, 2]) == [8, 0]
    with pytest.raises(BadRequest, match="doesn't exist anymore"):
        four.get("size/2?supervoxels=true")
    assert four.json("sizes?supervoxels=true", [2]) == [0]
    assert four.get("mappings") == b"1 8\n2 0\n"


def test_lists_of_bodies(four: Labels) -> None:
    def listed(path: str) -> list[int]:
        return np.frombuffer(four.get(path), "<u8").tolist()

    assert listed("listlabels") == [1, 2, 3, 4]
    assert listed("listlabels?start=2&number=2&sizes=true") == [2, 201, 3, 301]
    assert listed("listlabels?number=0") == []
    assert listed("listlabels?start=5") == []
    assert Labels().get("existing-labels") == b"[]"


def test_texts_are_as_clients_parse_them(four: Labels) -> None:
    assert four.get("size/4") == b'{"voxels": 401}'
    assert four.get("supervoxel-sizes/4") == b'{\n  "supervoxels": [4],\n  "sizes": [401]\n}'
    assert four.get("supervoxels/4") == b"[4]"
    assert four.get("sizes", [4, 9]) == b"[401,0]"
    assert four.get("lastmod/4") == (
        b'{"mutation id": 0, "last mod user": "", "last mod app": "", "last mod time": "" }'
    )


def test_hash_of_the_body(four: Labels) -> None:
    body = b"[1,2]"
    good = hashlib.md5(body).hexdigest()
    for keyword in ("sizes", "mapping"):
        assert len(msgspec.json.decode(four.get(f"{keyword}?hash={good}", body))) == 2
        with pytest.raises(BadRequest, match="MD5"):
            four.get(f"{keyword}?hash={good[::-1]}", body)


@pytest.mark.parametrize("keyword", ["supervoxels", "supervoxel-sizes", "size", "lastmod", "index", "index-version"])
def test_missing_bodies(four: Labels, keyword: str) -> None:
    answer = four.call(f"{keyword}/99")
    assert (answer.status, answer.body) == (404, b"")
    for wrong in (f"{keyword}/0", f"{keyword}/x", keyword, f"{keyword}/{2**64}", f"{keyword}/-1"):
        with pytest.raises(BadRequest):
            four.get(wrong)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "sizes", b""),
        ("GET", "sizes", b'{"a": 1}'),
        ("GET", "sizes", b"[1"),
        ("GET", "mapping", b'["1"]'),
        ("GET", "mapping", b"[-1]"),
        ("GET", "indices", b""),
        ("GET", "indices", b"{}"),
        ("GET", "indices", list(range(50_001))),
        ("GET", "indices-compressed", b'["a"]'),
        ("GET", "listlabels?start=x", b""),
        ("GET", "listlabels?number=-1", b""),
        ("POST", "index/900", index_of(901, {(1, (0, 0, 0)): 1})),
        ("POST", "index/0", index_of(0, {(1, (0, 0, 0)): 1})),
        ("POST", "index/900", b"\xff\xff\xff"),
        ("POST", "indices", b"\xff\xff\xff"),
        ("POST", "indices", label_index.as_member(index_of(0, {(1, (0, 0, 0)): 1}))),
        ("POST", "mappings", b"\xff\xff\xff"),
        ("POST", "mappings", mapping_ops.encode([(1, 7, [1, 0])])),
    ],
)
def test_refusals_change_nothing(four: Labels, method: str, path: str, body: Any) -> None:
    before = four.everything()
    with pytest.raises(BadRequest):
        four.call(path, method, body)
    assert four.everything() == before


def test_splits_and_statistics_of_nothing(four: Labels) -> None:
    assert four.get("supervoxel-splits") == b"[]"
    assert four.json("map-stats") == {} or "segmentation" in four.json("map-stats")
    four.post("merge", [4, 3])
    told = four.json("map-stats")["segmentation"]
    assert told["MapEntries"] >= 1
    assert set(told) == {"MapEntries", "MapSize", "NumVersions", "MaxVersion"}


def test_version_of_a_removed_index(four: Labels) -> None:
    child = four.child(four.root)
    four.post("index/2", index_of(2, {}), child)
    assert four.get("index-version/2", version=child).decode() == four.uuid(child)
    assert four.get("index-version/2").decode() == four.uuid(four.root)
