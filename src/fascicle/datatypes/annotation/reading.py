"""Reading elements by box, by block, by body and by tag, as pieces of JSON.

Elements are stored as they are sent, so answers are put together from slices. Order: by block (z, y, x) and inside of a
block by position (z, y, x); of a body by supervoxel, then position; of a tag by position.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress

import msgspec
import numpy as np

from fascicle.datatypes.annotation import lists
from fascicle.datatypes.annotation.elements import Partner, decode_stored
from fascicle.datatypes.annotation.layout import (
    BLOCK_BYTES,
    ELEMENT_HEAD,
    ELEMENTS,
    EMPTIED,
    INT32_MAX,
    INT32_MIN,
    TAGS,
    Triple,
    block_key,
    block_of_key,
    element_key,
    element_keys,
    full_texts,
    nr_texts,
    positions_of,
    positions_of_entries,
    tag_prefix,
    value_of,
    z_key,
)
from fascicle.datatypes.annotation.segmentation import Segmentation
from fascicle.versions import keys
from fascicle.versions.resolution import VersionedView, is_tombstone

_encode = msgspec.json.Encoder(order="deterministic").encode
Row = tuple[bytes, bytes]
Rows = list[Row]

_GATHERED = 1024
"""Rows of a box are given out in lists of about this many."""


@dataclass(frozen=True, slots=True)
class Box:
    """Voxels or blocks, x, y, z, ends inclusive; empty if one end lies before the other."""

    low: Triple
    high: Triple

    @classmethod
    def of(cls, size: Triple, offset: Triple) -> Box:
        """The voxels that a size and an offset name, within int32."""
        high = [min(o + s - 1, INT32_MAX) for o, s in zip(offset, size, strict=True)]
        return cls(offset, (high[0], high[1], high[2]))

    @property
    def is_empty(self) -> bool:
        return any(a > b for a, b in zip(self.low, self.high, strict=True))

    def blocks(self, size: Triple) -> Box:
        """The blocks that it touches."""
        low = [c // s for c, s in zip(self.low, size, strict=True)]
        high = [c // s for c, s in zip(self.high, size, strict=True)]
        return Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))


# -- rows


def rows_in_blocks(view: VersionedView, box: Box, key_class: int = ELEMENTS) -> Iterator[Rows]:
    """(key, handle) of the rows in a box of blocks, in key order, in lists. Space without rows costs nothing."""
    (x0, _, _), (x1, _, _) = box.low, box.high
    gathered: Rows = []
    for y, z in _rows_of_blocks(view, box, key_class):
        for batch in view.scan_batches(key_class, block_key(x0, y, z), keys.after(block_key(x1, y, z))):
            gathered += batch
            if len(gathered) >= _GATHERED:
                yield gathered
                gathered = []
    if gathered:
        yield gathered


def _rows_of_blocks(view: VersionedView, box: Box, key_class: int) -> Iterator[tuple[int, int]]:
    """(y, z) of the rows of blocks along x in which a box of blocks has something, ascending by z, then y."""
    if box.is_empty:
        return
    (x0, y0, z0), (x1, y1, z1) = box.low, box.high
    prefix = keys.prefix(view.instance_id, key_class)
    stop = prefix + keys.after(block_key(x1, y1, z1))
    z, y = z0, y0
    while z <= z1:
        found = next(view.txn.scan_keys(prefix + block_key(x0, y, z), stop), None)
        if found is None:
            return
        kx, ky, kz = block_of_key(found[keys.PREFIX_BYTES : keys.PREFIX_BYTES + BLOCK_BYTES])
        if (kz, ky) != (z, y):  # nothing in this row of blocks: go on where there is something
            z, y = (kz, y0) if ky < y0 else (kz + 1, y0) if ky > y1 else (kz, ky)
            if ky < y0 or ky > y1 or kx < x0:
                continue
        if kx <= x1:
            yield y, z
        y += 1
        if y > y1:
            z, y = z + 1, y0


def _entries_in_box(view: VersionedView, box: Box, size: Triple) -> Iterator[Sequence[Row]]:
    """Entries (whole key, handle) among which all elements of a box of voxels are, few others, and tombstones.

    Inside of a block elements are in the order of z, so where a box covers a part of a block's z only, that is read.
    """
    blocks = box.blocks(size)
    (x0, _, _), (x1, _, _) = blocks.low, blocks.high
    prefix = keys.prefix(view.instance_id, ELEMENTS)
    for y, z in _rows_of_blocks(view, blocks, ELEMENTS):
        low, high = max(box.low[2], z * size[2]), min(box.high[2], (z + 1) * size[2] - 1)
        if high - low + 1 == size[2]:
            yield from view.scan_entries(ELEMENTS, block_key(x0, y, z), keys.after(block_key(x1, y, z)))
            continue
        x, stop = x0, prefix + keys.after(block_key(x1, y, z))
        while x <= x1:
            start = block_key(x, y, z) + z_key(low)
            found = next(view.txn.scan_keys(prefix + start, stop), None)
            if found is None:
                break
            kx = block_of_key(found[keys.PREFIX_BYTES : keys.PREFIX_BYTES + BLOCK_BYTES])[0]
            if kx != x:
                x = kx
                continue
            yield from view.scan_entries(ELEMENTS, start, keys.after(block_key(x, y, z) + z_key(high)))
            x += 1


def _gathered(parts: Iterator[Sequence[Row]]) -> Iterator[list[Row]]:
    """The same in longer lists."""
    gathered: list[Row] = []
    for part in parts:
        gathered += part
        if len(gathered) >= _GATHERED:
            yield gathered
            gathered = []
    if gathered:
        yield gathered


def handles_in_box(view: VersionedView, box: Box, size: Triple) -> Iterator[list[bytes]]:
    """Handles of the elements at positions in a box of voxels."""
    low, high = np.array(box.low), np.array(box.high)
    for entries in _gathered(_entries_in_box(view, box, size)):
        xyz = positions_of_entries([key for key, _ in entries])
        inside = np.asarray(((xyz >= low) & (xyz <= high)).all(axis=1)).tolist()
        yield [handle for _, handle in compress(entries, inside) if not is_tombstone(handle)]


def rows_in_box(view: VersionedView, box: Box, size: Triple) -> Iterator[Rows]:
    """(key, handle) of the elements at positions in a box of voxels."""
    low, high = np.array(box.low), np.array(box.high)
    for rows in rows_in_blocks(view, box.blocks(size)):
        xyz = positions_of([key for key, _ in rows])
        inside = np.asarray(((xyz >= low) & (xyz <= high)).all(axis=1)).tolist()
        yield list(compress(rows, inside))


# -- forms


def as_list(texts: Iterable[list[bytes]], nothing: bytes) -> Iterator[bytes]:
    """A JSON list of elements given in lists of their JSON; `nothing` if there are none."""
    separator = b"["
    for part in texts:
        if part:
            yield separator + b",".join(part)
            separator = b","
    yield nothing if separator == b"[" else b"]"


def in_box(view: VersionedView, box: Box, size: Triple) -> Iterator[bytes]:
    return as_list((full_texts(view, handles) for handles in handles_in_box(view, box, size)), b"null")


def in_spans(view: VersionedView, spans: Iterable[Box]) -> Iterator[bytes]:
    """The elements of all blocks in boxes of blocks, box by box."""
    found = (rows for box in spans for rows in rows_in_blocks(view, box))
    return as_list((full_texts(view, [h for _, h in rows]) for rows in found), b"null")


def by_block(view: VersionedView, box: Box | None) -> Iterator[bytes]:
    """A JSON object of the elements of blocks, by "x,y,z"; of all blocks without a box."""
    if box is None:
        rows: Iterator[Rows] = view.scan_batches(ELEMENTS)
        emptied = iter(emptied_blocks(view, b"", None))
    else:
        rows = rows_in_blocks(view, box)
        (x0, _, _), (x1, _, _) = box.low, box.high
        rows_of_blocks = _rows_of_blocks(view, box, EMPTIED)
        ranges = [(block_key(x0, y, z), keys.after(block_key(x1, y, z))) for y, z in rows_of_blocks]
        emptied = iter([block for start, stop in ranges for block in emptied_blocks(view, start, stop)])
    return _blocks(view, rows, emptied)


def _blocks(view: VersionedView, found: Iterator[Rows], emptied: Iterator[bytes]) -> Iterator[bytes]:
    current = b""
    waiting = next(emptied, None)
    opening = b"{"
    for rows in found:
        parts: list[bytes] = []
        texts = full_texts(view, [handle for _, handle in rows])
        for (key, _), text in zip(rows, texts, strict=True):
            if key.startswith(current) and current:
                parts += (b",", text)
                continue
            if current:
                parts.append(b"]")
            current = key[:BLOCK_BYTES]
            while waiting is not None and waiting <= current:
                if waiting != current:
                    parts.append(b'%s"%d,%d,%d":[]' % (opening, *block_of_key(waiting)))
                    opening = b","
                waiting = next(emptied, None)
            parts += (b'%s"%d,%d,%d":[' % (opening, *block_of_key(current)), text)
            opening = b","
        yield b"".join(parts)
    parts = [b"]"] if current else []
    while waiting is not None:
        parts.append(b'%s"%d,%d,%d":[]' % (opening, *block_of_key(waiting)))
        opening = b","
        waiting = next(emptied, None)
    parts.append(b"{}" if opening == b"{" else b"}")
    yield b"".join(parts)


# -- bodies and tags


def rows_of_tag(view: VersionedView, tag: str) -> Iterator[Rows]:
    first = tag_prefix(tag)
    return view.scan_batches(TAGS, first, keys.after(first))


def of_body(
    view: VersionedView, segmentation: Segmentation | None, label: int, form: str, size: Triple
) -> Iterator[bytes]:
    """The elements of a body in one of the forms of `listed`."""
    if segmentation is None:
        return iter((b"[]",))
    if form in ("true", "verbose"):
        return listed(view, segmentation.rows_of_body(view, label), form, size)
    return as_list((nr_texts(view, handles) for handles in segmentation.handles_of_body(view, label)), b"[]")


def listed(view: VersionedView, rows: Iterator[Rows], form: str, size: Triple) -> Iterator[bytes]:
    """A JSON list of index rows: as they are, with relations (`true`), or with their partners' data (`verbose`)."""
    if form == "true":
        texts = (_with_relations(view, [key for key, _ in batch], size) for batch in rows)
    elif form == "verbose":
        texts = (_with_partners(view, batch, size) for batch in rows)
    else:
        texts = (nr_texts(view, [handle for _, handle in batch]) for batch in rows)
    return as_list(texts, b"[]")


def _with_relations(view: VersionedView, index_keys: list[bytes], size: Triple) -> list[bytes]:
    if not index_keys:
        return []
    handles = view.handles(ELEMENTS, element_keys(positions_of(index_keys), size))
    return full_texts(view, [handle for handle in handles if handle is not None])


def _with_partners(view: VersionedView, rows: Rows, size: Triple) -> list[bytes]:
    if not rows:
        return []
    own = view.handles(ELEMENTS, element_keys(positions_of([key for key, _ in rows]), size))
    elements = [None if h is None else decode_stored(value_of(view, h)[ELEMENT_HEAD:]) for h in own]
    wanted = {relation.To: None for element in elements if element for relation in element.Rels or ()}
    handles = view.handles(ELEMENTS, [element_key(position, size) for position in wanted])
    partners = {
        position: decode_stored(value_of(view, handle)[ELEMENT_HEAD:])
        for position, handle in zip(wanted, handles, strict=True)
        if handle is not None
    }
    texts = []
    for (_, handle), element in zip(rows, elements, strict=True):
        related: list[Partner] = []
        for relation in (element.Rels if element else None) or ():
            partner = partners.get(relation.To)
            if partner is None:
                related.append(Partner(relation.Rel, relation.To))
            else:
                related.append(
                    Partner(relation.Rel, relation.To, partner.Kind, partner.Tags or [], partner.Prop or {})
                )
        nr = nr_texts(view, [handle])[0]
        texts.append(b"".join((nr[:-1], b',"Rels":', _encode(related), b"}")))
    return texts


# -- lists that were posted for a label


def posted(view: VersionedView, text: bytes, form: str, size: Triple) -> Iterator[bytes]:
    """A posted list in one of the forms; as it was posted where no relations are asked for."""
    if form not in ("true", "verbose"):
        return iter((text,))
    elements = [(place, e) for e in lists.elements_of(text) if (place := lists.position_of(e)) is not None]
    texts = []
    for place, element in elements:
        if not all(INT32_MIN <= c <= INT32_MAX for c in place):
            continue
        key = element_key(place, size)
        handle = view.handle(ELEMENTS, key)
        if form == "true":
            texts += [] if handle is None else full_texts(view, [handle])
        elif handle is None:
            texts.append(_encode({**element, "Rels": []}))
        else:
            nr = _encode(element)
            texts += _with_partners(view, [(key, b"\0\0\0" + nr)], size)
    return as_list([texts], b"[]")


def emptied_blocks(view: VersionedView, start: bytes, stop: bytes | None) -> list[bytes]:
    """Keys of the blocks from `start` to before `stop` that were emptied at the version or an ancestor, ascending.

    Nothing takes such a mark away, so versions that were merged cannot disagree about one.
    """
    prefix = keys.prefix(view.instance_id, EMPTIED)
    found = view.txn.scan_keys(prefix + start, keys.after(prefix) if stop is None else prefix + stop)
    contains = view.ancestry.contains
    return list(dict.fromkeys(key[keys.PREFIX_BYTES : -4] for key in found if contains(keys.version_of(key))))


def count_blocks(view: VersionedView) -> int:
    """How many blocks are listed: those with elements, and those that were emptied."""
    emptied = set(emptied_blocks(view, b"", None))
    count, last = 0, b""
    for batch in view.scan_batches(ELEMENTS):
        for key, _ in batch:
            block = key[:BLOCK_BYTES]
            if block != last:
                count, last = count + 1, block
                emptied.discard(block)
    return count + len(emptied)
