"""Shards written from streams: equal bytes whatever the order, read back by our reader and by TensorStore."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fascicle.formats import sharding as sh
from fascicle.volumes.base import VolumeError
from fascicle.volumes.destinations import open_destination
from fascicle.volumes.objects import FileFolder
from fascicle.volumes.shard_writing import ScatteredShards, ShardFiles, SpoolWriter, checksum_of
from fascicle.volumes.shards import ShardReader


def hashed(shard_bits: int = 2, minishard_bits: int = 2, encoding: str = "gzip") -> sh.Sharding:
    return sh.Sharding(
        preshift_bits=0, hash="murmurhash3_x86_128", minishard_bits=minishard_bits, shard_bits=shard_bits,
        minishard_index_encoding="gzip", data_encoding=encoding,  # type: ignore[arg-type]
    )  # fmt: skip


def shard_files(folder: Path, sharding: sh.Sharding, directory: str = "s") -> ShardFiles:
    return ShardFiles(open_destination(str(folder / "out")), directory, sharding, folder / "scratch")


def test_any_order_gives_the_same_bytes(tmp_path: Path) -> None:
    sharding = sh.Sharding(
        preshift_bits=3, hash="identity", minishard_bits=2, shard_bits=3, minishard_index_encoding="gzip",
        data_encoding="gzip",
    )  # fmt: skip
    entries = [(key, bytes([key]) * key) for key in range(32, 64) if key % 5]
    expected = sh.build_shard(sharding, 1, entries)
    files = shard_files(tmp_path, sharding)
    for seed in range(3):
        given = [(key, value, False) for key, value in entries]
        if seed:
            random.Random(seed).shuffle(given)
        written = files.write(1, iter(given))
        path = tmp_path / "out" / "s" / "1.shard"
        assert path.read_bytes() == expected
        assert written is not None
        assert (written.name, written.values, written.size) == ("s/1.shard", len(entries), len(expected))
        assert written.checksum == checksum_of(path)
    packed = [(key, sh.packed(value, "gzip"), True) for key, value in entries]
    files.write(1, packed)
    assert path.read_bytes() == expected
    assert list((tmp_path / "scratch").iterdir()) == []


def test_what_a_shard_cannot_hold(tmp_path: Path) -> None:
    sharding = sh.Sharding(preshift_bits=0, hash="identity", minishard_bits=1, shard_bits=1)
    files = shard_files(tmp_path, sharding)
    assert files.write(0, []) is None
    with pytest.raises(ValueError, match="key 2 belongs to shard 1"):
        files.write(0, [(2, b"x", False)])
    with pytest.raises(ValueError, match="key 4 comes twice"):
        files.write(0, [(4, b"x", False), (8, b"y", False), (4, b"x", False)])
    assert list((tmp_path / "scratch").iterdir()) == []
    assert not (tmp_path / "out").exists()


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.integers(0, 2**64 - 1), st.binary(max_size=40), max_size=30), st.booleans())
def test_scattered_values_are_found(
    tmp_path_factory: pytest.TempPathFactory, values: dict[int, bytes], raw: bool
) -> None:
    folder = tmp_path_factory.mktemp("scattered")
    sharding = hashed(encoding="raw" if raw else "gzip")
    with ScatteredShards(folder / "scratch", sharding.data_encoding) as shards:
        for key, value in values.items():
            shards.add(key, value)
        written = shards.finish(shard_files(folder, sharding))
        assert shards.keys().tolist() == sorted(values)
    assert sum(shard.values for shard in written) == len(values)
    assert [shard.shard for shard in written] == sorted({sharding.place(key)[0] for key in values})
    reader = ShardReader(FileFolder(str(folder / "out")), "s/", sharding)
    for key, value in values.items():
        assert reader.get(key, 1000) == value
    assert list((folder / "scratch").iterdir()) == []


def test_bytes_that_lead_lie_before_their_value(tmp_path: Path) -> None:
    sharding = hashed(0, 1)
    values = {key: (bytes([65 + key]) * 10, bytes([97 + key]) * (key * 7)) for key in range(6)}
    with ScatteredShards(tmp_path / "scratch") as shards:
        for key, (value, leading) in sorted(values.items(), reverse=True):
            shards.add(key, value, leading)
        (written,) = shards.finish(shard_files(tmp_path, sharding))
    file = (tmp_path / "out" / written.name).read_bytes()
    for key, (value, leading) in values.items():
        span = sharding.minishard_span(file[slice(*sharding.index_span(sharding.place(key)[1]))])
        assert span is not None
        place = sharding.minishard_index(file[slice(*span)]).find(key)
        assert place is not None
        start, stop = place
        assert sharding.unpacked(file[start:stop], 100) == value
        assert file[start - len(leading) : start] == leading


def test_spools_of_several_tasks_become_one_directory(tmp_path: Path) -> None:
    def spool(name: str, keys: range) -> Path:
        path = tmp_path / name
        writer = SpoolWriter(path)
        for key in keys:
            writer.add(key, b"%d" % key, b"!" * (key % 3))
        writer.close()
        return path

    sharding = hashed()
    outcomes = []
    for number, order in enumerate((("a", "b"), ("b", "a"))):
        paths = {"a": spool("a", range(50)), "b": spool("b", range(50, 90))}
        folder = tmp_path / str(number)
        with ScatteredShards(folder / "scratch") as shards:
            assert sum(shards.add_spool(paths[name]) for name in order) == 90
            assert [(key, lead) for key, _, lead in shards.values()] == [(key, b"!" * (key % 3)) for key in range(90)]
            files = shard_files(folder, sharding)
            first = next(shards.write(files))
            rest = list(shards.write(files, frozenset([first.shard])))
        outcomes.append([first, *rest])
    assert outcomes[0] == outcomes[1]
    for shard in outcomes[0]:
        assert (tmp_path / "0/out" / shard.name).read_bytes() == (tmp_path / "1/out" / shard.name).read_bytes()
    reader = ShardReader(FileFolder(str(tmp_path / "1/out")), "s/", sharding)
    assert [reader.get(key, 10) for key in range(90)] == [b"%d" % key for key in range(90)]
    with ScatteredShards(tmp_path / "scratch") as shards:
        shards.add(7, b"x")
        shards.add_spool(spool("c", range(9)))
        with pytest.raises(ValueError, match="key 7 comes twice"):
            shards.finish(shard_files(tmp_path, sharding))


def test_damaged_spools_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    writer = SpoolWriter(path)
    writer.add(1, b"x" * 100)
    assert not path.exists()
    writer.close()
    whole = path.read_bytes()
    for data, text in ((b"nonsense", "no spool"), (whole[:-1], "value of key 1"), (whole + b"x", "within a value")):
        path.write_bytes(data)
        with ScatteredShards(tmp_path / "scratch") as shards, pytest.raises(VolumeError, match=text):
            shards.add_spool(path)
    abandoned = SpoolWriter(tmp_path / "abandoned")
    abandoned.abandon()
    assert not list(tmp_path.glob("abandoned*"))


def test_tensorstore_reads_it(tmp_path: Path) -> None:
    ts = pytest.importorskip("tensorstore")
    rng = np.random.default_rng(3)
    keys = rng.integers(0, 2**63, 200).tolist()
    for number, sharding in enumerate((hashed(), hashed(0, 0), hashed(3, 1, "raw"))):
        folder = tmp_path / str(number)
        with ScatteredShards(folder / "scratch", sharding.data_encoding) as shards:
            for key in keys:
                shards.add(key, b"%d" % key)
            shards.finish(shard_files(folder, sharding))
        spec = {
            "driver": "neuroglancer_uint64_sharded",
            "metadata": msgspec.to_builtins(sharding),
            "base": f"file://{folder}/out/s/",
        }
        store = ts.KvStore.open(spec).result()
        for key in keys[:50]:
            assert store.read(key.to_bytes(8, "big")).result().value == b"%d" % key


@pytest.mark.parametrize("scattered", [False, True])
def test_memory_holds_indexes_only(tmp_path: Path, scattered: bool) -> None:
    """Eight times as many values of 20,000 bytes take hardly more of it."""
    value = np.random.default_rng(1).bytes(20_000)
    sharding = sh.Sharding(preshift_bits=9, hash="identity", minishard_bits=3, shard_bits=2)

    def peak(count: int) -> int:
        folder = tmp_path / str(count)
        files = shard_files(folder, sharding)
        tracemalloc.start()
        try:
            if scattered:
                with ScatteredShards(folder / "scratch", "raw") as shards:
                    for key in range(count):
                        shards.add(key, value)
                    shards.finish(files)
            else:
                files.write(0, ((key, value, True) for key in range(count)))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few = peak(300)
    assert peak(2400) - few < 2100 * 1000
    assert few < 5 << 20
