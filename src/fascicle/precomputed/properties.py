"""What is known of bodies, as segment properties: a neuronjson instance at a version.

It is found under its own name, and as `properties` of the labelmap that it belongs to: `<labelmap>_annotations`.

* The label is the first of `name`, `instance` and `type` that a body has; the description is its `description`.
* Texts, and numbers that need more than 32 bits, are `string`s; other numbers are `number`s. Where a body has none, it
  gets a number that no other has: -1, or one less than the least.
* Tags are the values of fields that sort bodies (`class`, `status`, `side`, ...), what is in lists of texts, and the
  names of fields that are true; spaces in them become `_`.
* Who set a field, and when, is left out, and so are positions and whatever else has a structure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import msgspec

from fascicle.datatypes.neuronjson import storage
from fascicle.datatypes.neuronjson.documents import BODY_ID, is_bookkeeping
from fascicle.errors import NotFound
from fascicle.formats import segment_properties
from fascicle.formats.segment_properties import MOST_TAGS, SegmentProperties, SegmentProperty
from fascicle.precomputed.builders import Form, Snapshot
from fascicle.precomputed.derived import JSON, Directory, Served
from fascicle.store.base import Store
from fascicle.versions.model import Instance

TYPE = "neuronjson"
SUFFIX = "_annotations"
LABELS = ("name", "instance", "type")
DESCRIPTION = "description"
SORTING = frozenset({
    "class", "superclass", "subclass", "super_class", "sub_class", "cell_class", "supertype", "status", "statuslabel",
    "status_label", "side", "somaside", "soma_side", "rootside", "root_side", "hemilineage", "consensus_nt",
    "predicted_nt", "predictednt", "celltransmitter", "birthtime", "origin", "modality", "entry_nerve", "exit_nerve",
})  # fmt: skip
"""Fields, in small letters, with few values."""
KEPT = 16
"""Documents that a process keeps of each store."""

_INT32 = 1 << 31
_decode = msgspec.json.Decoder(dict[str, Any]).decode
Known = dict[str, list[Any]]
"""The values of each field, None where a body has none."""


def annotations_of(snapshot: Snapshot, labelmap: Instance) -> Instance | None:
    """The instance with the annotations of a labelmap's bodies, or None."""
    name = labelmap.name + SUFFIX
    if not snapshot.catalog.has_instance(labelmap.repo_id, name):
        return None
    found = snapshot.catalog.instance(labelmap.repo_id, name)
    return found if found.typename == TYPE else None


def documents(snapshot: Snapshot, instance: Instance) -> Iterator[tuple[int, dict[str, Any]]]:
    """(body, what is known of it) of a neuronjson instance at a version, ascending."""
    view = snapshot.view(instance)
    for bodies, handles in storage.batches(view):
        for body, handle in zip(bodies.tolist(), handles, strict=True):
            yield body, _decode(view.load(handle))


def properties(snapshot: Snapshot, instance: Instance) -> SegmentProperties:
    """Everything that a neuronjson instance knows at a version, as segment properties."""
    return made_of(documents(snapshot, instance))


def made_of(documents: Iterator[tuple[int, Mapping[str, Any]]]) -> SegmentProperties:
    """Segment properties from what is known of bodies."""
    ids: list[int] = []
    known: Known = {}
    for body, document in documents:
        for name, value in document.items():
            if value is None or name == BODY_ID or is_bookkeeping(name):
                continue
            column = known.get(name)
            if column is None:
                column = known[name] = []
            column += [None] * (len(ids) - len(column))
            column.append(value)
        ids.append(body)
    for column in known.values():
        column += [None] * (len(ids) - len(column))
    return SegmentProperties(ids=ids, properties=list(_properties(known, len(ids))))


def _properties(known: Known, count: int) -> Iterator[SegmentProperty]:
    labels = [known[name] for name in LABELS if name in known]
    if labels:
        values = [_text(next(filter(None, row), None)) for row in zip(*labels, strict=True)]
        yield SegmentProperty(id="label", type="label", values=values)
    if DESCRIPTION in known:
        yield SegmentProperty(id=DESCRIPTION, type="description", values=[_text(one) for one in known[DESCRIPTION]])
    taken = {"label", DESCRIPTION, "tags"}
    tags = _tags(known, count)
    if tags is not None:
        yield tags
    for name in sorted(known.keys() - {DESCRIPTION}):
        column = known[name]
        kinds = {type(value) for value in column if value is not None}
        shown = name if name not in taken else f"{name}_"
        if kinds <= {int, float}:
            yield _numbers(shown, column)
        elif kinds <= {str, int, float}:
            yield SegmentProperty(id=shown, type="string", values=[_text(value) for value in column])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None or isinstance(value, (list, dict)) else str(value)


def _numbers(name: str, column: Sequence[Any]) -> SegmentProperty:
    there = [value for value in column if value is not None]
    low, high = min(there), max(there)
    whole = all(isinstance(value, int) or value.is_integer() for value in there)
    nothing = -1 if low >= 0 else int(low) - 1
    if whole and not -_INT32 <= nothing <= high < _INT32:  # a viewer would round it
        return SegmentProperty(id=name, type="string", values=[_text(value) for value in column])
    if not whole and max(abs(low), abs(high)) > 3e38:
        return SegmentProperty(id=name, type="string", values=[_text(value) for value in column])
    values = [nothing if value is None else int(value) if whole else float(value) for value in column]
    return SegmentProperty(
        id=name,
        type="number",
        data_type="int32" if whole else "float32",
        description=f"{nothing}: not known" if len(there) < len(column) else None,
        values=values,
    )


def _tags(known: Known, count: int) -> SegmentProperty | None:
    """The tags of each body; a tag is told what field it comes from."""
    numbers: dict[str, int] = {}
    tags: list[str] = []
    origins: list[str] = []
    rows: list[set[int]] = [set() for _ in range(count)]

    def enter(row: set[int], text: str, origin: str) -> None:
        tag = "_".join(text.split()).lstrip("#")
        if not tag:
            return
        number = numbers.get(tag.lower())
        if number is None:
            if len(tags) == MOST_TAGS:
                return
            number = numbers[tag.lower()] = len(tags)
            tags.append(tag)
            origins.append(origin)
        row.add(number)

    for name in sorted(known):
        sorts = name.lower() in SORTING
        for row, value in zip(rows, known[name], strict=True):
            if isinstance(value, str):
                if sorts:
                    enter(row, value, name)
            elif value is True:
                enter(row, name, name)
            elif isinstance(value, list) and all(isinstance(one, str) for one in value):
                for one in value:
                    enter(row, one, name)
    if not tags:
        return None
    return SegmentProperty(
        id="tags", type="tags", tags=tags, tag_descriptions=origins, values=[sorted(row) for row in rows]
    )


# -- in the view


class NeuronProperties(Directory):
    """A neuronjson instance as a directory with segment properties."""

    name = "properties"

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[Store, dict[tuple[int, int], tuple[int, bytes]]] = WeakKeyDictionary()

    def exists(self, snapshot: Snapshot, instance: Instance, form: Form) -> bool:
        return any(len(bodies) for bodies, _ in storage.batches(snapshot.view(instance)))

    def serve(self, snapshot: Snapshot, instance: Instance, form: Form, path: str) -> Served:
        if path != "info":
            raise NotFound(f"there is no {path!r}: segment properties have an info only")
        return Served(self.info(snapshot, instance), JSON)

    def info(self, snapshot: Snapshot, instance: Instance) -> bytes:
        """The document, from the last time if nothing was written since."""
        kept = self._kept.setdefault(snapshot.store, {})
        key, last = (instance.id, snapshot.node.id), storage.last_change(snapshot.txn, instance.id)
        known = kept.get(key)
        if known is not None and known[0] == last:
            return known[1]
        made = segment_properties.encode(properties(snapshot, instance))
        while len(kept) >= KEPT:
            kept.pop(next(iter(kept)), None)
        kept[key] = (last, made)
        return made


class Properties(NeuronProperties):
    """The directory `properties` of a labelmap: bodies only, nothing is known of supervoxels."""

    def exists(self, snapshot: Snapshot, instance: Instance, form: Form) -> bool:
        found = None if form.supervoxels else annotations_of(snapshot, instance)
        return found is not None and super().exists(snapshot, found, form)

    def serve(self, snapshot: Snapshot, instance: Instance, form: Form, path: str) -> Served:
        found = None if form.supervoxels else annotations_of(snapshot, instance)
        if found is None:
            raise NotFound(f"nothing is known of these segments: there is no {instance.name}{SUFFIX} for them")
        return super().serve(snapshot, found, form, path)
