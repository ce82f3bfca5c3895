"""What a reader of shards keeps, and how much of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fascicle.formats.sharding import Sharding, build_shard
from fascicle.volumes import VolumeError, shards
from fascicle.volumes.objects import FileFolder

SHARDING = Sharding(preshift_bits=0, hash="murmurhash3_x86_128", minishard_bits=3, shard_bits=2)
VALUES = {key * 977: f"value {key}".encode() for key in range(500)} | {7: b""}


@pytest.fixture
def folder(tmp_path: Path) -> FileFolder:
    for shard in range(4):
        values = [(key, value) for key, value in VALUES.items() if SHARDING.place(key)[0] == shard]
        (tmp_path / SHARDING.file_name(shard)).write_bytes(build_shard(SHARDING, shard, values))
    return FileFolder(str(tmp_path))


@pytest.mark.parametrize("whole", [0, 1 << 20])
@pytest.mark.parametrize("kept_bytes", [0, 3000, 1 << 20])
def test_values_are_found(whole: int, kept_bytes: int, folder: FileFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shard indexes read at once or entry by entry, and kept or not."""
    monkeypatch.setattr(shards, "WHOLE_INDEX_BYTES", whole)
    monkeypatch.setattr(shards, "INDEX_BYTES", kept_bytes)
    reader = shards.ShardReader(folder, "", SHARDING)
    assert {key: reader.get(key, 100) for key in VALUES} == VALUES
    assert dict(reader.get_many(list(VALUES), 100)) == VALUES
    assert reader.get(8, 100) is None
    assert reader._kept_bytes <= max(kept_bytes, 5000)
    with pytest.raises(VolumeError, match=r"value 977 of .*\.shard: .* more than"):
        reader.get(977, 3)


def test_shards_that_are_not_there(tmp_path: Path) -> None:
    assert shards.ShardReader(FileFolder(str(tmp_path)), "x", SHARDING).get(5, 100) is None
