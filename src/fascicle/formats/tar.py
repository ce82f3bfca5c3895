"""Tar archives: writing entries, and reading them from a stream one at a time.

Headers are those of ustar (POSIX.1-1988), with pax headers (POSIX.1-2001) for names that do not fit. Reading also takes
GNU's long names and numbers in base 256. Sparse files and archives of several volumes are not understood.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fascicle.errors import BadRequest

BLOCK = 512
END = bytes(2 * BLOCK)
REGULAR = b"0"

_EXTENDED_BYTES = 1 << 20
"""The largest pax header or long name that is read."""
_ZEROS = bytes(BLOCK)


def entry(name: bytes, data: bytes, mode: int = 0o755) -> bytes:
    """A regular file of user 0 and time 0."""
    extended = b"" if len(name) <= 100 else _pax(name)
    return b"".join((extended, _header(name[:100], len(data), mode, REGULAR), data, _padding(len(data))))


def _padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


def _pax(name: bytes) -> bytes:
    body = b" path=" + name + b"\n"
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    record = str(length).encode() + body
    return b"".join((_header(b"PaxHeaders.0/name", len(record), 0o644, b"x"), record, _padding(len(record))))


def _header(name: bytes, size: int, mode: int, kind: bytes) -> bytes:
    size_field = b"%011o\0" % size if size < 1 << 33 else b"\x80" + size.to_bytes(11, "big")
    header = bytearray(BLOCK)
    header[0 : len(name)] = name
    header[100:108] = b"%07o\0" % mode
    header[108:116] = header[116:124] = b"0000000\0"
    header[124:136] = size_field
    header[136:148] = b"00000000000\0"
    header[148:156] = b"        "
    header[156:157] = kind
    header[257:265] = b"ustar\x0000"
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


# -- reading


@dataclass(slots=True)
class Entry:
    """What a header says: a name, the size of what follows in bytes, and the kind (`REGULAR` for a file)."""

    name: bytes
    size: int
    kind: bytes


class Reader:
    """Reads an archive that arrives in pieces. What is malformed or cut off raises BadRequest.

    `next_entry` and `read` must alternate; what is not read of an entry is passed over.
    """

    def __init__(self, pieces: Iterable[bytes | memoryview]) -> None:
        self._pieces = iter(pieces)
        self._piece = memoryview(b"")
        self._left = 0
        """Bytes of the entry, with its padding, that were not read."""
        self._defaults: dict[bytes, bytes] = {}
        """Records of global pax headers."""

    def next_entry(self) -> Entry | None:
        """The next entry, or None at the end of the archive."""
        self._skip(self._left)
        self._left = 0
        records: dict[bytes, bytes] = {}
        long_name: bytes | None = None
        while True:
            header = self._header()
            if header is None:
                if records or long_name is not None:
                    raise BadRequest("the tar archive ends after an extended header, before its file")
                return None
            size, kind = _number(header[124:136], "size"), header[156:157]
            if kind in (b"x", b"X", b"g"):
                (self._defaults if kind == b"g" else records).update(_pax_records(self._extended(size)))
            elif kind == b"L":
                long_name = self._extended(size).split(b"\0", 1)[0]
            elif kind == b"K":
                self._extended(size)
            else:
                break
        records = {**self._defaults, **records}
        name = records.get(b"path") or long_name or _name(header)
        if b"size" in records:
            size = _decimal(records[b"size"])
        if kind in (b"\0", b"7"):
            kind = REGULAR
        if kind == REGULAR and name.endswith(b"/"):
            kind = b"5"
        if kind != REGULAR and kind in b"123456":
            size = 0
        self._left = size + -size % BLOCK
        return Entry(name, size, kind)

    def read(self, found: Entry) -> bytes:
        """The content of the entry that `next_entry` has just returned."""
        data = self._take(found.size)
        self._left -= found.size
        return data

    def drain(self) -> None:
        """Read what follows the end of the archive."""
        for _ in self._pieces:
            pass

    def _header(self) -> bytes | None:
        first = self._take(BLOCK, may_end=True)
        if not first or first == _ZEROS:
            return None
        stored, summed = _number(first[148:156], "checksum"), first[:148] + b"        " + first[156:]
        unsigned = sum(summed)
        # some old programs took bytes for signed numbers
        if stored != unsigned and stored != unsigned - 256 * sum(byte > 127 for byte in summed):
            raise BadRequest("the body is not a tar archive: the checksum of a header is wrong")
        return first

    def _extended(self, size: int) -> bytes:
        if size > _EXTENDED_BYTES:
            raise BadRequest(f"an extended header of the tar archive claims {size} bytes, more than {_EXTENDED_BYTES}")
        data = self._take(size)
        self._skip(-size % BLOCK)
        return data

    def _take(self, size: int, may_end: bool = False) -> bytes:
        """The next `size` bytes; b"" if there is nothing more at all and the archive may end here."""
        if len(self._piece) >= size:
            data = bytes(self._piece[:size])
            self._piece = self._piece[size:]
            return data
        parts: list[bytes | memoryview] = []
        missing = size
        for part in self._parts(size):
            parts.append(part)
            missing -= len(part)
        if missing and not (may_end and missing == size):
            raise BadRequest(f"the tar archive is cut off: {missing} bytes are missing")
        return b"".join(parts)

    def _skip(self, size: int) -> None:
        for part in self._parts(size):
            size -= len(part)
        if size:
            raise BadRequest(f"the tar archive is cut off: {size} bytes are missing")

    def _parts(self, size: int) -> Iterator[memoryview]:
        """The next `size` bytes in parts, or fewer at the end of the stream."""
        while size:
            if not self._piece:
                piece = next(self._pieces, None)
                if piece is None:
                    return
                self._piece = memoryview(piece)
                continue
            part = self._piece[:size]
            self._piece = self._piece[len(part) :]
            size -= len(part)
            yield part


def _name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _number(text: bytes, what: str) -> int:
    """A number in octal digits, or in base 256 where the first bit is set."""
    if text[0] & 0x80:
        if text[0] != 0x80:
            raise BadRequest(f"the {what} in a header of the tar archive is negative or too large")
        return int.from_bytes(text[1:], "big")
    digits = text.strip(b" \0")
    if not digits:
        return 0
    if digits.strip(b"01234567"):
        raise BadRequest(f"the body is not a tar archive: the {what} in a header is not a number")
    return int(digits, 8)


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise BadRequest("the size in a pax header of the tar archive is not a number")
    return int(text)


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """The records `<length> <key>=<value>\\n` of a pax header."""
    records = {}
    at = 0
    while at < len(data):
        digits, space, _ = data[at : at + 20].partition(b" ")
        end = at + int(digits) if space and digits.isdigit() else at
        record = data[at + len(digits) + 1 : end]
        key, equals, value = record.partition(b"=")
        if end > len(data) or not equals or not value.endswith(b"\n"):
            raise BadRequest("the tar archive has a malformed pax header")
        records[key] = value[:-1]
        at = end
    return records
