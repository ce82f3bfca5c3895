"""Archives that Python's own reader understands, and reading those of others."""

from __future__ import annotations

import contextlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fascicle.errors import BadRequest
from fascicle.formats import tar


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=300),
            st.binary(max_size=1500),
        ),
        max_size=5,
    )
)
def test_entries_are_read_back(files: list[tuple[str, bytes]]) -> None:
    archive = b"".join(tar.entry(name.encode(), data) for name, data in files) + tar.END
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        members = opened.getmembers()
        assert [member.name for member in members] == [name for name, _ in files]
        for member, (_, data) in zip(members, files, strict=True):
            file = opened.extractfile(member)
            assert file is not None
            assert file.read() == data
            assert (member.mode, member.mtime, member.uid) == (0o755, 0, 0)


def _is_name(name: bytes) -> bool:
    return b"\0" not in name and not name.endswith(b"/")


def in_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def read_all(data: bytes, piece: int = 700) -> list[tuple[bytes, bytes]]:
    reader = tar.Reader(in_pieces(data, piece))
    found = []
    while (entry := reader.next_entry()) is not None:
        found.append((entry.name, reader.read(entry)))
    return found


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=300).filter(_is_name), st.binary(max_size=1500)), max_size=4),
    st.integers(1, 2000),
)
def test_own_entries_are_read_in_any_pieces(files: list[tuple[bytes, bytes]], piece: int) -> None:
    archive = b"".join(tar.entry(name, data) for name, data in files) + tar.END
    assert read_all(archive, piece) == files


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_other_programs(kind: int) -> None:
    """Long names, names in other scripts, folders and links, in all dialects that Python writes."""
    names = ["1.drc", "folder/" + "n" * 90 + ".drc", "é.drc"]
    if kind != tarfile.USTAR_FORMAT:
        names += ["x" * 150 + ".drc", "ü" * 120]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind, encoding="utf-8") as archive:
        for i, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = 600 * i
            archive.addfile(info, io.BytesIO(bytes([i]) * info.size))
        for special, name in ((tarfile.DIRTYPE, "folder"), (tarfile.SYMTYPE, "link")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = special, "elsewhere"
            archive.addfile(info)
    reader = tar.Reader(in_pieces(buffer.getvalue(), 1000))
    for i, name in enumerate(names):
        entry = reader.next_entry()
        assert entry is not None
        assert (entry.name.decode(), entry.size, entry.kind) == (name, 600 * i, tar.REGULAR)
        if i % 2:  # what is not read is passed over
            assert reader.read(entry) == bytes([i]) * (600 * i)
    kinds = []
    while (entry := reader.next_entry()) is not None:
        kinds.append((entry.name.rstrip(b"/"), entry.kind))
    assert kinds == [(b"folder", b"5"), (b"link", b"2")]


def test_an_end_may_be_missing_or_alone() -> None:
    assert read_all(b"") == read_all(tar.END) == read_all(tar.END * 9) == []
    assert read_all(tar.entry(b"1.x", b"abc")) == [(b"1.x", b"abc")]


def test_a_size_beyond_octal_digits() -> None:
    header = bytearray(tar.entry(b"1.x", b"")[:512])
    header[124:136] = b"\x80" + (1 << 40).to_bytes(11, "big")
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    entry = tar.Reader([bytes(header)]).next_entry()
    assert entry is not None
    assert entry.size == 1 << 40


@pytest.mark.parametrize("cut", [1, 511, 513, 700, 1025, 1535])
def test_what_is_cut_off_is_refused(cut: int) -> None:
    archive = tar.entry(b"1.x", b"a" * 100) + tar.entry(b"2.x", b"b" * 100)
    with pytest.raises(BadRequest, match="cut off"):
        read_all(archive[:cut])


def test_what_is_no_archive_is_refused() -> None:
    damaged = bytearray(tar.entry(b"1.x", b"abc"))
    damaged[3] ^= 1
    pax = tar.entry(b"n" * 200, b"")
    for data in (b"x" * 512, bytes(damaged), pax[:512] + pax[512:1024].replace(b"path=", b"path "), pax[:1024]):
        with pytest.raises(BadRequest):
            read_all(data)


@given(st.binary(max_size=1500), st.integers(0, 2000), st.integers(0, 255))
def test_anything_is_read_or_refused(noise: bytes, at: int, byte: int) -> None:
    archive = bytearray(tar.entry(b"n" * 120, b"abc") + tar.entry(b"2.x", b"b" * 600) + tar.END)
    archive[at % len(archive)] = byte
    for data in (noise, bytes(archive), bytes(archive[:at]) + noise):
        with contextlib.suppress(BadRequest):
            read_all(data)
