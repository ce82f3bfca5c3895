"""Annotations and schema documents in the store, and the lists of what changed that caches follow.

    class 1: body u64 [| version]                            -> document in normal form
    class 2: name as text key [| version]                    -> bytes as they were posted
    class 3: sequence u64 | version u32                      -> bodies that one change wrote, u64[n] (big-endian)
    class 4: version u32 | body u64                          -> empty: the body was written or deleted in this version

Classes 1 and 2 are versioned by the key layout. Class 3 answers "what is new since I looked?" for any version; its
oldest rows are given up, and who has looked before those has to read everything again. Class 4 answers "what does this
version have that its parent has not?".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fascicle.store.base import ReadTransaction, WriteTransaction
from fascicle.versions import keys
from fascicle.versions.resolution import VersionedView

ANNOTATIONS = 1
DOCUMENTS = 2
CHANGES = 3
CHANGED = 4

JSON_SCHEMA, SCHEMA, SCHEMA_BATCH = "json_schema", "schema", "schema_batch"

KEPT_CHANGES = 1 << 14
"""Rows of class 3 that are kept."""
_TRIMMED_EVERY = 256

_BODY = struct.Struct(">Q")
_CHANGE = struct.Struct(">QI")
_CHANGED = struct.Struct(">IQ")

U64 = NDArray[np.uint64]

body_key = _BODY.pack


def get(view: VersionedView, body: int) -> bytes | None:
    """The document of a body, or None."""
    return view.get(ANNOTATIONS, body_key(body))


def exists(view: VersionedView, body: int) -> bool:
    return view.handle(ANNOTATIONS, body_key(body)) is not None


def many(view: VersionedView, bodies: Iterable[int]) -> Iterator[bytes | None]:
    """The documents of bodies in the order given, None for each that is not there."""
    for handle in view.handles(ANNOTATIONS, map(body_key, bodies)):
        yield None if handle is None else view.load(handle)


def batches(view: VersionedView, first: int = 0, last: int = (1 << 64) - 1) -> Iterator[tuple[U64, list[bytes]]]:
    """(bodies u64[n], handles) from `first` to `last`, both included, ascending."""
    stop = None if last == (1 << 64) - 1 else body_key(last + 1)
    for batch in view.scan_batches(ANNOTATIONS, body_key(first), stop):
        bodies = np.frombuffer(b"".join([key for key, _ in batch]), ">u8").astype(np.uint64)
        yield bodies, [handle for _, handle in batch]


def put(view: VersionedView, documents: Sequence[tuple[int, bytes | None]]) -> None:
    """Store the documents of bodies, or tombstones for None, as one change."""
    if not documents:
        return
    for body, document in documents:
        if document is None:
            view.delete(ANNOTATIONS, body_key(body))
        else:
            view.put(ANNOTATIONS, body_key(body), document)
    note_changes(view, [body for body, _ in documents])


def note_changes(view: VersionedView, bodies: Sequence[int]) -> None:
    """Tell caches that the documents of bodies have been written at the view's version."""
    txn = view.txn
    assert isinstance(txn, WriteTransaction), "changes are noted where they are made"
    version = view.ancestry.version
    sequence = last_change(txn, view.instance_id) + 1
    prefix = keys.prefix(view.instance_id, CHANGES)
    txn.put(prefix + _CHANGE.pack(sequence, version), np.array(bodies, ">u8").tobytes())
    changed = keys.prefix(view.instance_id, CHANGED)
    for body in bodies:
        txn.put(changed + _CHANGED.pack(version, body), b"")
    if sequence % _TRIMMED_EVERY == 0 and sequence > KEPT_CHANGES:
        txn.delete_range(prefix, prefix + _BODY.pack(sequence - KEPT_CHANGES))


def note_all_changes(view: VersionedView) -> None:
    """The same for all annotations that are stored at the view's version, by whomever."""
    prefix = keys.prefix(view.instance_id, ANNOTATIONS)
    version = view.ancestry.version.to_bytes(keys.VERSION_BYTES, "big")
    found = [key for key in view.txn.scan_keys(prefix, keys.after(prefix)) if key[-keys.VERSION_BYTES :] == version]
    if found:
        note_changes(view, [_BODY.unpack_from(key, keys.PREFIX_BYTES)[0] for key in found])


# -- for caches


def last_change(txn: ReadTransaction, instance_id: int) -> int:
    """The number of the last change of an instance, 0 if there was none."""
    prefix = keys.prefix(instance_id, CHANGES)
    last = txn.last(prefix, keys.after(prefix))
    return 0 if last is None else _CHANGE.unpack(last[0][keys.PREFIX_BYTES :])[0]


def changes_since(view: VersionedView, sequence: int) -> set[int] | None:
    """Bodies that changes behind `sequence` wrote in the view's version or an ancestor; None if too much is gone."""
    txn = view.txn
    prefix = keys.prefix(view.instance_id, CHANGES)
    found: set[int] = set()
    expected = sequence + 1
    for key, row in txn.scan(prefix + _BODY.pack(expected), keys.after(prefix)):
        number, version = _CHANGE.unpack(key[keys.PREFIX_BYTES :])
        if number > expected and expected == sequence + 1:
            return None
        expected = number + 1
        if view.ancestry.contains(version):
            found.update(np.frombuffer(row, ">u8").tolist())
    return found


def changed_in(view: VersionedView, version: int) -> list[int]:
    """Bodies that were written or deleted in one version."""
    prefix = keys.prefix(view.instance_id, CHANGED) + version.to_bytes(keys.VERSION_BYTES, "big")
    found = list(view.txn.scan_keys(prefix, keys.after(prefix)))
    return [int.from_bytes(key[-8:], "big") for key in found]


# -- documents beside the annotations


def document(view: VersionedView, name: str) -> bytes | None:
    return view.get(DOCUMENTS, keys.text_key(name.encode()))


def has_document(view: VersionedView, name: str) -> bool:
    return view.handle(DOCUMENTS, keys.text_key(name.encode())) is not None


def put_document(view: VersionedView, name: str, body: bytes) -> None:
    view.put(DOCUMENTS, keys.text_key(name.encode()), body)


def delete_document(view: VersionedView, name: str) -> None:
    view.delete(DOCUMENTS, keys.text_key(name.encode()))
