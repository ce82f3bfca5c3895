"""Keys of any length as type keys of the store, in the same order.

A short key is `keys.text_key` of its bytes. Of a long one the type key has only the first bytes, then 0x00 0x02, then
a digest of all of them; the whole key stands before the value. Long keys that begin alike lie side by side, in the
order of their digests: who lists them sorts such a group.
"""

from __future__ import annotations

import hashlib

from fascicle.versions import keys

VALUES = 1
"""The class of keys of values."""

LONGEST = 400
"""Bytes of an escaped key that are kept as they are."""

_LONG = b"\x00\x02"
_DIGEST_BYTES = 16
_LENGTH_BYTES = 4


def encoded(text: str) -> bytes:
    """A key of a request as bytes; what was not UTF-8 in the URL comes back as it was."""
    return text.encode("utf-8", "surrogateescape")


def shown(key: bytes) -> str:
    """A key as text for JSON, with replacement characters for what is not UTF-8."""
    return key.decode("utf-8", "replace")


def _cut(escaped: bytes) -> bytes:
    """The first bytes of an escaped key, not ending within an escaped zero."""
    head = escaped[:LONGEST]
    if head[-1] == 0 and escaped[LONGEST] == 0xFF:
        return head[:-1]
    return head


def type_key(key: bytes) -> bytes:
    """The type key of a key."""
    if len(key) <= LONGEST and b"\x00" not in key:
        return key + b"\x00\x01"
    short = keys.text_key(key)
    if len(short) <= LONGEST + 2:
        return short
    return _cut(short[:-2]) + _LONG + hashlib.blake2b(key, digest_size=_DIGEST_BYTES).digest()


def all_short(names: list[bytes]) -> list[bytes] | None:
    """The type keys of many keys if all of them are stored as they are; else None."""
    if max(map(len, names), default=0) > LONGEST or b"\x00" in b"".join(names):
        return None
    return [name + b"\x00\x01" for name in names]


def is_long(type_key: bytes) -> bool:
    """Whether a type key stands for a long key."""
    return _LONG in type_key


def any_long(batch: list[tuple[bytes, bytes]]) -> bool:
    """Whether one of many (type key, handle) stands for a long key; in type keys 0x00 comes before 0x01, 0x02, 0xff."""
    return has_long([type_key for type_key, _ in batch])


def has_long(type_keys: list[bytes]) -> bool:
    """Whether one of many type keys stands for a long key."""
    return _LONG in b"".join(type_keys)


def short_keys(batch: list[tuple[bytes, bytes]]) -> list[bytes]:
    """The keys of many (type key, handle), none of them long."""
    cut = [type_key[:-2] for type_key, _ in batch]
    if b"\x00" in b"".join(cut):
        return [key.replace(b"\x00\xff", b"\x00") for key in cut]
    return cut


def group(type_key: bytes) -> bytes:
    """What the type keys of long keys that begin alike have in common."""
    return type_key[:-_DIGEST_BYTES]


def first_from(key: bytes) -> bytes:
    """A bound below the type keys of `key` and of all that follow it."""
    found = type_key(key)
    return group(found) if is_long(found) else found


def first_after(key: bytes) -> bytes:
    """A bound above the type keys of `key` and of all that precede it."""
    found = type_key(key)
    return keys.after(group(found)) if is_long(found) else keys.after(found)


def wrapped(key: bytes, type_key: bytes, value: bytes) -> bytes:
    """A value as it is stored: behind its key if that is a long one."""
    if not is_long(type_key):
        return value
    return b"".join((len(key).to_bytes(_LENGTH_BYTES, "big"), key, value))


def unwrapped(type_key: bytes, stored: bytes) -> tuple[bytes, bytes]:
    """Key and value from what is stored."""
    if not is_long(type_key):
        return keys.text_of_key(type_key), stored
    length = int.from_bytes(stored[:_LENGTH_BYTES], "big")
    return stored[_LENGTH_BYTES : _LENGTH_BYTES + length], stored[_LENGTH_BYTES + length :]
