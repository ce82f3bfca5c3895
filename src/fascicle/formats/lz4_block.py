"""One raw LZ4 block made piece by piece, so that volumes of any size stream in bounded memory.

Format: the LZ4 project's `lz4_Block_format.md`. An LZ4 block is a list of sequences, each some literals and a match;
the last one has literals only. Pieces are compressed on their own; of all but the last, the closing literals are held back
and put before the first literals of the next piece. A match never reaches further back than its own piece, so offsets
stay right, and the rules about the end of a block hold because they hold for the last piece.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import lz4.block

from fascicle.kernels import lz4_tokens
from fascicle.kernels.arrays import frozen_bytes

PIECE_BYTES = 32 << 20
"""Most bytes compressed at a time."""


def _length(nibble_base: int, length: int) -> tuple[int, bytes]:
    """(nibble of the token, the bytes that follow it) of a length."""
    rest = length - nibble_base
    if rest < 15:
        return rest, b""
    return 15, b"\xff" * ((rest - 15) // 255) + bytes(((rest - 15) % 255,))


class Lz4Assembler:
    """Feed dense bytes in pieces, get parts of one LZ4 block; `finish` gives the last part."""

    def __init__(self) -> None:
        self._literals = b""
        """Held back from the pieces so far."""

    def feed(self, dense: Any) -> bytes:
        """The part of the block that is settled once `dense` (bytes-like, not empty) has come."""
        if not len(dense):
            return b""
        packed = lz4.block.compress(dense, store_size=False)
        count, first_at, last_token, last_at = lz4_tokens.first_and_last(frozen_bytes(packed))
        if last_token == 0:
            # Nothing repeats: literals cannot be sent before the match that ends their sequence.
            self._literals += packed[last_at:]
            return b""
        held, self._literals = self._literals, packed[last_at:]
        if not held:
            return bytes(packed[:last_token])
        nibble, extra = _length(0, len(held) + count)
        token = nibble << 4 | packed[0] & 15
        return b"".join((bytes((token,)), extra, held, memoryview(packed)[first_at:last_token]))

    def finish(self) -> bytes:
        """The closing sequence."""
        nibble, extra = _length(0, len(self._literals))
        last = bytes((nibble << 4,)) + extra + self._literals
        self._literals = b""
        return last


def compress_stream(pieces: Iterable[Any], total_bytes: int) -> Iterator[bytes]:
    """Parts of one raw LZ4 block of all pieces (C-contiguous arrays or bytes) put together.

    `total_bytes` is their sum, which must be at least 1.
    """
    assembler = Lz4Assembler()
    fed = 0
    for piece in pieces:
        view = memoryview(piece).cast("B")
        for start in range(0, len(view), PIECE_BYTES):
            part = assembler.feed(view[start : start + PIECE_BYTES])
            if part:
                yield part
        fed += len(view)
    assert fed == total_bytes, f"{fed} bytes came where {total_bytes} were announced"
    yield assembler.finish()
