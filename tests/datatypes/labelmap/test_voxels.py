"""Writing and reading voxels, against NumPy."""

from __future__ import annotations

import gzip
import struct

import lz4.block
import numpy as np
import pytest
from dense_labels import EDGE, cells, check_index, halved, new_labels, post, read
from hypothesis import given, settings
from hypothesis import strategies as st
from labelmap_instances import Labels

from fascicle.datatypes.labelmap import slabs
from fascicle.datatypes.labelmap.events import BlockChange
from fascicle.errors import FascicleError
from fascicle.formats import label_block


def records(stream: bytes) -> dict[tuple[int, int, int], bytes]:
    found, at = {}, 0
    while at < len(stream):
        x, y, z, size = struct.unpack_from("<iiiI", stream, at)
        found[x, y, z] = stream[at + 16 : at + 16 + size]
        at += 16 + size
    return found


def stream_of(dense: np.ndarray, offset_blocks: tuple[int, int, int] = (0, 0, 0)) -> bytes:
    parts = []
    for z in range(dense.shape[0] // EDGE):
        for y in range(dense.shape[1] // EDGE):
            for x in range(dense.shape[2] // EDGE):
                block = dense[z * EDGE : (z + 1) * EDGE, y * EDGE : (y + 1) * EDGE, x * EDGE : (x + 1) * EDGE]
                payload = gzip.compress(label_block.encode(np.ascontiguousarray(block)))
                corner = [a + b for a, b in zip((x, y, z), offset_blocks, strict=True)]
                parts.append(struct.pack("<iiiI", *corner, len(payload)) + payload)
    return b"".join(parts)


@pytest.mark.parametrize("compression", ["", "lz4", "gzip"])
def test_what_is_posted_raw_is_read_at_every_scale(compression: str) -> None:
    labels = new_labels()
    dense = cells((32, 48, 64), 9, 1)
    body = dense.tobytes()
    if compression == "lz4":
        body = lz4.block.compress(body, store_size=False)
    elif compression == "gzip":
        body = gzip.compress(body)
    labels.post(f"raw/0_1_2/64_48_32/0_0_0?compression={compression}", body)
    assert np.array_equal(read(labels, dense.shape), dense)
    padded = np.zeros((32, 64, 64), np.uint64)
    padded[:, :48] = dense
    once = halved(padded)
    assert np.array_equal(read(labels, (16, 32, 32), options="scale=1"), once)
    assert np.array_equal(read(labels, (8, 16, 16), options="scale=2"), halved(once))
    assert not read(labels, (8, 8, 8), options="scale=3").any()
    check_index(labels, dense)
    assert labels.json("maxlabel") == {"maxlabel": 8}


def test_compressions_of_answers_agree() -> None:
    labels = new_labels(0)
    dense = cells((32, 32, 32), 5, 2)
    post(labels, dense)
    box = "raw/0_1_2/20_30_25/3_-2_5"
    expected = np.zeros((25, 30, 20), np.uint64)
    expected[:, 2:] = dense[5:30, 0:28, 3:23]
    assert labels.get(box) == expected.tobytes()
    assert gzip.decompress(labels.get(box + "?compression=gzip")) == expected.tobytes()
    packed = labels.get(box + "?compression=lz4")
    assert lz4.block.decompress(packed, uncompressed_size=expected.nbytes) == expected.tobytes()


@pytest.mark.parametrize("slab_bytes", [1, 5000, 40000])
@pytest.mark.parametrize("kept", [0, 1000])
def test_small_slabs_make_the_same_volume(monkeypatch: pytest.MonkeyPatch, slab_bytes: int, kept: int) -> None:
    labels = new_labels(0)
    dense = cells((48, 32, 32), 5, 2)
    post(labels, dense)
    monkeypatch.setattr(slabs, "SLAB_BYTES", slab_bytes)
    monkeypatch.setattr(slabs, "CACHED_BYTES", slab_bytes)
    monkeypatch.setattr(slabs, "KEPT_BLOCKS", kept)
    assert np.array_equal(read(labels, (40, 20, 23), (3, 9, 5)), dense[5:45, 9:29, 3:26])
    wide = read(labels, (20, 60, 70), (-10, -20, -2))
    assert np.array_equal(wide[2:, 20:52, 10:42], dense[:18])
    assert wide.sum() == dense[:18].sum()


def test_google_compressions() -> None:
    compressed_segmentation = pytest.importorskip("compressed_segmentation")
    labels = new_labels(0)
    dense = cells((32, 32, 32), 5, 2)
    post(labels, dense)
    for size, corner in ((16, 16), (24, 3), (16, 64)):
        path = f"raw/0_1_2/{size}_{size}_{size}/{corner}_{corner}_{corner}?compression="
        body = labels.get(path + "google")
        assert gzip.decompress(labels.get(path + "googlegzip")) == body
        # indexed x, y, z
        volume = compressed_segmentation.decompress(body, (size, size, size), "uint64", (8, 8, 8), "C")
        expected = np.zeros((size,) * 3, np.uint64)
        part = dense[corner : corner + size, corner : corner + size, corner : corner + size]
        expected[: part.shape[0], : part.shape[1], : part.shape[2]] = part
        assert np.array_equal(volume.T, expected)


def test_chunks_that_are_in_memory_follow_the_mapping() -> None:
    labels = new_labels(0)
    dense = cells((16, 16, 16), 5, 2)
    post(labels, dense)
    path = "raw/0_1_2/16_16_16/{}_0_0?compression=googlegzip"
    first = labels.get(path.format(0))
    assert labels.at_once == 0
    assert labels.get(path.format(0)) == first
    assert labels.at_once == 1
    several = np.unique(dense[dense > 0])[:2].tolist()
    labels.post("merge", several)
    child = labels.child(labels.root)
    merged = labels.get(path.format(0))
    assert labels.at_once == 1
    assert merged != first
    assert labels.get(path.format(0), version=child) == merged
    assert labels.get(path.format(0) + "&supervoxels=true") == first
    for _ in range(2):
        labels.get(path.format(16))  # where nothing is stored
        labels.get(path.format(8))  # parts of two blocks
    assert labels.at_once == 4


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_random_writes_over_each_other(data: st.DataObject) -> None:
    labels = new_labels(1)
    state = np.zeros((4 * EDGE, 4 * EDGE, 4 * EDGE), np.uint64)  # of blocks -2 to 1
    lowered = np.zeros((2 * EDGE, 2 * EDGE, 2 * EDGE), np.uint64)
    for step in range(data.draw(st.integers(1, 4))):
        low = [data.draw(st.integers(0, 3)) for _ in range(3)]
        size = [data.draw(st.integers(1, 4 - first)) for first in low]
        dense = cells(tuple(n * EDGE for n in size), 4, step, data.draw(st.sampled_from([0, 0, 1, 1 << 60])))
        where = tuple(slice(first * EDGE, (first + n) * EDGE) for first, n in zip(low, size, strict=True))
        offset = tuple((first - 2) * EDGE for first in reversed(low))
        if data.draw(st.booleans()):
            post(labels, dense, offset)  # type: ignore[arg-type]
        else:
            labels.post("blocks?downres=true", stream_of(dense, tuple(first - 2 for first in reversed(low))))  # type: ignore[arg-type]
        state[where] = dense
        half = tuple(slice(first * EDGE // 2, (first + n) * EDGE // 2) for first, n in zip(low, size, strict=True))
        lowered[half] = halved(dense)
    corner = (-2 * EDGE,) * 3
    assert np.array_equal(read(labels, state.shape, corner), state)
    assert np.array_equal(read(labels, lowered.shape, (-EDGE,) * 3, "scale=1"), lowered)
    check_index(labels, state)


def test_streams_of_label_blocks() -> None:
    labels = new_labels(0)
    dense = cells((16, 32, 48), 7, 3)
    labels.post("blocks", stream_of(dense))
    labels.post("merge", [1, 2, 3])
    bodies = np.where((dense == 2) | (dense == 3), np.uint64(1), dense)
    for options, expected in (("", bodies), ("&supervoxels=true", dense)):
        found = records(labels.get(f"blocks/64_64_16/0_-16_0?compression=blocks{options}"))
        assert set(found) == {(x, y, 0) for x in range(3) for y in range(2)}
        for (x, y, _), payload in found.items():
            part = expected[:, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16]
            assert np.array_equal(label_block.decode(gzip.decompress(payload)), part)
        path = f"specificblocks?blocks=1,1,0,2,0,0,9,9,9,1,1,0{options}"
        assert labels.get(path) == labels.get(path + "&compression=blocks")
        assert set(records(labels.get(path))) == {(1, 1, 0), (2, 0, 0)}
        for compression, unpack in (
            ("lz4", lambda b: lz4.block.decompress(b, uncompressed_size=8 * EDGE**3)),
            ("gzip", gzip.decompress),
            ("uncompressed", bytes),
        ):
            found = records(labels.get(f"blocks/16_16_16/16_0_0?compression={compression}{options}"))
            assert unpack(found[1, 0, 0]) == expected[:, :16, 16:32].tobytes()
    assert labels.get("blocks/16_16_16/160_0_0") == b""
    assert labels.get("specificblocks?blocks=") == b""


def test_versions_see_their_own_voxels() -> None:
    labels = new_labels(1)
    first, second = cells((32, 32, 32), 4, 5), cells((16, 16, 16), 4, 6, 10)
    post(labels, first)
    child = labels.child(labels.root)
    post(labels, second, (16, 0, 0), child)
    other = labels.child(labels.root, "side")
    merged = first.copy()
    merged[:16, :16, 16:] = second
    assert np.array_equal(read(labels, first.shape), first)
    assert np.array_equal(read(labels, first.shape, version=other), first)
    assert np.array_equal(read(labels, first.shape, version=child), merged)
    assert np.array_equal(read(labels, (16, 16, 16), options="scale=1", version=child), halved(merged))
    check_index(labels, merged, child)
    check_index(labels, first, other)


def test_ingest_stores_and_changes_nothing_else() -> None:
    labels = new_labels(1)
    dense = cells((16, 16, 16), 4, 7, 1)
    labels.post("ingest-supervoxels", stream_of(dense))
    labels.post("ingest-supervoxels?scale=1", stream_of(dense, (5, 0, 0)))
    assert np.array_equal(read(labels, dense.shape), dense)
    assert np.array_equal(read(labels, dense.shape, (80, 0, 0), "scale=1"), dense)
    assert not read(labels, (8, 8, 8), options="scale=1").any()
    assert labels.json("existing-labels") == []
    assert labels.json("info" if False else "nextlabel") == {"nextlabel": 1}
    assert len(labels.events) == 1, "who follows hears of voxels of scale 0, and of no others"


def test_noindexing_and_followers() -> None:
    labels = new_labels(1)
    dense = cells((16, 16, 32), 4, 8, 1)
    labels.post("blocks?noindexing=true", stream_of(dense))
    assert labels.json("existing-labels") == []
    assert labels.json("maxlabel") == {"maxlabel": 4}
    labels.post("blocks", stream_of(dense[:, :, :16]))
    first, second = labels.events
    assert isinstance(second, BlockChange)
    assert second.mutation_id > first.mutation_id
    assert [len(first.blocks), len(second.blocks)] == [2, 1]
    assert first.previous == (None, None)
    assert second.previous != (None,)
    assert np.array_equal(label_block.decode(label_block.join(second.stored[0])), dense[:, :, :16])


BAD_POSTS = {
    "raw/0_1_2/16_16_16/0_0_0": b"\0" * (8 * 16**3 - 1),
    "raw/0_1_2/16_16_16/16_0_0": b"\0" * (8 * 16**3 + 1),
    "raw/0_1_2/16_16_16/1_0_0": b"\0" * (8 * 16**3),
    "raw/0_1_2/16_16_8/0_0_0": b"\0" * (8 * 16 * 16 * 8),
    "raw/0_1_2/0_16_16/0_0_0": b"",
    "raw/0_1_2/16384_16384_16384/0_0_0": b"",
    "raw/0_1/16_16/0_0_0": b"",
    "raw/0_1_2/16_16_16/0_0_0?compression=lz4": b"\1\2\3",
    "raw/0_1_2/16_16_16/0_0_0?compression=gzip": gzip.compress(b"\0" * (8 * 16**3))[:-9],
    "raw/0_1_2/16_16_16/0_0_0?compression=google": b"",
    "raw/0_1_2/16_16_16/0_0_0?roi=some": b"\0" * (8 * 16**3),
    "raw/0_1_2/16_16_16/16777216_0_0": b"\0" * (8 * 16**3),
    "isotropic/0_1_2/16_16_16/0_0_0": b"\0" * (8 * 16**3),
    "blocks?scale=1&downres=true": b"",
    "blocks?compression=lz4": b"",
    "blocks": b"\1\2\3",
    "blocks?noindexing=true": struct.pack("<iiiI", 0, 0, 0, 0),
    "ingest-supervoxels": struct.pack("<iiiI", 0, 0, 0, 5) + b"12345",
    "ingest-supervoxels?scale=0": struct.pack("<iiiI", 0, 0, 0, 50) + b"12345",
    "ingest-supervoxels?scale=-1": b"",
}


@pytest.mark.parametrize("path", BAD_POSTS)
def test_bad_posts_change_nothing(path: str) -> None:
    labels = new_labels(1)
    dense = cells((16, 16, 16), 4, 9)
    post(labels, dense)
    before = labels.everything()
    body = BAD_POSTS[path]
    if path.startswith(("blocks", "ingest")):
        body = stream_of(dense, (3, 0, 0)) + body if body else body
    with pytest.raises(FascicleError) as caught:
        labels.post(path, body)
    assert caught.value.status == 400
    assert labels.everything() == before
    post(labels, dense)  # the lock is free


def test_blocks_of_another_size_are_refused() -> None:
    labels = Labels(BlockSize="32,32,32")
    with pytest.raises(FascicleError):
        labels.post("blocks", stream_of(cells((16, 16, 16), 3, 1)))


BAD_GETS = [
    "raw/0_1_2/100000_100000_100000/0_0_0",
    "raw/0_1_2/16_16_16/0_0_0?compression=zip",
    "raw/0_1_2/16_16_16/0_0_0?scale=x",
    "raw/0_1_2/16_16_16/0_0_0?scale=-1",
    "raw/0_1_2/15_16_16/0_0_0?compression=google",
    "raw/0_1_2/16_16_16",
    "raw/0_9_2/16_16_16/0_0_0",
    "blocks/16_16_16",
    "blocks/16_16_15/0_0_0",
    "blocks/-16_16_16/0_0_0",
    "blocks/16_16_16/0_0_0?compression=zip",
    "specificblocks?blocks=1,2",
    "specificblocks?blocks=1,2,x",
    "specificblocks?blocks=1,2,3&compression=zip",
    "pseudocolor/0_1_2/8_8_8/0_0_0",
    "raw/xy/8_8/0_0_0?roi=some",
]


@pytest.mark.parametrize("path", BAD_GETS)
def test_bad_gets(path: str) -> None:
    with pytest.raises(FascicleError) as caught:
        new_labels().get(path)
    assert caught.value.status == 400


def test_slices_and_colours() -> None:
    import io

    from PIL import Image

    labels = new_labels(0, VoxelSize="8,8,16")
    dense = cells((16, 32, 32), 5, 11)
    post(labels, dense)
    labels.post("merge", [1, 2])
    bodies = np.where(dense == 2, np.uint64(1), dense)
    for plane, size, part in (
        ("xy", "20_10", bodies[5, 4:14, 3:23]),
        ("xz", "20_10", bodies[5:15, 4, 3:23]),
        ("yz", "20_10", bodies[5:15, 4:24, 3]),
    ):
        coloured = np.asarray(Image.open(io.BytesIO(labels.get(f"pseudocolor/{plane}/{size}/3_4_5/png"))))
        assert coloured.shape == (10, 20, 3)
        colours = {int(label): coloured[part == label] for label in np.unique(part)}
        assert all((pixels == pixels[0]).all() for pixels in colours.values())
        if 1 in colours:
            assert colours[1][0].tolist() == [0x53, 0x07, 0x5D]
    assert labels.get("raw/xy/8_8/0_0_0").startswith(b"\x89PNG")
    assert labels.get("isotropic/xz/8_8/0_0_0").startswith(b"\x89PNG")
