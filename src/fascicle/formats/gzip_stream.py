"""Bytes as one gzip stream, the same for the same bytes.

Source: RFC 1952. The one-shot call of the package isal is a tenth faster, but what it makes depends at its levels 1 and
2 on memory that it does not clear: now and then a stream differs in a few bytes from one call to the next. What is
compared, named by a checksum or written again after a crash must come from here.
"""

from __future__ import annotations

from isal import isal_zlib

from fascicle.kernels.arrays import Buffer

USUAL_LEVEL = 2
_WINDOW_WITH_HEADER = 31


def gzipped(data: Buffer, level: int = USUAL_LEVEL) -> bytes:
    """A gzip stream without a time; `level` from 0, fast, to 3."""
    packer = isal_zlib.compressobj(level, isal_zlib.DEFLATED, _WINDOW_WITH_HEADER)
    head: bytes = packer.compress(data)
    return head + packer.flush() if head else packer.flush()
