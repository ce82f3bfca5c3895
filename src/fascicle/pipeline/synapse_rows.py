"""Rows of synapse tables and elements of annotation instances, either from the other.

Three forms are understood, by the names of their columns:

* points, one row per element: `x,y,z,kind,conf,user,body,tags,props,rels` is what is written. Read are also neuclease's
  (`x,y,z,kind,conf,user`), flyem-snapshot's (`point_id`, and a table of `pre_id,post_id` beside it) and neuPrint's
  (`:ID(Syn-ID),type:string,confidence:float,location:point{srid:9157}`, and `:START_ID(Syn-ID),:END_ID(Syn-ID)`);
* partners, one row per connection: `x_pre,y_pre,z_pre,body_pre,conf_pre` and the same with `_post`, flyem-snapshot's;
* elements as DVID's JSON has them: `Pos`, `Kind`, `Tags`, `Prop`, `Rels`.

Sources: https://github.com/janelia-flyem/neuclease (`dvid/annotation.py`), https://github.com/janelia-flyem/flyem-snapshot,
https://github.com/connectome-neuprint. Bodies are written for those who read the table, and ignored when it is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

Element = dict[str, Any]
Row = dict[str, Any]
Point = tuple[int, int, int]
"""x, y, z."""

KINDS = ("Unknown", "PostSyn", "PreSyn", "Gap", "Note")
RELATIONS = ("UnknownRelationship", "PostSynTo", "PreSynTo", "ConvergentTo", "GroupedWith")
POINT_COLUMNS = ("x", "y", "z", "kind", "conf", "user", "body", "tags", "props", "rels")
PARTNER_COLUMNS = tuple(f"{name}_{side}" for side in ("pre", "post") for name in ("x", "y", "z", "body", "conf"))
_KIND_NAMES = {kind.lower(): kind for kind in KINDS} | {"pre": "PreSyn", "post": "PostSyn"}
_SAME = {
    "confidence": "conf",
    "type": "kind",
    "bodyid": "body",
    "label": "body",
    "synid": "id",
    "syn_id": "id",
    "point_id": "id",
}
"""Other names of columns."""
_NUMBERS = re.compile(r"-?\d+(?:\.0*)?")
_LIMIT = 1 << 31


class RowError(ValueError):
    """A row does not say what it should."""


def plain_names(names: Sequence[str]) -> dict[str, str]:
    """Column -> what it is called here, without the types that neuPrint's headers carry.

    >>> plain_names([":ID(Syn-ID)", "confidence:float", "X_pre"])
    {':ID(Syn-ID)': 'id', 'confidence:float': 'conf', 'X_pre': 'x_pre'}
    """
    special = {":id": "id", ":start_id": "pre_id", ":end_id": "post_id", ":label": "labels"}
    found = {}
    for name in names:
        lower = name.strip().lower()
        head = "".join(lower.partition(":")[1:]).partition("(")[0] if lower.startswith(":") else ""
        plain = special.get(head, lower if head else lower.partition(":")[0])
        found[name] = _SAME.get(plain, plain)
    return found


# -- rows to elements


def integer(row: Row, name: str) -> int:
    """A whole number of 32 bits. Raises RowError."""
    value: Any = row.get(name)
    if isinstance(value, str):
        try:
            value = int(value) if not value.endswith(".0") else int(value[:-2])
        except ValueError:
            raise RowError(f"{name} is {value[:40]!r}, not a whole number") from None
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise RowError(f"{name} is {'missing' if value is None else repr(value)[:40]}, not a whole number")
    if not -_LIMIT <= value < _LIMIT:
        raise RowError(f"{name} is {value}, which is no coordinate of 32 bits")
    return value


def position(row: Row, suffix: str = "") -> Point:
    """The point of a row, from `x`, `y`, `z` or neuPrint's `location`. Raises RowError."""
    if f"x{suffix}" not in row and "location" in row and not suffix:
        numbers = _NUMBERS.findall(re.sub(r"srid\s*:\s*\d+", "", str(row["location"])))
        if len(numbers) != 3:
            raise RowError(f"location is {str(row['location'])[:60]!r}, not three numbers")
        return (
            integer({"location": numbers[0]}, "location"),
            integer({"location": numbers[1]}, "location"),
            integer({"location": numbers[2]}, "location"),
        )
    return integer(row, f"x{suffix}"), integer(row, f"y{suffix}"), integer(row, f"z{suffix}")


def confidence_text(value: Any) -> str:
    """A confidence as elements have it: text, as it was or as short as can be. Raises RowError."""
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            raise RowError(f"conf is {value[:40]!r}, not a number") from None
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError(f"conf is {repr(value)[:40]}, not a number")
    return _number_text(value)


def _number_text(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


def point_element(row: Row) -> Element:
    """The element of a row of the first form, with plain column names. Raises RowError."""
    kind = _KIND_NAMES.get(str(row.get("kind", "Unknown")).lower())
    if kind is None:
        raise RowError(f"kind is {str(row['kind'])[:40]!r}; it must be one of {', '.join(KINDS)}, pre, post")
    properties: dict[str, str] = {}
    if row.get("conf") is not None:
        properties["conf"] = confidence_text(row["conf"])
    if row.get("user") is not None:
        properties["user"] = str(row["user"])
    properties |= _texts(_parsed(row, "props", dict), "props")
    return {
        "Pos": list(position(row)),
        "Kind": kind,
        "Tags": _tags(_parsed(row, "tags", list)),
        "Prop": properties,
        "Rels": [_relation(one) for one in _relations(row)],
    }


def _parsed(row: Row, name: str, kind: type[Any]) -> Any:
    value = row.get(name)
    if value is None:
        return kind()
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise RowError(f"{name} is {value[:40]!r}, not JSON") from None
    if not isinstance(value, kind):
        raise RowError(f"{name} must be a JSON {'object' if kind is dict else 'list'}")
    return value


def _texts(properties: dict[str, Any], name: str) -> dict[str, str]:
    for key, value in properties.items():
        if not isinstance(value, str):
            raise RowError(f"{name}: {key!r} is {json.dumps(value)[:40]}, not text")
    return properties


def _tags(tags: list[Any]) -> list[str]:
    for tag in tags:
        if not isinstance(tag, str) or not tag:
            raise RowError(f"tags: {json.dumps(tag)[:40]} is not a text of at least one character")
    return tags


def _relations(row: Row) -> list[Any]:
    value = row.get("rels")
    if value is None:
        return []
    if isinstance(value, str):
        return [part.split() for part in value.split(";") if part.strip()]
    if not isinstance(value, list):
        raise RowError("rels must be a list")
    members = ("rel", "x", "y", "z")
    return [[one.get(name) for name in members] if isinstance(one, dict) else one for one in value]


def _relation(parts: Any) -> dict[str, Any]:
    if not isinstance(parts, list) or len(parts) != 4 or parts[0] not in RELATIONS:
        raise RowError(f"rels: {json.dumps(parts)[:60]} is not like 'PreSynTo 10 20 30'")
    row = dict(zip("xyz", parts[1:], strict=True))
    return {"Rel": parts[0], "To": list(position(row))}


def element_of_json(value: Row) -> Element:
    """An element as DVID's JSON has it, complete and checked. Raises RowError."""
    found = {name.lower(): member for name, member in value.items()}
    place = found.get("pos")
    if not isinstance(place, list) or len(place) != 3:
        raise RowError("Pos must be three whole numbers")
    kind = found.get("kind", "Unknown")
    if kind not in KINDS:
        raise RowError(f"Kind is {json.dumps(kind)[:40]}; it must be one of {', '.join(KINDS)}")
    members: dict[str, Any] = {}
    for name, type_ in (("tags", list), ("prop", dict), ("rels", list)):
        members[name] = found.get(name) if found.get(name) is not None else type_()
        if not isinstance(members[name], type_):
            raise RowError(f"{name.capitalize()} must be a JSON {'object' if type_ is dict else 'list'}")
    relations = []
    for one in members["rels"]:
        to = one.get("To") if isinstance(one, dict) else None
        if not isinstance(to, list) or len(to) != 3:
            raise RowError(f"Rels: {json.dumps(one)[:60]} is not like {{'Rel': 'PreSynTo', 'To': [10, 20, 30]}}")
        relations.append(_relation([one.get("Rel"), *to]))
    return {
        "Pos": list(position(dict(zip("xyz", place, strict=True)))),
        "Kind": kind,
        "Tags": _tags(members["tags"]),
        "Prop": _texts(members["prop"], "Prop"),
        "Rels": relations,
    }


def partner_elements(row: Row) -> tuple[Element, Element]:
    """The T-bar and the density of a row of the second form, related to each other. Raises RowError."""
    pre, post = position(row, "_pre"), position(row, "_post")
    if pre == post:
        raise RowError(f"both sides are at {pre[0]},{pre[1]},{pre[2]}")
    sides = []
    for name, kind, relation, own, other in (
        ("pre", "PreSyn", "PreSynTo", pre, post),
        ("post", "PostSyn", "PostSynTo", post, pre),
    ):
        value = row.get(f"conf_{name}")
        properties = {} if value is None else {"conf": confidence_text(value)}
        relations = [{"Rel": relation, "To": list(other)}]
        sides.append({"Pos": list(own), "Kind": kind, "Tags": [], "Prop": properties, "Rels": relations})
    return sides[0], sides[1]


# -- elements to rows


def point_row(element: Element, body: int | None, kind: str) -> Row:
    """The row of an element, for a table of a kind (`csv` or `parquet`); nothing of the element is lost."""
    x, y, z = element["Pos"]
    others = dict(element["Prop"])
    row: Row = {"x": x, "y": y, "z": z, "kind": element["Kind"], "body": body}
    confidence = others.get("conf")
    if confidence is not None and (kind == "csv" or _is_plain(confidence)) and _is_number(confidence):
        row["conf"] = others.pop("conf") if kind == "csv" else float(others.pop("conf"))
    if others.get("user"):
        row["user"] = others.pop("user")
    if kind == "csv":
        row["tags"] = json.dumps(element["Tags"], ensure_ascii=False) if element["Tags"] else None
        row["rels"] = ";".join(f"{one['Rel']} {' '.join(map(str, one['To']))}" for one in element["Rels"]) or None
    else:
        row["tags"] = element["Tags"]
        row["rels"] = [{"rel": one["Rel"], **dict(zip("xyz", one["To"], strict=True))} for one in element["Rels"]]
    row["props"] = json.dumps(others, ensure_ascii=False) if others else None
    return row


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.strip() == text and "_" not in text


def _is_plain(text: str) -> bool:
    """Whether a number comes back as the same text."""
    return _is_number(text) and _number_text(float(text)) == text


def partner_row(pre: Element, post: Element, bodies: tuple[int | None, int | None]) -> Row:
    """The row of a connection."""
    row: Row = {}
    for name, element, body in (("pre", pre, bodies[0]), ("post", post, bodies[1])):
        confidence = element["Prop"].get("conf")
        row |= {f"{axis}_{name}": at for axis, at in zip("xyz", element["Pos"], strict=True)}
        row |= {f"body_{name}": body}
        row[f"conf_{name}"] = float(confidence) if confidence is not None and _is_number(confidence) else None
    return row


def point_schema(arrow: Any) -> pa.Schema:
    """The Arrow schema of `POINT_COLUMNS`."""
    i32, text = arrow.int32(), arrow.string()
    relation = arrow.struct([("rel", text), ("x", i32), ("y", i32), ("z", i32)])
    types = (i32, i32, i32, text, arrow.float64(), text, arrow.uint64(), arrow.list_(text), text, arrow.list_(relation))
    return arrow.schema(list(zip(POINT_COLUMNS, types, strict=True)))


def partner_schema(arrow: Any) -> pa.Schema:
    """The Arrow schema of `PARTNER_COLUMNS`."""
    types = [arrow.int32()] * 3 + [arrow.uint64(), arrow.float64()]
    return arrow.schema(list(zip(PARTNER_COLUMNS, types * 2, strict=True)))
