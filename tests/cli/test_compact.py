from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from fascicle.cli.compact import compact
from fascicle.store.lmdb_engine import LmdbStore
from fascicle.testing.store import contents, pattern


def test_space_is_given_back(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "store", segment_bytes=100_000)
    store.write(lambda txn: [txn.put(b"%02d" % i, pattern(i, 30_000)) for i in range(20)])
    store.write(lambda txn: txn.delete_range(b"01", b"12"))
    kept = contents(store)
    before = store.statistics().file_bytes
    store.close()
    result = CliRunner().invoke(compact, ["--data", str(tmp_path / "store")])
    assert result.exit_code == 0, result.output
    assert int(result.output.split()[0]) > 200_000
    store = LmdbStore(tmp_path / "store")
    assert store.statistics().file_bytes < before - 200_000
    assert contents(store) == kept
    store.close()


def test_a_folder_that_is_not_there() -> None:
    assert CliRunner().invoke(compact, ["--data", "/nowhere/at/all"]).exit_code != 0
