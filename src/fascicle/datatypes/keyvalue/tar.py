"""Tar archives of values.

Headers are those of ustar (POSIX.1-1988), with pax headers (POSIX.1-2001) for names that do not fit.
"""

from __future__ import annotations

BLOCK = 512
END = bytes(2 * BLOCK)


def entry(name: bytes, data: bytes, mode: int = 0o755) -> bytes:
    """A regular file of user 0 and time 0."""
    extended = b"" if len(name) <= 100 else _pax(name)
    return b"".join((extended, _header(name[:100], len(data), mode, b"0"), data, _padding(len(data))))


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
