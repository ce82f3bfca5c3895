"""The routes of `labelsz`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Set
from itertools import chain, islice
from threading import Lock
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import msgspec
import numpy as np

from fascicle.datatypes.base import ANY_METHOD, Answer, Call, Change, Datatype, Option, Reply, Route, Work
from fascicle.datatypes.labelmap.requests import MAX_U64, number
from fascicle.datatypes.labelsz import counting, merging, region_counts, tallies
from fascicle.datatypes.labelsz.tallies import INDEX_TYPES, MAX_COUNT, label_and_count
from fascicle.errors import NOT_JSON, BadRequest, ConflictError
from fascicle.store.base import Store
from fascicle.versions.model import Instance
from fascicle.versions.resolution import VersionedView

_JSON = "application/json"
SMALL_ANSWER = 256
"""Answers of up to so many rows are made in the event loop; larger ones are streamed."""
ROWS_AT_ONCE = 1024
PAGE = 10_000
"""How many labels `threshold` answers if it is not told."""

_labels_decoder = msgspec.json.Decoder(list[int])


def _index(call: Call, position: int) -> int:
    name = call.args[position]
    index = INDEX_TYPES.get(name)
    if index is None:
        raise BadRequest(f'unknown index type specified ("{name}")')
    return index


def _two_arguments(call: Call, what: str) -> None:
    if len(call.args) < 2 or not all(call.args[:2]):
        raise BadRequest(f"Must include {what} and element type after '{call.keyword}' endpoint.")


def _count_argument(call: Call, what: str) -> int:
    value = number(call.args[0], what)
    if value > MAX_COUNT:
        raise BadRequest(f"{what} must be an unsigned 32-bit integer, not {call.args[0]!r}")
    return value


# -- counts of labels


def _get_count(call: Call) -> Answer:
    _two_arguments(call, "label")
    label, index = number(call.args[0], "the label"), _index(call, 1)
    try:
        count = tallies.count_of(call.view, label, index)
    except ConflictError:
        raise _torn(label) from None
    return Answer(b'{"Label":%d,"%s":%d}' % (label, call.args[1].encode(), count), _JSON)


def _torn(label: int) -> BadRequest:
    return BadRequest(
        f"merged versions disagree about the elements of label {label}: POST reload at this version to count them"
    )


def _get_counts(call: Call) -> Answer:
    if not call.args:
        raise BadRequest("Must include element type after 'counts' endpoint.")
    index = _index(call, 0)
    try:
        labels = [] if call.body.strip() == b"null" else _labels_decoder.decode(call.body)
    except NOT_JSON as error:
        raise BadRequest(f"Bad JSON label array sent in 'counts' query: {error}") from None
    if labels and not 0 <= min(labels) <= max(labels) <= MAX_U64:
        raise BadRequest("Bad JSON label array sent in 'counts' query: labels are unsigned 64-bit integers")
    unique, place = np.unique(np.array(labels, np.uint64), return_inverse=True)
    found = tallies.read(call.view, unique)
    if found.conflicts.any():
        raise _torn(int(unique[found.conflicts][0]))
    counts = tallies.indexed(found.counts, index)[place].tolist()
    row = b'{"Label":%d,"' + call.args[0].encode() + b'":%d}'
    return Answer(b"[" + b",".join([row % pair for pair in zip(labels, counts, strict=True)]) + b"]", _JSON)


# -- ranks


def _get_top(call: Call) -> Answer:
    _two_arguments(call, "N")
    n, index = _count_argument(call, "N"), _index(call, 1)
    return _ranking(call, index, 0, 0, n)


def _get_threshold(call: Call) -> Answer:
    _two_arguments(call, "threshold")
    least, index = _count_argument(call, "the threshold"), _index(call, 1)
    offset, n = call.integer("offset", 0), call.integer("n", 0)
    if n < 0:
        raise BadRequest(f"the option 'n' must not be negative: {n}")
    return _ranking(call, index, least, max(offset, 0), n or PAGE)


def _ranking(call: Call, index: int, least: int, offset: int, n: int) -> Answer:
    """Labels in order of their counts, as JSON. Answers are kept until the store changes."""
    kept = _kept_of(call.store)
    scope = (call.instance.id, call.ancestry.version, index)
    asked = (*scope, least, offset, n)
    number_ = call.txn.number
    answer = kept.answers.get(asked, number_)
    if answer is not None:
        return Answer(answer, _JSON)
    pages = _pages(call.view, index, least, offset, n, kept, scope, number_)
    if n + offset <= SMALL_ANSWER:
        answer = b"".join(pages)
        kept.answers.put(asked, number_, answer)
        return Answer(answer, _JSON)
    return Answer(pages, _JSON)


def _pages(
    view: VersionedView, index: int, least: int, offset: int, n: int, kept: _Kept, scope: tuple[int, ...], number_: int
) -> Iterator[bytes]:
    # Who reads page after page goes on where the last one ended, as long as nothing was written in between.
    start = kept.ends.get((*scope, offset), number_) if offset else None
    rows = chain.from_iterable(tallies.ranked(view, index, least, start))
    if start is None and offset:
        next(islice(rows, offset - 1, offset), None)
    separator = b"["
    while n > 0 and (some := list(islice(rows, min(n, ROWS_AT_ONCE)))):
        yield separator + b",".join([b'{"Label":%d,"Size":%d}' % label_and_count(key) for key in some])
        separator = b","
        n -= len(some)
        offset += len(some)
    end = next(rows, None) if n == 0 and separator == b"," else None
    if end is not None:
        kept.ends.put((*scope, offset), number_, end)
    yield b"[]" if separator == b"[" else b"]"


class _Stamped:
    """Bytes that were right at a transaction of the store; the least recently used go first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = Lock()
        self._kept: OrderedDict[tuple[int, ...], tuple[int, bytes]] = OrderedDict()

    def get(self, key: tuple[int, ...], transaction: int) -> bytes | None:
        found = self._kept.get(key)
        return found[1] if found is not None and found[0] == transaction else None

    def put(self, key: tuple[int, ...], transaction: int, data: bytes) -> None:
        with self._lock:
            self._kept[key] = transaction, data
            self._kept.move_to_end(key)
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)


class _Kept:
    """What a process remembers of one store."""

    def __init__(self) -> None:
        self.answers = _Stamped(256)
        self.ends = _Stamped(64)
        """Of pages of rankings: the key that the next page begins with."""


_kept_by_store: WeakKeyDictionary[Store, _Kept] = WeakKeyDictionary()


def _kept_of(store: Store) -> _Kept:
    kept = _kept_by_store.get(store)
    if kept is None:
        kept = _kept_by_store.setdefault(store, _Kept())
    return kept


# -- the datatype


def _post_reload(call: Call) -> Answer:
    counting.reload(call)
    return Answer()


def _only_get(call: Call) -> Reply:
    raise BadRequest(f"Only GET allowed to {call.keyword} endpoint")


def _only_post(call: Call) -> Reply:
    raise BadRequest(f"Only POST allowed to {call.keyword} endpoint")


def _query(get: Callable[[Call], Reply]) -> dict[str, Callable[[Call], Reply]]:
    return {"GET": get, "HEAD": _only_get, ANY_METHOD: _only_get}


_TYPES = "<PostSyn | PreSyn | Gap | Note | AllSyn | Voxels>"


class Labelsz(Datatype):
    """Counts of annotation elements per body, and bodies in the order of their counts."""

    typename: ClassVar[str] = "labelsz"
    type_url: ClassVar[str] = "github.com/janelia-flyem/dvid/datatype/labelsz"
    summary: ClassVar[str] = "How many elements of each kind of an annotation instance every body has, ranked."
    routes: ClassVar[tuple[Route, ...]] = (
        Route("count", _query(_get_count), "How many elements of a kind a body has.", path=f"<label>/{_TYPES}"),
        Route(
            "counts",
            _query(_get_counts),
            "The same for many bodies: the body of the GET is a JSON list of labels.",
            path=_TYPES,
            work=Work.HEAVY,
        ),
        Route("top", _query(_get_top), "The bodies with the most elements of a kind.", path=f"<N>/{_TYPES}"),
        Route(
            "threshold",
            _query(_get_threshold),
            "The bodies with at least so many elements of a kind, those with the most first.",
            path=f"<T>/{_TYPES}",
            options=(
                Option("offset", "how many bodies are passed over; default 0"),
                Option("n", f"how many are answered at most; default {PAGE}"),
            ),
        ),
        Route(
            "reload",
            {"POST": _post_reload, ANY_METHOD: _only_post},
            "Count everything anew at this version; answers when it is done.",
            work=Work.HEAVY,
        ),
    )

    def create(self, settings: Mapping[str, str]) -> dict[str, Any]:
        region = settings.get("roi", "")
        if region and region.count(",") != 1:
            raise BadRequest(f"bad ROI value {region!r}: it must be <name>,<uuid>")
        return {counting.STATIC_ROI: region} | ({region_counts.PROPERTY: True} if region else {})

    def extended(self, instance: Instance, view: VersionedView) -> dict[str, Any]:
        return {counting.STATIC_ROI: instance.properties[counting.STATIC_ROI]}

    def merged(self, change: Change, apart: Set[int]) -> None:
        merging.settle(change, apart)

    def syncable(self) -> bool:
        return True

    def follow(self, change: Change, publisher: Instance, event: Any) -> None:
        counting.follow(change, publisher, event)
