"""Elements of an annotation instance as columns of precomputed annotations: points, or lines between related ones.

A point is an element: in the middle of its voxel, with its kind, its confidence and its user. Its id is made of its
position (21 bits for each axis), so it stays the same as long as the element stays where it is. Positions that are
too far from 0 for that, which no volume has, get a hash with the highest bit set.

A line is a relation `PreSynTo` of one element, or the `PostSynTo` of the other one, from the first to the second. An
element is mostly on the second end of one line only, so that the line has the id of that element. If it is so of
several, those behind the first one (by z, y, x of the other end) have a hash of both ends, with the highest bit set; so
have lines that the element on the second end does not know of.

Positions are i64[n, 3], x, y, z.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.annotation.events import KINDS
from fascicle.datatypes.annotation.layout import (
    ELEMENT_HEAD,
    ELEMENTS,
    I64,
    U8,
    U64,
    Triple,
    element_keys,
    value_of,
)
from fascicle.datatypes.annotation.segmentation import Segmentation
from fascicle.formats.annotation_index import priorities
from fascicle.formats.annotation_info import Property
from fascicle.formats.annotations import Columns, Lists
from fascicle.versions.resolution import VersionedView

I32 = NDArray[np.int32]
BATCH = 1 << 14
"""Rows that are read together."""
UNKNOWN_CONFIDENCE = 1.0
PRE_TO, POST_TO = "PreSynTo", "PostSynTo"
BOTH = (PRE_TO, POST_TO)

_BITS = 21
_BIAS = 1 << (_BITS - 1)
_HASHED = 1 << 63
_COORDINATE = (1 << _BITS) - 1


class _Known(msgspec.Struct, gc=False):
    """What is shown of an element by itself."""

    Prop: dict[str, str] | None = None


class _Relation(msgspec.Struct, gc=False):
    Rel: str
    To: tuple[int, int, int]


class _Related(msgspec.Struct, gc=False):
    """An element as the end of lines."""

    Pos: tuple[int, int, int]
    Prop: dict[str, str] | None = None
    Rels: list[_Relation] | None = None

    def ends(self, relation: str) -> set[Triple]:
        return {one.To for one in self.Rels or () if one.Rel == relation}


_decode_known = msgspec.json.Decoder(_Known).decode
_decode_related = msgspec.json.Decoder(_Related).decode


# -- ids


def ids_of(xyz: I64) -> U64:
    """The ids u64[n] of elements by their positions."""
    biased = xyz + _BIAS
    near = np.logical_and.reduce((biased >= 0) & (biased <= _COORDINATE), axis=1)
    x, y, z = np.where(near[:, None], biased, 0).astype(np.uint64).T
    found: U64 = x | y << np.uint64(_BITS) | z << np.uint64(2 * _BITS)
    return found if near.all() else np.where(near, found, _hash_of(xyz))


def position_of(identifier: int) -> Triple | None:
    """The position in an id; None if the id is a hash."""
    if identifier >= _HASHED:
        return None
    x, y, z = (((identifier >> shift) & _COORDINATE) - _BIAS for shift in (0, _BITS, 2 * _BITS))
    return x, y, z


def _hash_of(*positions: I64) -> U64:
    """A hash of positions, with the highest bit set."""
    mixed = np.zeros(len(positions[0]), np.uint64)
    for column in np.concatenate(positions, axis=1).T:
        mixed = priorities(mixed ^ column.astype(np.int64).view(np.uint64))
    return mixed | np.uint64(_HASHED)


@cache
def user_number(name: str) -> int:
    """The number by which a user is known in properties: a hash, so that it is the same everywhere. 0 is nobody."""
    return 1 + int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=4).digest(), "big") % 65535


# -- properties


def point_properties(users: Iterable[str] = ()) -> tuple[Property, ...]:
    """Those of points; `users` are names that are known to occur."""
    names = {user_number(name): name for name in sorted(users, reverse=True)}
    numbers = sorted(names)
    return (
        Property(
            id="confidence", type="float32", default=UNKNOWN_CONFIDENCE, description="Confidence; 1 if it is not known"
        ),
        Property(
            id="user",
            type="uint16",
            default=0,
            description="Who made the element",
            enum_values=(0.0, *map(float, numbers)),
            enum_labels=("", *(names[number] for number in numbers)),
        ),
        Property(
            id="kind",
            type="uint8",
            default=0,
            description="Kind of the element",
            enum_values=tuple(float(number) for number in range(len(KINDS))),
            enum_labels=KINDS,
        ),
    )


def line_properties() -> tuple[Property, ...]:
    return tuple(
        Property(
            id=f"{side}_confidence",
            type="float32",
            default=UNKNOWN_CONFIDENCE,
            description=f"Confidence of the {side}synaptic end; 1 if it is not known",
        )
        for side in ("pre", "post")
    )


def confidence_of(properties: Mapping[str, str] | None) -> float:
    text = (properties or {}).get("conf") or (properties or {}).get("confidence")
    if not text:
        return UNKNOWN_CONFIDENCE
    try:
        value = float(text)
    except ValueError:
        return UNKNOWN_CONFIDENCE
    return value if abs(value) < 1e30 else UNKNOWN_CONFIDENCE


def user_of(text: bytes) -> str:
    """The user of an element's JSON, or nothing."""
    return (_decode_known(text).Prop or {}).get("user") or ""


# -- points


def points(xyz: I64, kinds: U8, texts: Sequence[bytes], segmentation: Segmentation | None) -> Columns:
    """Elements as points; with the bodies that they are in if there is a segmentation."""
    known = [_decode_known(text).Prop for text in texts]
    confidences = np.array([confidence_of(one) for one in known], np.float32)
    users = np.array([user_number(user) if one and (user := one.get("user")) else 0 for one in known], np.uint16)
    middles = (xyz + 0.5).astype(np.float32)[:, None]
    related = () if segmentation is None else (Lists.single(bodies_at(segmentation, xyz)),)
    return Columns(ids_of(xyz), middles, {"confidence": confidences, "user": users, "kind": kinds}, related)


def bodies_at(segmentation: Segmentation, xyz: I64) -> U64:
    """Bodies u64[n] at voxels, 0 for none."""
    return segmentation.bodies(segmentation.supervoxels(xyz))


# -- lines


@dataclass(frozen=True, slots=True)
class Elements:
    """The elements of an instance at a version, found by their positions."""

    view: VersionedView
    block_size: Triple

    def texts(self, xyz: I64) -> list[bytes | None]:
        """Their whole JSON, None where there is none."""
        handles = self.view.handles(ELEMENTS, element_keys(xyz, self.block_size))
        return [None if handle is None else value_of(self.view, handle)[ELEMENT_HEAD:] for handle in handles]

    def related(self, places: Sequence[Triple]) -> dict[Triple, _Related]:
        """Those that are there, as ends of lines."""
        if not places:
            return {}
        texts = self.texts(np.array(places, np.int64))
        return {place: _decode_related(text) for place, text in zip(places, texts, strict=True) if text is not None}


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """Lines, with where their ends are."""

    columns: Columns
    pre_xyz: I64
    post_xyz: I64
    told: tuple[NDArray[np.bool_], NDArray[np.bool_]]
    """Whether the element on the first end says so, and that on the second one."""


def lines(
    elements: Elements,
    texts: Iterable[bytes],
    segmentation: Segmentation | None,
    *,
    sides: Sequence[str] = BOTH,
    once: bool = False,
) -> Lines:
    """The lines that elements, given as whole JSON, say that they have, each once.

    `sides` are the relations that are looked at. With `once`, lines that the elements on both ends know of belong to
    that on the first end only, so that who goes through all elements in parts gets each line once. The bodies on both
    ends are looked up if there is a segmentation.
    """
    known: dict[Triple, _Related] = {}
    pairs: dict[tuple[Triple, Triple], bool] = {}
    for text in texts:
        one = _decode_related(text)
        known[one.Pos] = one
        for relation in one.Rels or ():
            if relation.Rel not in sides:
                continue
            if relation.Rel == PRE_TO:
                pairs[one.Pos, relation.To] = True
            elif relation.Rel == POST_TO:
                pairs.setdefault((relation.To, one.Pos), False)
    missing = {end: None for pair in pairs for end in pair if end not in known}
    known |= elements.related(list(missing))
    if once:
        pairs = {
            pair: own
            for pair, own in pairs.items()
            if own or pair[0] not in known or pair[1] not in known[pair[0]].ends(PRE_TO)
        }
    firsts = {post: min(ends, key=_order) for post in {post for _, post in pairs}
              if post in known and (ends := known[post].ends(POST_TO))}  # fmt: skip
    ordered = sorted(pairs, key=lambda pair: (_order(pair[0]), _order(pair[1])))
    pre = np.array([pair[0] for pair in ordered], np.int64).reshape(-1, 3)
    post = np.array([pair[1] for pair in ordered], np.int64).reshape(-1, 3)
    first = np.array([firsts.get(b) == a for a, b in ordered], np.bool_)
    ids = np.where(first, ids_of(post), _hash_of(pre, post))
    properties = {
        f"{side}_confidence": np.array(
            [confidence_of(known[pair[i]].Prop) if pair[i] in known else UNKNOWN_CONFIDENCE for pair in ordered],
            np.float32,
        )
        for i, side in enumerate(("pre", "post"))
    }
    middles = (np.stack((pre, post), axis=1) + 0.5).astype(np.float32)
    related: tuple[Lists, ...] = ()
    if segmentation is not None:
        related = (Lists.single(bodies_at(segmentation, pre)), Lists.single(bodies_at(segmentation, post)))
    told = tuple(
        np.array([pair[i] in known and pair[1 - i] in known[pair[i]].ends(BOTH[i]) for pair in ordered], np.bool_)
        for i in range(2)
    )
    return Lines(Columns(ids, middles, properties, related), pre, post, (told[0], told[1]))


def ends_of_lines(
    texts: Iterable[bytes], wanted: Callable[[U64], NDArray[np.bool_]] | None = None
) -> tuple[U64, I32, I32]:
    """(ids, first ends, second ends i32[n, 3]) of all lines between elements, given as whole JSON, in no order.

    The same as `lines` gives, without what is known of the ends: quicker where there are very many. `wanted` says of
    ids which lines are given, so that memory holds no more than those.
    """
    ids, pres, posts = [np.empty(0, np.uint64)], [np.empty((0, 3), np.int32)], [np.empty((0, 3), np.int32)]
    told = [np.empty(0, np.uint64)]
    others: list[tuple[U64, I32, I32]] = [(ids[0], pres[0], posts[0])]

    def choose(numbers: U64) -> NDArray[np.bool_]:
        return np.ones(len(numbers), np.bool_) if wanted is None else wanted(numbers)

    for after, before in _relations(texts):
        # what the element on the second end says: all of it is in one part
        hashes, places = np.unique(_hash_of(after[:, 1], after[:, 0]), return_index=True)
        pre, post = after[places, 1], after[places, 0]
        own = ids_of(post)
        order = np.lexsort((pre[:, 0], pre[:, 1], pre[:, 2], own))
        first = order[np.flatnonzero(np.diff(own[order], prepend=own[order[:1]] + np.uint64(1)))]
        found = hashes.copy()
        found[first] = own[first]
        kept = choose(found)
        ids.append(found[kept])
        pres.append(pre[kept].astype(np.int32))
        posts.append(post[kept].astype(np.int32))
        told.append(hashes[choose(hashes)])
        # what that on the first end says
        hashes, places = np.unique(_hash_of(before[:, 0], before[:, 1]), return_index=True)
        kept = choose(hashes)
        pairs = before[places[kept]].astype(np.int32)
        others.append((hashes[kept], pairs[:, 0], pairs[:, 1]))
    found, pre, post = (np.concatenate([part[i] for part in others]) for i in range(3))
    found, places = np.unique(found, return_index=True)
    new = ~np.isin(found, np.concatenate(told))
    rest = places[new]
    return (
        np.concatenate([*ids, found[new]]),
        np.concatenate([*pres, pre[rest]]),
        np.concatenate([*posts, post[rest]]),
    )


def _relations(texts: Iterable[bytes]) -> Iterator[tuple[I64, I64]]:
    """Of some elements after the others, where they are and to where their relations lead: i64[n, 2, 3].

    First of relations to first ends of lines, then of those to second ends.
    """
    told: dict[str, array[int]] = {relation: array("i") for relation in BOTH}

    def given() -> tuple[I64, I64]:
        pre_to, post_to = (np.array(told[relation], np.int64).reshape(-1, 2, 3) for relation in BOTH)
        return post_to, pre_to

    for text in texts:
        one = _decode_related(text)
        for relation in one.Rels or ():
            if relation.Rel in told:
                told[relation.Rel].extend(one.Pos + relation.To)
        if sum(map(len, told.values())) > 6 * BATCH:
            yield given()
            told = {relation: array("i") for relation in BOTH}
    yield given()


def _order(place: Triple) -> tuple[int, int, int]:
    return place[2], place[1], place[0]


def in_parts(rows: Iterator[Sequence[Any]], size: int = BATCH) -> Iterator[list[Any]]:
    """The same rows in lists of about `size`."""
    gathered: list[Any] = []
    for part in rows:
        gathered += part
        while len(gathered) >= size:
            yield gathered[:size]
            gathered = gathered[size:]
    if gathered:
        yield gathered
