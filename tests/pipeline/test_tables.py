"""Tables in files: what is written comes back, and what is wrong is named with its line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fascicle.pipeline.tables import (
    TableError,
    TableWriter,
    array_values,
    header_of,
    in_batches,
    json_values,
    kind_of,
    read_rows,
)

TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=60)
@example([0.0, 1e300, -2.5e-7], 1, None)
@given(st.lists(JSON, max_size=8), st.integers(1, 9), st.sampled_from([None, 1]))
def test_json_arrays_in_pieces_of_any_size(values: list[Any], size: int, indent: int | None) -> None:
    data = json.dumps(values, ensure_ascii=False, indent=indent).encode()
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert list(array_values(pieces)) == values


@pytest.mark.parametrize("text", ["", "{}", "[1", "[1 2]", "[1,]", "[1] x", '["a', "[1,,2]", "nul", "[" * 100_000])
def test_damaged_json_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(TableError, match=r"a\.json, line 1"):
        list(json_values(path))


def test_lines_of_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('\n[\n{"a": 1},\n\n{"a":\n2}, {"a": 3}\n]\n')
    assert list(json_values(path)) == [(3, {"a": 1}), (5, {"a": 2}), (6, {"a": 3})]
    path.write_text('[\n{"a": 1},\n{"a" 2}\n]')
    with pytest.raises(TableError, match="line 3: not JSON"):
        list(json_values(path))
    path.write_text("[1,\n2]")
    with pytest.raises(TableError, match="line 1: 1 is not an object"):
        list(read_rows(path))


@settings(max_examples=40)
@given(rows=st.lists(st.tuples(TEXTS, st.integers() | st.none(), TEXTS), max_size=6))
@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
def test_csv_comes_back(tmp_path_factory: pytest.TempPathFactory, ending: str, rows: list[tuple[Any, ...]]) -> None:
    path = tmp_path_factory.getbasetemp() / f"comes_back.{ending}"
    with TableWriter(path, ["a b", "n", "c,"]) as writer:
        for row in rows:
            writer.write(dict(zip(["a b", "n", "c,"], row, strict=True)))
    assert header_of(path) == ["a b", "n", "c,"]
    expected = [dict(zip(["a b", "n", "c,"], row, strict=True)) for row in rows]
    full = [{name: str(cell) for name, cell in row.items() if cell not in (None, "")} for row in expected]
    assert [row for _, row in read_rows(path)] == full


def test_lines_of_csv_with_breaks_inside_of_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfx,y\r\n1,"a\nb"\r\n\r\n2,c\r\n')
    assert list(read_rows(path)) == [(2, {"x": "1", "y": "a\nb"}), (5, {"x": "2", "y": "c"})]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no header"),
        (b"x,y\n1,2\n3\n", "line 3: 1 cells in place of 2"),
        (b"x,x\n", "line 1: two columns"),
        (b'x\n"a\n', "line"),
        (b"x\n\xff\n", "cannot be read"),
    ],
)
def test_damaged_csv_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(TableError, match=problem) as error:
        list(read_rows(path))
    assert str(path) in error.value.message


def test_other_damages(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"\.csv, \.json or \.parquet"):
        kind_of(Path("a.txt"))
    with pytest.raises(TableError, match=r"\.csv"):
        kind_of(Path("a.parquet.gz"))
    with pytest.raises(TableError, match="cannot be read"):
        list(read_rows(tmp_path / "missing.csv"))
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(gzip.compress(b"x\n" + b"1\n" * 1000)[:-12])
    with pytest.raises(TableError, match="cannot be read"):
        list(read_rows(cut))
    broken = tmp_path / "a.parquet"
    broken.write_bytes(b"PAR1 no, it is not PAR1")
    with pytest.raises(TableError, match="cannot be read"):
        list(read_rows(broken))


def test_parquet_in_batches_and_short_numbers(tmp_path: Path) -> None:
    import pyarrow as pa

    path = tmp_path / "a.parquet"
    schema = pa.schema([("n", pa.uint64()), ("c", pa.float32()), ("t", pa.list_(pa.string()))])
    with TableWriter(path, [], schema) as writer:
        for i in range(70_000):
            writer.write({"n": (1 << 63) + i, "c": 0.732 if i % 2 else None, "t": ["a"] * (i % 3)})
    rows = list(read_rows(path))
    assert len(rows) == 70_000
    assert rows[1] == (2, {"n": (1 << 63) + 1, "c": 0.732, "t": ["a"]})
    assert rows[4] == (5, {"n": (1 << 63) + 4, "t": ["a"]})


def test_a_table_that_was_not_finished_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(ValueError), TableWriter(path, ["a"]) as writer:  # noqa: PT012
        writer.write({"a": 1})
        raise ValueError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_without_pyarrow_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TableError, match=r"pip install 'fascicle\[tables\]'"):
        list(read_rows(tmp_path / "a.parquet"))


def test_batches() -> None:
    assert list(in_batches(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(in_batches([], 2)) == []
