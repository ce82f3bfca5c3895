"""The info of volumes: read, written, refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from fascicle.errors import BadRequest
from fascicle.formats import precomputed_info as pi

SCALE: dict[str, Any] = {
    "key": "8_8_8", "size": [100, 90, 70], "resolution": [8, 8, 33.5], "voxel_offset": [-5, 0, 3],
    "chunk_sizes": [[64, 64, 32]], "encoding": "raw",
}  # fmt: skip
SHARDING = {"@type": "neuroglancer_uint64_sharded_v1", "preshift_bits": 1, "hash": "identity",
            "minishard_bits": 1, "shard_bits": 1}  # fmt: skip


def info(scales: list[dict[str, Any]] | None = None, **members: Any) -> bytes:
    document = {"@type": pi.VOLUME, "type": "image", "data_type": "uint8", "num_channels": 1}
    return json.dumps(document | {"scales": [SCALE] if scales is None else scales} | members).encode()


def test_members_and_unknown_members_are_kept() -> None:
    labels = SCALE | {"encoding": "compressed_segmentation", "compressed_segmentation_block_size": [8, 8, 8],
                      "sharding": SHARDING, "locked": True, "hidden": True}  # fmt: skip
    links = {"mesh": "mesh", "skeletons": "s", "segment_properties": "p"}
    volume = pi.decode(info([labels], type="Segmentation", data_type="UINT64", x=[1], **links))
    assert (volume.type, volume.dtype, volume.mesh, volume.skeletons) == ("segmentation", "u8", "mesh", "s")
    assert volume.scales[0].sharding is not None
    assert volume.scales[0].problem == ""
    assert volume.scales[0].others == {"locked": True}
    written = json.loads(pi.encode(volume))
    expected = json.loads(info([labels], type="segmentation", data_type="uint64", mesh="mesh", skeletons="s"))
    expected |= {"segment_properties": "p", "x": [1]}
    expected["scales"][0]["sharding"] |= {"minishard_index_encoding": "raw", "data_encoding": "raw"}
    assert written == expected
    assert pi.decode(pi.encode(volume)) == volume


def test_absent_members() -> None:
    document = json.loads(info())
    del document["@type"], document["num_channels"], document["scales"][0]["voxel_offset"]
    document["scales"][0] |= {"sharding": None, "size": [100.0, 90, 70]}
    volume = pi.decode(json.dumps(document).encode())
    assert volume.num_channels == 1
    assert volume.scales[0].voxel_offset == (0, 0, 0)
    assert volume.scales[0].size == (100, 90, 70)
    assert b"null" not in pi.encode(volume)


def test_chunks() -> None:
    scale = pi.decode(info()).scales[0]
    assert scale.grid() == (2, 2, 3)
    assert scale.chunk_span((1, 0, 2)) == ((64, 0, 64), (100, 64, 70))
    assert scale.chunk_name(*scale.chunk_span((0, 0, 0))) == "-5-59_0-64_3-35"
    assert scale.chunk_name(*scale.chunk_span((1, 1, 2)), separator="/") == "59-95/64-90/67-73"
    for cell in ((2, 0, 0), (0, -1, 0)):
        with pytest.raises(BadRequest, match="outside of the grid"):
            scale.chunk_span(cell)


@pytest.mark.parametrize(
    ("change", "members", "problem"),
    [
        ({"encoding": "jxl"}, {}, "'jxl'"),
        ({"sharding": SHARDING | {"@type": "x"}}, {}, "'x'"),
        ({"sharding": SHARDING | {"hash": "md5"}}, {}, "md5"),
        ({"encoding": "jpeg"}, {"data_type": "uint16"}, "JPEG chunks cannot hold 1 channels of uint16"),
        ({"encoding": "jpeg"}, {"num_channels": 2}, "2 channels"),
        ({"encoding": "png"}, {"data_type": "float32"}, "PNG"),
        ({"encoding": "compressed_segmentation"}, {}, "cannot hold uint8"),
        ({"encoding": "compressed_segmentation", "compressed_segmentation_block_size": [0, 8, 8]},
         {"data_type": "uint64"}, "block_size is"),
    ],
)  # fmt: skip
def test_one_scale_never_hides_the_others(change: dict[str, Any], members: dict[str, Any], problem: str) -> None:
    volume = pi.decode(info([SCALE, SCALE | {"key": "16"} | change], **members))
    assert [scale.problem == "" for scale in volume.scales] == [True, False]
    assert problem in volume.scales[1].problem
    with pytest.raises(BadRequest, match="scale 1 "):
        pi.encode(volume)


@pytest.mark.parametrize(
    ("change", "members", "message"),
    [
        ({}, {"@type": "neuroglancer_skeletons"}, "neuroglancer_skeletons"),
        ({}, {"type": "mesh"}, "type 'mesh'"),
        ({}, {"type": 3}, "type"),
        ({}, {"data_type": "float64"}, "'float64'"),
        ({}, {"num_channels": 0}, "0 channels"),
        ({}, {"scales": []}, "0 scales"),
        ({}, {"scales": 3}, "no list of scales"),
        ({}, {"scales": [3]}, "scale 0"),
        ({"size": [0, 1, 1]}, {}, "size is"),
        ({"size": [1, 1]}, {}, "size"),
        ({"size": None}, {}, "size"),
        ({"resolution": [8, 0, 8]}, {}, "resolution is"),
        ({"chunk_sizes": []}, {}, "chunk_sizes is empty"),
        ({"chunk_sizes": [[0, 1, 1]]}, {}, "chunk_sizes has"),
        ({"size": [10**6] * 3, "chunk_sizes": [[10**6] * 3]}, {}, "GiB"),
        ({"chunk_sizes": [[8, 8, 8], [9, 9, 9]], "sharding": SHARDING}, {}, "one chunk size"),
    ],
)
def test_what_makes_no_sense(change: dict[str, Any], members: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        pi.decode(info([SCALE | change], **members) if "scales" not in members else info(**members))


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json(data: bytes) -> None:
    with pytest.raises(BadRequest, match="info is not"):
        pi.decode(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"compressed_segmentation_block_size": (8, 8, 8)}, "must not have compressed_segmentation_block_size"),
        ({"jpeg_quality": 80}, "jpeg_quality belongs to"),
        ({"encoding": "png", "png_level": 10}, "png_level is 10"),
        ({"key": ""}, "no relative directory"),
        ({"key": "/x"}, "no relative directory"),
        ({"encoding": "jxl"}, "'jxl'"),
    ],
)
def test_what_some_readers_refuse_is_not_written(change: dict[str, Any], message: str) -> None:
    volume = pi.decode(info())
    scale = msgspec.structs.replace(volume.scales[0], **change)
    with pytest.raises(BadRequest, match=message):
        pi.encode(msgspec.structs.replace(volume, scales=(scale,)))


def test_volumes_that_are_not_written() -> None:
    volume = pi.decode(info())
    replace = msgspec.structs.replace
    for changed, message in (
        (replace(volume, mesh="mesh"), "mesh"),
        (replace(volume, scales=volume.scales * 2), "same key"),
        (replace(volume, redirect="x"), "redirect"),
        (replace(volume, scales=()), "0 scales"),
    ):
        with pytest.raises(BadRequest, match=message):
            pi.encode(changed)


def test_another_reader_opens_it(tmp_path) -> None:  # type: ignore[no-untyped-def]
    tensorstore = pytest.importorskip("tensorstore")
    (tmp_path / "info").write_bytes(pi.encode(pi.decode(info())))
    spec = {"driver": "neuroglancer_precomputed", "kvstore": {"driver": "file", "path": f"{tmp_path}/"}}
    opened = tensorstore.open(spec).result()
    assert opened.domain.origin == (-5, 0, 3, 0)
    assert opened.shape == (100, 90, 70, 1)
