"""Raw LZ4 blocks made piece by piece.

A raw LZ4 block (source: LZ4 `doc/lz4_Block_format.md`) is a row of sequences: a token, literals, and a match that
looks back at most 64 KiB; the last sequence has literals only. There is no streaming form of it, but blocks of
successive pieces can be joined: the last literals of one piece go in front of those of the next piece's first
sequence. So an answer that must be *one* block needs neither the whole volume nor the whole answer in memory. The
rules for the end of a block hold because they hold for the last piece, or, if that is shorter than they need, for the
one before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import lz4.block
import numpy as np
from numpy.typing import NDArray

from fascicle.errors import BadRequest
from fascicle.kernels import lz4_decoding, lz4_sequences, lz4_words
from fascicle.kernels.arrays import Buffer, frozen, frozen_bytes

PIECE_BYTES = 4 << 20
"""Pieces that are compressed at once. Matches do not reach across their borders."""


class Lz4Assembler:
    """Joins the raw LZ4 blocks of successive pieces: `feed` them, then `finish`; the returned bytes make up one block.

    Literals are held back until a match follows, so incompressible data is held in memory as a whole.
    """

    def __init__(self) -> None:
        self._literals: list[bytes | memoryview] = []
        self._held = 0

    def feed(self, data: Buffer) -> bytes:
        """Compress one more piece of any size; what of the block is settled."""
        view = memoryview(frozen_bytes(data).data)
        pieces = (view[at : at + PIECE_BYTES] for at in range(0, len(view), PIECE_BYTES))
        return b"".join(part for piece in pieces for part in self._joined(lz4.block.compress(piece, store_size=False)))

    def feed_labels(self, labels: NDArray[np.uint64], width: int) -> bytes:
        """Compress one more piece of labels u64[n], in rows of `width`; what of the block is settled."""
        return b"".join(self._joined(compress_labels(labels, width)))

    def _joined(self, compressed: bytes) -> Iterator[bytes | memoryview]:
        first, count, last_token, last = lz4_sequences.find_ends(frozen_bytes(compressed))
        view = memoryview(compressed)
        if last_token > 0:
            yield _head(self._held + count, compressed[0] & 15)
            yield from self._literals
            yield view[first:last_token]
            self._literals, self._held = [], 0
        self._literals.append(bytes(view[last:]))
        self._held += len(compressed) - last

    def finish(self) -> bytes:
        """The rest of the block."""
        rest = b"".join((_head(self._held, 0), *self._literals))
        self._literals, self._held = [], 0
        return rest


def _head(literals: int, match: int) -> bytes:
    """Token and length bytes of a sequence; `match` is the low half of the token."""
    if literals < 15:
        return bytes((literals << 4 | match,))
    more, rest = divmod(literals - 15, 255)
    return b"".join((bytes((0xF0 | match,)), b"\xff" * more, bytes((rest,))))


def compress_labels(labels: NDArray[np.uint64], width: int) -> bytes:
    """The raw LZ4 block of labels u64[n] in rows of `width`; faster and smaller than a general compressor makes it."""
    if not len(labels):
        return b"\0"
    out = np.empty(lz4_words.largest(len(labels)), np.uint8)
    return out[: lz4_words.encode(frozen(labels), width, out)].tobytes()


def compress_stream(slabs: Iterable[NDArray[np.uint64]], size_bytes: int) -> Iterator[bytes]:
    """One raw LZ4 block, in parts, of a dense volume that comes in slabs u64[z,y,x].

    ValueError at the end if the slabs did not have `size_bytes` bytes together, which a receiver relies on.
    """
    assembler = Lz4Assembler()
    done = 0
    for slab in slabs:
        flat = np.ascontiguousarray(slab).reshape(-1)
        for at in range(0, flat.size, PIECE_BYTES // 8):
            part = assembler.feed_labels(flat[at : at + PIECE_BYTES // 8], slab.shape[-1])
            if part:
                yield part
        done += flat.nbytes
    if done != size_bytes:
        raise ValueError(f"the slabs had {done} bytes, not {size_bytes}")
    yield assembler.finish()


HISTORY_BYTES = 1 << 16
"""How far back a match may reach."""

_PROBLEMS = {
    lz4_decoding.TRUNCATED: "ends inside of a sequence",
    lz4_decoding.BAD_OFFSET: "refers to what is not there",
}


def decompress_stream(block: Buffer, size_bytes: int, piece_bytes: int = PIECE_BYTES) -> Iterator[NDArray[np.uint8]]:
    """What a raw LZ4 block holds, in pieces u8 of `piece_bytes`, but for the last one, each an array of its own.

    BadRequest if the block is malformed or does not hold `size_bytes`.
    """
    data = frozen_bytes(block)
    state = np.zeros(lz4_decoding.STATE, np.int64)
    window = np.empty(0, np.uint8)
    done = 0
    while state[1] != lz4_decoding.DONE:
        # What matches may refer to lies in front of every piece, so that nothing is moved but that.
        kept = min(len(window), HISTORY_BYTES)
        before, window = window, np.empty(kept + min(piece_bytes, size_bytes - done + 1), np.uint8)
        window[:kept] = before[len(before) - kept :]
        problem, end = lz4_decoding.decode(data, state, window, kept, len(window))
        if problem:
            raise BadRequest(f"the LZ4 block of {data.size} bytes {_PROBLEMS[problem]}")
        done += end - kept
        if done > size_bytes:
            raise BadRequest(f"the LZ4 block of {data.size} bytes holds more than {size_bytes} bytes")
        yield window[kept:end]
    if done != size_bytes:
        raise BadRequest(f"the LZ4 block of {data.size} bytes holds {done} bytes instead of {size_bytes}")
