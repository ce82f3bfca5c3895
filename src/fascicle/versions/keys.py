"""Layout of keys in the store.

    instance u32 | class u8 | type key ... [| version u32]        (big-endian)

so the stored versions of one key lie together, ascending, and a range of type keys is one scan. Type keys of one class
have one length, or end in a terminator that makes them prefix-free. Classes that are not versioned (immutable pages,
logs) leave out the version. Instance 0 belongs to the catalog of repos, nodes and instances.
"""

from __future__ import annotations

import struct

CATALOG = 0

_PREFIX = struct.Struct(">IB")
_VERSION = struct.Struct(">I")
VERSION_BYTES = 4
PREFIX_BYTES = 5


def prefix(instance_id: int, key_class: int) -> bytes:
    """The first five bytes of all keys of one class of one instance."""
    return _PREFIX.pack(instance_id, key_class)


def after(key: bytes) -> bytes:
    """The least byte string that is greater than every string that starts with `key`."""
    stripped = key.rstrip(b"\xff")
    if not stripped:
        return b"\xff" * (len(key) + 1)
    return stripped[:-1] + bytes((stripped[-1] + 1,))


def with_version(key: bytes, version: int) -> bytes:
    return key + _VERSION.pack(version)


def version_of(key: bytes) -> int:
    return int.from_bytes(key[-4:], "big")


def without_version(key: bytes) -> bytes:
    return key[:-4]


def text_key(text: bytes) -> bytes:
    """A byte string of any length and content as a prefix-free type key that sorts in the same order.

    0x00 becomes 0x00 0xff and the end is marked by 0x00 0x01.
    """
    return text.replace(b"\x00", b"\x00\xff") + b"\x00\x01"


def text_of_key(key: bytes) -> bytes:
    """The byte string that `text_key` encoded."""
    return key[:-2].replace(b"\x00\xff", b"\x00")
