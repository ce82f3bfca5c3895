"""Content-addressed blobs: a reference is the 128-bit FNV-1 hash of the bytes, in URL-safe base64."""

from __future__ import annotations

import base64
import binascii

from fascicle.errors import BadRequest
from fascicle.store.base import ReadTransaction, WriteTransaction
from fascicle.versions import keys
from fascicle.versions.catalog import BLOBS

_OFFSET = 0x6C62272E07BB014262B821756295C58D
_PRIME = 0x1000000000000000000013B
_MASK = (1 << 128) - 1
_COMPILED_FROM = 2048
"""Bytes from which on a compiled loop is worth loading; large sparse volumes are hashed in write transactions."""
_PREFIX = keys.prefix(keys.CATALOG, BLOBS)


def fnv1_128(data: bytes) -> bytes:
    """FNV-1 (multiply, then xor) with 128 bits, big-endian."""
    if len(data) > _COMPILED_FROM:
        from fascicle.kernels import fnv

        return fnv.fnv1_128(data, _OFFSET)
    value = _OFFSET
    for byte in data:
        value = ((value * _PRIME) & _MASK) ^ byte
    return value.to_bytes(16, "big")


def put(txn: WriteTransaction, data: bytes) -> str:
    """Store bytes; the reference to get them by."""
    digest = fnv1_128(data)
    if txn.handle(_PREFIX + digest) is None:
        txn.put(_PREFIX + digest, data)
    return base64.urlsafe_b64encode(digest).decode()


def get(txn: ReadTransaction, reference: str) -> bytes | None:
    """The bytes of a reference, or None. Raises BadRequest if it is not one."""
    try:
        digest = base64.b64decode(reference.encode(), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        digest = b""
    if len(digest) != 16:
        raise BadRequest(f'bad GET BLOB for blob store: reference "{reference}" is not base64 of 16 bytes')
    return txn.get(_PREFIX + digest)
