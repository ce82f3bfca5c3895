"""What is noted at a version: keys and values, facts about bodies, points with their partners."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from fascicle.client.connections import Place, Refused, checked_label, path_of
from fascicle.errors import BadRequest, NotFound

Element = dict[str, Any]
"""A point annotation as DVID has it: `{"Pos": [x, y, z], "Kind": ..., "Tags": [...], "Prop": {...}, "Rels": [...]}`."""


class Instance:
    """An instance at a version, of any datatype: its requests as they are."""

    def __init__(self, place: Place, uuid: str, name: str, typename: str) -> None:
        self._place = place
        self._uuid = uuid
        self.name = name
        self.typename = typename

    def get(self, path: str, **query: Any) -> bytes:
        """The answer to GET of a path below the instance, such as `tags`. Raises NotFound or Refused."""
        return self._place.request("GET", self._path(*path.split("/")), **query)

    def post(self, path: str, body: bytes | Any = b"", **query: Any) -> bytes:
        """The answer to POST of bytes, or of what JSON can say. Raises NotFound or Refused."""
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return self._place.request("POST", self._path(*path.split("/")), data, **query)

    def _path(self, *parts: str | int) -> str:
        return path_of(self._uuid, self.name, *parts)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} ({self.typename})>"


class KeyValues(Instance):
    """An instance of the datatype keyvalue.

    >>> version["notes"].put("reviewed", b"yes")        # doctest: +SKIP
    >>> version["notes"].value("reviewed")              # doctest: +SKIP
    b'yes'
    """

    def value(self, key: str) -> bytes | None:
        """The value of a key; None if it has none."""
        status, answer = self._place.exchange("GET", self._path("key", _key(key)))
        if status == 404:
            return None
        if status != 200:
            raise Refused(answer[:500].decode("utf-8", "replace").strip(), status)
        return answer

    def put(self, key: str, value: bytes | str) -> None:
        """Write the value of a key."""
        data = value.encode() if isinstance(value, str) else bytes(value)
        self._place.request("POST", self._path("key", _key(key)), data)

    def delete(self, key: str) -> None:
        """Remove a key; nothing happens if it has no value."""
        self._place.request("DELETE", self._path("key", _key(key)))

    def keys(self, first: str = "", last: str = "") -> list[str]:
        """All keys in bytewise order, or those between two keys, both included."""
        if first or last:
            found: list[str] = self._place.json("GET", self._path("keyrange", first or "\0", last or "\U0010ffff"))
            return found
        return list(self._place.json("GET", self._path("keys")) or [])

    def values(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The values of those of many keys that have one, in one request."""
        import io
        import tarfile

        data = self._place.request("GET", self._path("keyvalues"), msgspec.json.encode(list(keys)), tar=True)
        found = {}
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None:
                    found[member.name] = file.read()
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())


class NeuronNotes(Instance):
    """An instance of the datatype neuronjson: JSON objects by body.

    >>> version["segmentation_annotations"].update(17, {"type": "Mi1"})     # doctest: +SKIP
    >>> version["segmentation_annotations"].query({"type": "re/^Mi"})       # doctest: +SKIP
    [{'bodyid': 17, 'type': 'Mi1'}]
    """

    def note(self, body: int) -> dict[str, Any] | None:
        """What is noted of a body; None if nothing is."""
        try:
            found: dict[str, Any] = self._place.json("GET", self._path("key", checked_label(body)))
        except NotFound:
            return None
        return found

    def update(self, body: int, fields: Mapping[str, Any], *, replace: bool = False) -> None:
        """Set fields of a body; None deletes one. With `replace` all others disappear."""
        document = {"bodyid": checked_label(body), **fields}
        data = msgspec.json.encode(document)
        self._place.request("POST", self._path("key", body), data, replace=replace)

    def delete(self, body: int) -> None:
        """Remove all that is noted of a body."""
        self._place.request("DELETE", self._path("key", checked_label(body)))

    def bodies(self) -> list[int]:
        """The bodies that something is noted of, ascending."""
        return [int(body) for body in self._place.json("GET", self._path("keys")) or []]

    def all(self, fields: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Everything, or some fields of it, ascending by body."""
        return list(self._place.json("GET", self._path("all"), fields=",".join(fields)) or [])

    def query(self, conditions: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The notes that fit conditions by field: a value, several, `re/<pattern>`, `exists/1` or `exists/0`."""
        wanted = dict(conditions) if isinstance(conditions, Mapping) else [dict(each) for each in conditions]
        return list(self._place.json("POST", self._path("query"), wanted) or [])


class Points(Instance):
    """An instance of the datatype annotation: synapses, notes, bookmarks. Positions are x, y, z in voxels.

    >>> version["synapses"].of_body(17)[0]["Pos"]       # doctest: +SKIP
    [1024, 880, 312]
    """

    def in_box(self, low_xyz: Sequence[int], high_xyz: Sequence[int]) -> list[Element]:
        """Elements with a position from `low` up to `high` (exclusive)."""
        size = [int(b) - int(a) for a, b in zip(low_xyz, high_xyz, strict=True)]
        if len(size) != 3 or min(size) < 1:
            raise BadRequest(f"no box is from {tuple(low_xyz)} to {tuple(high_xyz)} (x, y, z)")
        path = self._path("elements", "_".join(map(str, size)), "_".join(str(int(at)) for at in low_xyz))
        return list(self._place.json("GET", path) or [])

    def of_body(self, body: int, *, relationships: bool = False) -> list[Element]:
        """Elements in a body."""
        path = self._path("label", checked_label(body))
        return list(self._place.json("GET", path, relationships=relationships) or [])

    def tagged(self, tag: str, *, relationships: bool = False) -> list[Element]:
        """Elements that have a tag."""
        return list(self._place.json("GET", self._path("tag", tag), relationships=relationships) or [])

    def all(self) -> list[Element]:
        """All elements."""
        blocks = self._place.json("GET", self._path("all-elements")) or {}
        return [element for block in blocks.values() for element in block or []]

    def put(self, elements: Sequence[Element]) -> None:
        """Store elements; one that is at the same position is replaced."""
        self._place.json("POST", self._path("elements"), list(elements))

    def delete(self, position_xyz: Sequence[int]) -> None:
        """Delete the element at a position, and what its partners have to do with it."""
        self._place.request("DELETE", self._path("element", "_".join(str(int(at)) for at in position_xyz)))

    def move(self, from_xyz: Sequence[int], to_xyz: Sequence[int]) -> None:
        """Move an element."""
        places = ["_".join(str(int(at)) for at in position) for position in (from_xyz, to_xyz)]
        self._place.request("POST", self._path("move", *places))


def _key(key: str) -> str:
    if not key or "/" in key:
        raise BadRequest(f"{key!r} is no key: it must have at least one character, and none of them may be /")
    return key
