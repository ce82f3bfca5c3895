"""The routes of `keyvalue`: requests to calls on `values`, and their answers in JSON, protobuf and tar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import msgspec

from fascicle.datatypes.base import ANY_METHOD, Answer, Call, Change, Commit, Datatype, Option, Reply, Route, Work
from fascicle.datatypes.keyvalue import byte_ranges, messages, text_keys, values
from fascicle.datatypes.keyvalue.messages import Ranged
from fascicle.errors import NOT_JSON, BadRequest, NotFound
from fascicle.formats import tar
from fascicle.store.base import Store
from fascicle.versions.resolution import VersionedView

_ACCEPT_RANGES = ("Accept-Ranges", "bytes")
_OCTETS = "application/octet-stream"
_JSON = "application/json"
_encode = msgspec.json.Encoder().encode


class Wanted(msgspec.Struct):
    """One entry of a JSON list of keys."""

    key: str
    byte_start: int | None = None
    byte_end: int | None = None


_keys_decoder = msgspec.json.Decoder(list[str])
_wanted_decoder = msgspec.json.Decoder(list[Wanted])


# -- one key


def _key(call: Call) -> bytes:
    if not call.args or not call.args[0]:
        raise BadRequest("expect key string to follow 'key' endpoint")
    return text_keys.encoded(call.args[0])


def _get(call: Call) -> Answer:
    key = _key(call)
    value = values.get(call.view, key)
    if value is None:
        raise NotFound(f'Key "{call.args[0]}" not found')
    query = call.query
    if query and ("byte_start" in query or "byte_end" in query):
        if "range" in call.headers:
            raise BadRequest("a part of a value is asked for both by the header Range and by options")
        part = byte_ranges.from_options(query.get("byte_start"), query.get("byte_end"), len(value))
        assert part is not None
        return Answer(part.of(value), _OCTETS, 200, [_ACCEPT_RANGES])
    header = call.headers.get("range")
    if header is not None:
        found = byte_ranges.from_header(header, len(value))
        if found is not None:
            shown = ("Content-Range", f"bytes {found.first}-{found.last}/{len(value)}")
            return Answer(found.of(value), _OCTETS, 206, [_ACCEPT_RANGES, shown])
    return Answer(value, _OCTETS, 200, [_ACCEPT_RANGES])


def _head(call: Call) -> Answer:
    if not values.exists(call.view, _key(call)):
        raise NotFound(f'Key "{call.args[0]}" not found')
    return Answer(b"", _OCTETS, 200, [_ACCEPT_RANGES])


def _put(call: Call) -> Commit:
    key, value = _key(call), call.body

    def apply(change: Change) -> None:
        values.put(change.view, key, value)
        change.record({"Action": "postkv", "Key": text_keys.shown(key), "Bytes": len(value)})

    return Commit(apply)


def _delete(call: Call) -> Commit:
    key = _key(call)

    def apply(change: Change) -> None:
        values.delete(change.view, key)
        change.record({"Action": "delete", "Key": text_keys.shown(key)})

    return Commit(apply)


def _no_such_method(call: Call) -> Reply:
    raise BadRequest(f'{call.keyword} endpoint does not support "{call.method.lower()}" HTTP verb')


# -- lists and ranges


def _list_of_keys(call: Call, first: bytes | None, last: bytes | None) -> Answer:
    """Keys as a JSON list. An answer is kept until the store changes: viewers ask again and again."""
    lists = _kept_lists.setdefault(call.store, {})
    asked = (call.instance.id, call.ancestry.version, first, last)
    number = call.txn.number
    kept = lists.get(asked)
    if kept is None or kept[0] != number:
        names: list[str] = []
        for batch in values.listed(call.view, first, last):
            names += [str(key, "utf-8", "replace") for key in batch]
        kept = (number, _encode(names))
        if len(lists) >= _KEPT_LISTS:
            lists.clear()
        if len(kept[1]) <= _KEPT_LIST_BYTES:
            lists[asked] = kept
    return Answer(kept[1], _JSON)


_KEPT_LISTS = 32
_KEPT_LIST_BYTES = 1 << 20
_kept_lists: WeakKeyDictionary[Store, dict[tuple[object, ...], tuple[int, bytes]]] = WeakKeyDictionary()


def _keys(call: Call) -> Answer:
    return _list_of_keys(call, None, None)


def _bounds(call: Call) -> tuple[bytes, bytes]:
    what = "the first and the last key of a range"
    return text_keys.encoded(call.argument(0, what)), text_keys.encoded(call.argument(1, what))


def _key_range(call: Call) -> Answer:
    first, last = _bounds(call)
    return _list_of_keys(call, first, last) if first <= last else Answer(b"[]", _JSON)


def _key_range_values(call: Call) -> Answer:
    first, last = _bounds(call)
    return _format(call)(call, values.ranged(call.view, first, last) if first <= last else iter(()))


Pairs = Iterator[list[tuple[bytes, bytes]]]
"""Keys and values in order, in lists."""


def _format(call: Call) -> Callable[[Call, Pairs], Answer]:
    """How key-values are to be written."""
    as_tar = call.flag("tar") or call.flag("jsontar")
    if call.flag("json"):
        if as_tar:
            raise BadRequest("can only specify tar or json output, not both")
        return _as_json
    return _as_tar if as_tar else _as_protobuf


def _as_protobuf(call: Call, pairs: Pairs) -> Answer:
    return Answer((messages.key_values(batch) for batch in pairs), _OCTETS)


def _as_tar(call: Call, pairs: Pairs) -> Answer:
    def pieces() -> Iterator[bytes]:
        for batch in pairs:
            yield b"".join([tar.entry(key, value) for key, value in batch])
        yield tar.END

    return Answer(pieces(), "application/tar")


def _as_json(call: Call, pairs: Pairs) -> Answer:
    checked = call.flag("check")

    def pieces() -> Iterator[bytes]:
        separator = b"{"
        for batch in pairs:
            parts: list[bytes] = []
            for key, value in batch:
                if checked and value:
                    try:
                        _check_json(key, value)
                    except BadRequest:
                        yield b"".join(parts)
                        raise
                parts += (separator, _encode(text_keys.shown(key)), b":", value or b"{}")
                separator = b","
            yield b"".join(parts)
        yield b"{}" if separator == b"{" else b"}"

    return Answer(pieces(), _JSON)


def _check_json(key: bytes, value: bytes) -> None:
    try:
        msgspec.json.decode(value, type=msgspec.Raw)
    except NOT_JSON as error:
        raise BadRequest(f'value of key "{text_keys.shown(key)}" is not valid JSON: {error}') from None


# -- many keys


def _wanted(call: Call, as_protobuf: bool) -> list[Ranged]:
    """What the body of `GET keyvalues` asks for, in order. Raises BadRequest."""
    if as_protobuf:
        return messages.decode_keys(call.body)
    try:
        return [(text_keys.encoded(key), None, None) for key in _keys_decoder.decode(call.body)]
    except NOT_JSON:
        pass
    try:
        wanted = _wanted_decoder.decode(call.body)
    except NOT_JSON as error:
        if call.body.strip() == b"null":
            return []
        raise BadRequest(f'GET /keyvalues on 0 keys, data "{call.instance.name}": {error}') from None
    for entry in wanted:
        if (entry.byte_start is None) != (entry.byte_end is None):
            raise BadRequest(f'key "{entry.key}": byte_start and byte_end must be given together')
    return [(text_keys.encoded(entry.key), entry.byte_start, entry.byte_end) for entry in wanted]


def _part(value: bytes | None, first: int | None, last: int | None) -> bytes:
    """The part of a value that is asked for; b"" for a key that is not there."""
    if value is None:
        return b""
    if first is None or last is None:
        return value
    return byte_ranges.strict(first, last, len(value)).of(value)


def _key_values(call: Call) -> Answer:
    write = _format(call)
    wanted = _wanted(call, write is _as_protobuf)
    view = call.view
    if all(first is None for _, first, _ in wanted):
        return write(call, _looked_up(view, [key for key, _, _ in wanted]))
    parts = []
    for key, first, last in wanted:
        part = _part(values.get(view, key), first, last)
        if write is _as_json and first is not None and part:
            _check_json(key, part)
        parts.append((key, part))
    return write(call, iter((parts,)))


def _looked_up(view: VersionedView, wanted: list[bytes]) -> Pairs:
    for at in range(0, len(wanted), _KEYS_AT_ONCE):
        names = wanted[at : at + _KEYS_AT_ONCE]
        yield [(key, value or b"") for key, value in zip(names, values.many(view, names), strict=True)]


_KEYS_AT_ONCE = 256


def _put_key_values(call: Call) -> Commit:
    pairs = messages.decode_key_values(call.body)
    for key, _ in pairs:
        if not key:
            raise BadRequest("a key must not be empty")

    def apply(change: Change) -> None:
        values.put_many(change.view, pairs)
        change.record_all(
            {"Action": "postkv", "Key": text_keys.shown(key), "Bytes": len(value)} for key, value in pairs
        )

    return Commit(apply)


_CHECK = Option("check", "`true`: with `json=true`, fail at the first value that is not JSON")
_FORMATS = (
    Option("json", "`true`: answer with a JSON object of the values as they are"),
    Option("tar", "`true`: answer with a tar archive, a file for each key"),
    Option("protobuf", "`true`: answer with a protobuf message KeyValues, as without any option"),
    _CHECK,
)


class Keyvalue(Datatype):
    """Values of any bytes under text keys."""

    typename = "keyvalue"
    type_url = "github.com/janelia-flyem/dvid/datatype/keyvalue"
    type_version = "0.2"
    summary = "Values of any bytes under keys that are text, each versioned on its own."
    versioned_classes = (text_keys.VALUES,)
    routes = (
        Route(
            "key",
            {"GET": _get, "HEAD": _head, "POST": _put, "DELETE": _delete, ANY_METHOD: _no_such_method},
            "The value of a key: read, test, write, delete. The header Range asks for a part.",
            path="<key>",
            options=(
                Option("byte_start", "first byte of a part"),
                Option("byte_end", "last byte of a part"),
            ),
        ),
        Route(
            "keys", {"GET": _keys, ANY_METHOD: _keys}, "All keys in bytewise order, as a JSON list.", work=Work.HEAVY
        ),
        Route(
            "keyrange",
            {"GET": _key_range, ANY_METHOD: _key_range},
            "The keys between two keys, both included, as a JSON list.",
            path="<first key>/<last key>",
            work=Work.HEAVY,
        ),
        Route(
            "keyrangevalues",
            {"GET": _key_range_values, ANY_METHOD: _key_range_values},
            "The keys and values between two keys, both included.",
            path="<first key>/<last key>",
            options=_FORMATS,
            work=Work.HEAVY,
        ),
        Route(
            "keyvalues",
            {"GET": _key_values, "POST": _put_key_values, "HEAD": _no_such_method, ANY_METHOD: _no_such_method},
            "Many values at once. GET: the body lists keys, as a protobuf message Keys, or as a JSON list for json and "
            "tar. POST: the body is a protobuf message KeyValues; all are written or none.",
            options=_FORMATS,
            work=Work.HEAVY,
        ),
    )

    def create(self, settings: Mapping[str, str]) -> dict[str, Any]:
        return {}
