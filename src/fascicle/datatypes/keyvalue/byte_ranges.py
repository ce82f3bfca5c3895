"""Parts of values: the header `Range` (RFC 9110, section 14) and the options `byte_start` and `byte_end`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fascicle.errors import BadRequest, RangeNotSatisfiable

_RANGE = re.compile(r"bytes=\s*(\d*)-(\d*)\s*")


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes from `first` to `last`, both included."""

    first: int
    last: int

    def of(self, value: bytes) -> bytes:
        return value[self.first : self.last + 1]


def strict(first: int, last: int, size: int) -> ByteRange:
    """A range that must lie inside of a value of `size` bytes. Raises BadRequest."""
    if first > last:
        raise BadRequest(f"byte range {first} to {last} ends before it starts")
    if first < 0 or last >= size:
        raise BadRequest(f"byte range {first} to {last} lies outside of the value of {size} bytes")
    return ByteRange(first, last)


def from_options(start: str | None, end: str | None, size: int) -> ByteRange | None:
    """The range of `byte_start` and `byte_end`, None if neither is given. Raises BadRequest."""
    if start is None and end is None:
        return None
    if start is None or end is None:
        raise BadRequest("'byte_start' and 'byte_end' must be given together")
    try:
        first, last = int(start), int(end)
    except ValueError:
        raise BadRequest(f"'byte_start' and 'byte_end' must be whole numbers, not {start!r} and {end!r}") from None
    return strict(first, last, size)


def from_header(header: str, size: int) -> ByteRange | None:
    """The range of a header, None if it is not one range of bytes. Raises RangeNotSatisfiable."""
    match = _RANGE.fullmatch(header)
    if match is None or not (match[1] or match[2]):
        return None
    unsatisfiable = RangeNotSatisfiable(f"range {header!r} lies outside of the value of {size} bytes", size)
    if not match[1]:
        length = min(int(match[2]), size)
        if length == 0:
            raise unsatisfiable
        return ByteRange(size - length, size - 1)
    first = int(match[1])
    if match[2] and int(match[2]) < first:
        return None
    if first >= size:
        raise unsatisfiable
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    return ByteRange(first, last)
