"""Gzip answers from stored label blocks without inflating them, and columns out of many stored blocks at once.

The stored form is described in `fascicle.formats.label_block`: header of 24 bytes, table, counts, raw deflate stream
of the rest, in blocks of version 2 eight marks.
`buffer`, `offsets` and `lengths` are those of a batch of values; each value begins with `skip` bytes that are not ours,
and a length of -1 marks a missing value.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fascicle.kernels.memory import copy_bytes, load_u32, load_u64, store_u16, store_u32, store_u64

POLYNOMIAL = 0xEDB88320
STORED_VERSION = 1
MARKED_VERSION = 2
"""Of stored blocks that end with marks."""
STORED_HEADER = 24
MARKS_BYTES = 64


def _crc_tables() -> np.ndarray[tuple[int, int], np.dtype[np.uint32]]:
    """Tables of the slicing-by-8 CRC-32."""
    tables = np.zeros((8, 256), np.uint32)
    for i in range(256):
        value = i
        for _ in range(8):
            value = (value >> 1) ^ (POLYNOMIAL if value & 1 else 0)
        tables[0, i] = value
    for i in range(256):
        for k in range(1, 8):
            before = int(tables[k - 1, i])
            tables[k, i] = int(tables[0, before & 255]) ^ (before >> 8)
    return tables


_TABLES = _crc_tables()


@njit(cache=True, nogil=True)
def crc32(data, at, size):  # type: ignore[no-untyped-def]
    """CRC-32 (IEEE) of data[at : at + size]."""
    crc = np.uint64(0xFFFFFFFF)
    ones = np.uint64(255)
    end = at + size
    while at + 8 <= end:
        word = load_u64(data, at) ^ crc
        crc = np.uint64(
            _TABLES[7, np.int64(word & ones)]
            ^ _TABLES[6, np.int64((word >> np.uint64(8)) & ones)]
            ^ _TABLES[5, np.int64((word >> np.uint64(16)) & ones)]
            ^ _TABLES[4, np.int64((word >> np.uint64(24)) & ones)]
            ^ _TABLES[3, np.int64((word >> np.uint64(32)) & ones)]
            ^ _TABLES[2, np.int64((word >> np.uint64(40)) & ones)]
            ^ _TABLES[1, np.int64((word >> np.uint64(48)) & ones)]
            ^ _TABLES[0, np.int64(word >> np.uint64(56))]
        )
        at += 8
    while at < end:
        crc = np.uint64(_TABLES[0, np.int64((crc ^ np.uint64(data[at])) & ones)]) ^ (crc >> np.uint64(8))
        at += 1
    return np.uint32(crc ^ np.uint64(0xFFFFFFFF))


@njit(cache=True, nogil=True)
def multiply(a, b):  # type: ignore[no-untyped-def]
    """Product of two polynomials modulo the CRC's, bits reversed as in the CRC (x^0 is the top bit)."""
    product = np.uint64(0)
    factor = np.uint64(b)
    left = np.uint64(a)
    for i in range(32):
        product ^= factor & (np.uint64(0) - ((left >> np.uint64(31 - i)) & np.uint64(1)))
        factor = (factor >> np.uint64(1)) ^ (np.uint64(POLYNOMIAL) & (np.uint64(0) - (factor & np.uint64(1))))
    return np.uint32(product)


@njit(cache=True, nogil=True)
def shift_operator(size):  # type: ignore[no-untyped-def]
    """x^(8 size) modulo the polynomial: what a CRC is multiplied with when `size` bytes follow."""
    result = np.uint32(0x80000000)
    power = np.uint32(0x00800000)
    while size > 0:
        if size & 1:
            result = multiply(result, power)
        power = multiply(power, power)
        size >>= 1
    return result


@njit(cache=True, nogil=True)
def is_sound(buffer, at, size):  # type: ignore[no-untyped-def]
    """Whether a stored block at bytes [at, at + size) has a header that fits its length."""
    if size < STORED_HEADER:
        return False
    n = np.int64(load_u32(buffer, at + 4))
    end = STORED_HEADER + 12 * n + np.int64(load_u32(buffer, at + 20))
    if buffer[at] == MARKED_VERSION:
        end += MARKS_BYTES
    elif buffer[at] != STORED_VERSION:
        return False
    return n >= 1 and size == end


@njit(cache=True, nogil=True)
def gzip_size(n, deflated):  # type: ignore[no-untyped-def]
    """Length of the gzip of a block with n table entries whose deflated rest has `deflated` bytes."""
    prefix = 16 + 8 * n
    return 10 + 5 * ((prefix + 65534) // 65535) + prefix + deflated + 8


@njit(cache=True, nogil=True)
def write_gzip(buffer, at, table, table_at, out, to):  # type: ignore[no-untyped-def]
    """Write the gzip of the stored block at `at`, its table taken from byte `table_at` of `table`; returns its end."""
    n = np.int64(load_u32(buffer, at + 4))
    rest = np.int64(load_u32(buffer, at + 8))
    deflated = np.int64(load_u32(buffer, at + 20))
    store_u64(out, to, 0x0000000000088B1F)
    store_u16(out, to + 8, 0xFF00)
    to += 10
    prefix = np.empty(16 + 8 * n, np.uint8)
    for axis in range(3):
        store_u32(prefix, 4 * axis, np.uint32(buffer[at + 1 + axis]))
    store_u32(prefix, 12, np.uint32(n))
    copy_bytes(prefix, 16, table, table_at, 8 * n)
    done = 0
    while done < prefix.size:
        part = min(prefix.size - done, 65535)
        final = 1 if (deflated == 0 and done + part == prefix.size) else 0
        out[to] = final
        store_u16(out, to + 1, part)
        store_u16(out, to + 3, 65535 - part)
        copy_bytes(out, to + 5, prefix, done, part)
        to += 5 + part
        done += part
    copy_bytes(out, to, buffer, at + STORED_HEADER + 12 * n, deflated)
    to += deflated
    crc = crc32(prefix, 0, prefix.size)
    if deflated > 0:
        crc = multiply(crc, load_u32(buffer, at + 16)) ^ load_u32(buffer, at + 12)
    store_u32(out, to, crc)
    store_u32(out, to + 4, np.uint32((prefix.size + rest) & 0xFFFFFFFF))
    return to + 8


@njit(cache=True, nogil=True)
def block_stream(buffer, offsets, lengths, skip, coordinates, tables, starts, mapped):  # type: ignore[no-untyped-def]
    """Records (i32 x, y, z, u32 size, gzip) of many stored blocks, u8; missing values give no record.

    If `mapped`, block i gets the table tables[starts[i] : starts[i + 1]] in place of its own. Returns (problem,
    bytes): problem is 0, or 1 + the number of the damaged value.
    """
    total = np.int64(0)
    for i in range(offsets.size):
        if lengths[i] < 0:
            continue
        at = offsets[i] + skip
        if not is_sound(buffer, at, lengths[i] - skip):
            return i + 1, np.empty(0, np.uint8)
        n = np.int64(load_u32(buffer, at + 4))
        if mapped and starts[i + 1] - starts[i] != n:
            return i + 1, np.empty(0, np.uint8)
        total += 16 + gzip_size(n, np.int64(load_u32(buffer, at + 20)))
    out = np.empty(total, np.uint8)
    to = 0
    for i in range(offsets.size):
        if lengths[i] < 0:
            continue
        at = offsets[i] + skip
        if mapped:
            end = write_gzip(buffer, at, tables, 8 * starts[i], out, to + 16)
        else:
            end = write_gzip(buffer, at, buffer, at + STORED_HEADER, out, to + 16)
        for axis in range(3):
            store_u32(out, to + 4 * axis, np.uint32(coordinates[i, axis]))
        store_u32(out, to + 12, np.uint32(end - to - 16))
        to = end
    return 0, out


@njit(cache=True, nogil=True)
def gather(buffer, offsets, lengths, skip, starts):  # type: ignore[no-untyped-def]
    """Tables u64 and counts u32 of many stored blocks, one after the other; `starts` i64[n + 1] is filled.

    Returns (problem, tables, counts) with the problem as in `block_stream`; missing values have no entries.
    """
    total = np.int64(0)
    starts[0] = 0
    none = np.empty(0, np.uint64)
    for i in range(offsets.size):
        if lengths[i] >= 0:
            at = offsets[i] + skip
            if not is_sound(buffer, at, lengths[i] - skip):
                return i + 1, none, np.empty(0, np.uint32)
            total += np.int64(load_u32(buffer, at + 4))
        starts[i + 1] = total
    tables = np.empty(total, np.uint64)
    counts = np.empty(total, np.uint32)
    for i in range(offsets.size):
        n = starts[i + 1] - starts[i]
        if n > 0:
            at = offsets[i] + skip + STORED_HEADER
            copy_bytes(tables, 8 * starts[i], buffer, at, 8 * n)
            copy_bytes(counts, 4 * starts[i], buffer, at + 8 * n, 4 * n)
    return 0, tables, counts
