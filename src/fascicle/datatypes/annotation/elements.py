"""Elements as clients send them: decoding, checking, and writing them the way they are stored and sent back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, Literal, get_args

import msgspec
import numpy as np

from fascicle.datatypes.annotation.events import KINDS
from fascicle.datatypes.annotation.layout import I64, INT32_MAX, INT32_MIN
from fascicle.errors import NOT_JSON, BadRequest

Kind = Literal["Unknown", "PostSyn", "PreSyn", "Gap", "Note"]
RelationKind = Literal["UnknownRelationship", "PostSynTo", "PreSynTo", "ConvergentTo", "GroupedWith"]
Coordinate = Annotated[int, msgspec.Meta(ge=INT32_MIN, le=INT32_MAX)]
Position = tuple[Coordinate, Coordinate, Coordinate]

_HINT = f"Kind is one of {', '.join(KINDS)}; Rel is one of {', '.join(get_args(RelationKind))}"
_NUMBERS = {kind: number for number, kind in enumerate(KINDS)}
_HEADS = {kind: bytes((number,)) for number, kind in enumerate(KINDS)}


class Relation(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What an element has to do with another one."""

    Rel: RelationKind = "UnknownRelationship"
    To: Position = (0, 0, 0)


class ElementNR(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An element without its relations."""

    Pos: Position = (0, 0, 0)
    Kind: Kind = "Unknown"
    Tags: list[str] | None = None
    Prop: dict[str, str] | None = None


class Element(ElementNR, forbid_unknown_fields=True, gc=False):
    """A point with what is known about it; members are written in this order."""

    Rels: list[Relation] | None = None


class Partner(msgspec.Struct, omit_defaults=True):
    """A relation with what is known about the element at its other end."""

    Rel: str = msgspec.field(default=None)  # type: ignore[assignment]  # never left out
    To: Position = msgspec.field(default=None)  # type: ignore[assignment]
    Kind: str = "Unknown"
    Tags: list[str] = []
    Prop: dict[str, str] = {}


_decode_list = msgspec.json.Decoder(list[Element] | None).decode
_decode_blocks = msgspec.json.Decoder(dict[str, list[Element] | None] | None).decode
_decode_raw = msgspec.json.Decoder().decode
_decode_nr = msgspec.json.Decoder(ElementNR).decode
decode_stored = msgspec.json.Decoder(Element).decode
"""An element from its stored JSON."""
decode_stored_list = msgspec.json.Decoder(list[ElementNR]).decode
"""Elements without relations from a list in stored form."""
_encode = msgspec.json.Encoder(order="deterministic").encode
_RELS = b',"Rels":['
_TAGS = b'"Tags":['


# -- what comes in


def decode_elements(body: bytes) -> list[Element]:
    """The elements of a POST. Raises BadRequest."""
    try:
        return _decode_list(body) or []
    except msgspec.ValidationError:
        pass
    except NOT_JSON as error:
        raise BadRequest(f"elements must be a JSON list: {error}") from None
    try:
        given = _decode_raw(body)
        return _checked(given, "elements")
    except NOT_JSON as error:
        raise BadRequest(f"elements are not what they should be: {error}. {_HINT}") from None


def decode_blocks(body: bytes) -> dict[str, list[Element]]:
    """Elements by the text that names a block. Raises BadRequest."""
    try:
        return {name: elements or [] for name, elements in (_decode_blocks(body) or {}).items()}
    except msgspec.ValidationError:
        pass
    except NOT_JSON as error:
        raise BadRequest(f"blocks must be a JSON object of lists of elements: {error}") from None
    try:
        given = _decode_raw(body)
        if not isinstance(given, dict):
            raise BadRequest('blocks must be a JSON object: {"x,y,z": [elements], ...}')
        return {name: _checked(elements, f"elements of block {name!r}") for name, elements in given.items()}
    except NOT_JSON as error:
        raise BadRequest(f"elements are not what they should be: {error}. {_HINT}") from None


def _checked(given: Any, what: str) -> list[Element]:
    """Elements with member names in any case, unknown members, and positions of any length."""
    if given is None:
        return []
    if not isinstance(given, list):
        raise BadRequest(f"{what} must be a JSON list")
    records = []
    for place in given:
        record = _named(place, ("Pos", "Kind", "Tags", "Prop", "Rels"), what)
        _three(record, "Pos")
        if isinstance(record.get("Rels"), list):
            relations = [_named(relation, ("Rel", "To"), "relations") for relation in record["Rels"]]
            for relation in relations:
                _three(relation, "To")
            record["Rels"] = relations
        records.append(record)
    return msgspec.convert(records, list[Element])


def _named(given: Any, names: Sequence[str], what: str) -> dict[str, Any]:
    """The known members of an object, whatever the case of their names."""
    if not isinstance(given, dict):
        raise BadRequest(f"{what} must be JSON objects, not {msgspec.json.encode(given).decode()}")
    known = {name.lower(): name for name in names}
    return {known[name.lower()]: value for name, value in given.items() if name.lower() in known}


def _three(record: dict[str, Any], name: str) -> None:
    """Bring a position to three numbers: short ones are filled with zeros, of long ones the rest is left out."""
    if name not in record:
        return
    if record[name] is None:
        del record[name]
    elif isinstance(record[name], list):
        record[name] = [*record[name][:3], 0, 0, 0][:3]


# -- what is stored


@dataclass(slots=True)
class Batch:
    """Elements at different positions, ready to be stored."""

    xyz: I64
    """i64[n, 3]"""
    values: list[bytes]
    """Rows of class 1."""
    index_values: list[bytes]
    """Rows of classes 2 and 3."""
    tags: dict[int, list[str]]
    """Tags by place, of those that have some."""

    def __len__(self) -> int:
        return len(self.values)

    def ordered(self, order: list[int]) -> Batch:
        """The same elements in another order."""
        places = {old: new for new, old in enumerate(order)} if self.tags else {}
        return Batch(
            self.xyz[order],
            [self.values[i] for i in order],
            [self.index_values[i] for i in order],
            {places[i]: tags for i, tags in self.tags.items()},
        )


def batch_of(elements: Iterable[Element]) -> Batch:
    """Elements ready to be stored; of several at one position the last one counts. Raises BadRequest for empty tags."""
    by_position = {element.Pos: element for element in elements}
    values: list[bytes] = []
    index_values: list[bytes] = []
    tagged: dict[int, list[str]] = {}
    for i, element in enumerate(by_position.values()):
        tags = element.Tags
        if tags:
            if "" in tags:
                raise BadRequest(f"empty tag not permitted: element at {element.Pos} has one")
            tagged[i] = tags
        elif tags is None:
            element.Tags = []
        if element.Prop is None:
            element.Prop = {}
        if element.Rels is None:
            element.Rels = []
        text = _encode(element)
        cut = text.rindex(_RELS)
        head = _HEADS[element.Kind]
        values.append(head + cut.to_bytes(4, "little") + text)
        index_values.append(head + text[:cut] + b"}")
    xyz = np.fromiter(chain.from_iterable(by_position), np.int64, 3 * len(by_position)).reshape(-1, 3)
    return Batch(xyz, values, index_values, tagged)


def encode_element(element: Element) -> tuple[int, bytes, int]:
    """(number of the kind, JSON, where the relations begin) of one stored element that was changed."""
    text = _encode(element)
    return _NUMBERS[element.Kind], text, text.rindex(_RELS)


def tags_of(text: bytes) -> list[str]:
    """The tags in the JSON of an element, with or without relations."""
    at = text.index(_TAGS) + len(_TAGS)
    if text[at : at + 1] == b"]":
        return []
    cut = text.rfind(_RELS)
    return _decode_nr(text if cut < 0 else text[:cut] + b"}").Tags or []


def needle_of(position: Sequence[int]) -> bytes:
    """What is in the JSON of every element with a relation to a position."""
    return b'"To":[%d,%d,%d]}' % tuple(position)


def parse_position(text: str) -> tuple[int, int, int]:
    """`x_y_z` of a URL, spaces around numbers tolerated. Raises BadRequest."""
    parts = text.split("_")
    if len(parts) != 3:
        raise BadRequest(f'String "{text}" cannot be converted to a 3d point: x_y_z is expected')
    try:
        x, y, z = (int(part) for part in parts)
    except ValueError:
        raise BadRequest(f'"{text}" is no 3d point: x_y_z of decimal integers is expected') from None
    if not all(INT32_MIN <= c <= INT32_MAX for c in (x, y, z)):
        raise BadRequest(f'"{text}" is out of range: coordinates lie within {INT32_MIN} to {INT32_MAX}')
    return x, y, z


def parse_block(text: str) -> tuple[int, int, int]:
    """`x,y,z` as blocks are named in JSON. Raises BadRequest."""
    try:
        if "_" in text:
            raise ValueError
        x, y, z = (int(part) for part in text.split(","))
    except ValueError:
        raise BadRequest(f'block {text!r} must be named by three integers "x,y,z"') from None
    if not all(INT32_MIN <= c <= INT32_MAX for c in (x, y, z)):
        raise BadRequest(f"block {text!r} is out of range: coordinates lie within {INT32_MIN} to {INT32_MAX}")
    return x, y, z
