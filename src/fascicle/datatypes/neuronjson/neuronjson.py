"""The routes of `neuronjson`."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
from isal import isal_zlib

from fascicle.datatypes.base import ANY_METHOD, Answer, Call, Change, Commit, Datatype, Option, Reply, Route, Work
from fascicle.datatypes.keyvalue import messages
from fascicle.datatypes.neuronjson import conditions, documents, schemas, storage, updates
from fascicle.datatypes.neuronjson.documents import Selection
from fascicle.datatypes.neuronjson.storage import JSON_SCHEMA, SCHEMA, SCHEMA_BATCH
from fascicle.datatypes.neuronjson.updates import Posting
from fascicle.errors import NOT_JSON, BadRequest, NotFound
from fascicle.formats import tar
from fascicle.versions.resolution import VersionedView

_JSON = "application/json"
_OCTETS = "application/octet-stream"
_GZIP_WINDOW = 31
_LARGEST = (1 << 64) - 1
_NAMED = (SCHEMA, SCHEMA_BATCH)
"""Documents that can also be reached as keys."""
_DIGITS = re.compile(r"[0-9]+")

_encode = msgspec.json.Encoder().encode
_texts_decoder = msgspec.json.Decoder(list[str])
_integers_decoder = msgspec.json.Decoder(list[int])


# -- what requests say


def _body_id(text: str) -> int:
    if len(text) > 40 or not _DIGITS.fullmatch(text) or int(text) > _LARGEST:
        raise BadRequest(f"key {text[:100]!r} must be a body id, an unsigned 64-bit number")
    return int(text)


def _key(call: Call) -> str:
    if not call.args or not call.args[0]:
        raise BadRequest("expect key string to follow 'key' endpoint")
    return call.args[0]


def _selection(call: Call) -> Selection:
    query = call.query
    return Selection(query.get("show", ""), query.get("fields", ""))


def _bound(text: str) -> int:
    """An end of a range of keys: what comes behind all digits is the largest id, what comes before them is 0."""
    if text[0] > "9":
        return _LARGEST
    return 0 if text[0] < "0" else _body_id(text)


def _bounds(call: Call) -> tuple[int, int]:
    if len(call.args) < 2 or not call.args[0] or not call.args[1]:
        raise BadRequest(f"expect beginning and end keys to follow '{call.keyword}' endpoint")
    return _bound(call.args[0]), _bound(call.args[1])


def _no_such_method(call: Call) -> Reply:
    raise BadRequest(f'{call.keyword} endpoint does not support "{call.method.lower()}" HTTP verb')


# -- one annotation


def _get(call: Call) -> Answer:
    key = _key(call)
    if key in _NAMED:
        found = storage.document(call.view, key)
    else:
        found = storage.get(call.view, _body_id(key))
        if found is not None:
            found = _selection(call).of(found)
    if found is None:
        raise NotFound(f'Key "{key}" not found')
    return Answer(found, _JSON)


def _head(call: Call) -> Answer:
    key = _key(call)
    if key in _NAMED:
        there = storage.has_document(call.view, key)
    else:
        there = storage.exists(call.view, _body_id(key))
    if not there:
        raise NotFound(f'Key "{key}" not found')
    return Answer(b"", _JSON)


def _delete(call: Call) -> Commit:
    key = _key(call)
    if key in _NAMED:
        return Commit(lambda change: storage.delete_document(change.view, key))
    body = _body_id(key)
    return Commit(lambda change: storage.put(change.view, [(body, None)]))


Parsed = tuple[int, dict[str, Any]]
"""A body, and what was posted for it."""


def _posted(key: str, body: bytes) -> Parsed:
    body_id = _body_id(key)
    if body_id == 0:
        raise BadRequest("body id 0 is reserved and so cannot be stored")
    return body_id, documents.parsed(body)


def _check_user(call: Call) -> None:
    if not call.user:
        raise BadRequest("cannot alter neuronjson data without a valid user")


def _put(call: Call) -> Commit:
    _check_user(call)
    key, body = _key(call), call.body
    if key in _NAMED:
        return Commit(lambda change: storage.put_document(change.view, key, body))
    return Commit(_posting(call, [_posted(key, body)]))


def _put_many(call: Call) -> Commit:
    pairs = messages.decode_key_values(call.body)
    if pairs:
        _check_user(call)
    named: list[tuple[str, bytes]] = []
    posted: list[Parsed] = []
    for raw_key, value in pairs:
        key = raw_key.decode("utf-8", "replace")
        if key in _NAMED:
            named.append((key, value))
        else:
            posted.append(_posted(key, value))
    store = _posting(call, posted)

    def apply(change: Change) -> None:
        store(change)
        for key, value in named:
            storage.put_document(change.view, key, value)

    return Commit(apply)


def _posting(call: Call, posted: list[Parsed]) -> Callable[[Change], None]:
    """What stores posted annotations, one after the other."""
    names = call.query.get("conditional") or call.query.get("conditionals") or ""
    conditional = frozenset(names.split(",")) if names else frozenset[str]()
    replaced = call.flag("replace")
    user = call.user
    ready = [(body, documents.members(document), document) for body, document in posted]

    def apply(change: Change) -> None:
        view = change.view
        schema = storage.document(view, JSON_SCHEMA)
        posting = Posting(user, local_time(change.time_ns), conditional, replaced)
        new: dict[int, bytes | None] = {}
        records = []
        for body, members, document in ready:
            if schema is not None:
                checked = schemas.check(schema, document)
                if checked is not document:
                    members = documents.members(checked)
            updates.check(members, body)
            old = new[body] if body in new else storage.get(view, body)
            stored = None if old is None else documents.stored_members(old)
            made = documents.document_of(updates.updated(stored, members, posting))
            new[body] = made
            records.append({"Action": "postneuronjson", "Key": str(body), "Bytes": len(made)})
        storage.put(view, list(new.items()))
        change.record_all(records)

    return apply


def local_time(time_ns: int) -> str:
    """RFC 3339 with the offset of this place, whole seconds."""
    local = time.localtime(time_ns // 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", local)
    offset = local.tm_gmtoff
    if offset == 0:
        return text + "Z"
    sign = "+" if offset > 0 else "-"
    hours, rest = divmod(abs(offset), 3600)
    return f"{text}{sign}{hours:02d}:{rest // 60:02d}"


# -- lists and ranges

Pairs = Iterator[list[tuple[bytes, bytes]]]
"""Keys and documents in order, in lists; an empty document stands for one that is not there."""


def _key_list(call: Call, first: int, last: int) -> Answer:
    from fascicle.datatypes.neuronjson.tables import table_if_loaded
    from fascicle.kernels import decimal

    table = table_if_loaded(call)
    if first > last:
        bodies = np.empty(0, np.uint64)
    elif table is not None:
        bodies = table.between(first, last)[1]
    else:
        found = [bodies for bodies, _ in storage.batches(call.view, first, last)]
        bodies = np.concatenate([np.empty(0, np.uint64), *found])
    return Answer(b"[" + _quoted(decimal.joined(bodies, b'"')) + b"]", _JSON)


def _quoted(numbers: bytes) -> bytes:
    """Numbers that each have a quote behind them as JSON strings."""
    return b'"' + numbers.replace(b'"', b'","')[:-2] if numbers else b""


def _keys(call: Call) -> Answer:
    return _key_list(call, 0, _LARGEST)


def _key_range(call: Call) -> Answer:
    return _key_list(call, *_bounds(call))


def _key_range_values(call: Call) -> Answer:
    first, last = _bounds(call)
    return _format(call)(call, _ranged(call, first, last) if first <= last else iter(()))


def _ranged(call: Call, first: int, last: int) -> Pairs:
    selection = _selection(call)
    if not selection.everything and last - first > _MANY:
        yield from _ranged_in_table(call, first, last, selection)
        return
    for bodies, handles in storage.batches(call.view, first, last):
        load, part = call.view.load, selection.of
        yield [(b"%d" % body, part(load(handle))) for body, handle in zip(bodies.tolist(), handles, strict=True)]


_MANY = 10_000
"""A range of more ids than this may have so many annotations that their parts are better taken from the table."""


def _ranged_in_table(call: Call, first: int, last: int, selection: Selection) -> Pairs:
    from fascicle.datatypes.neuronjson.table import PART
    from fascicle.datatypes.neuronjson.tables import table_at

    table = table_at(call)
    places, bodies = table.between(first, last)
    for at, (out, ends) in zip(range(0, len(places), PART), table.documents(places, selection), strict=True):
        names = [b"%d" % body for body in bodies[at : at + PART].tolist()]
        found, begin = [], 0
        for name, end in zip(names, ends.tolist(), strict=True):
            found.append((name, bytes(out[begin:end])))
            begin = end
        yield found


def _format(call: Call) -> Callable[[Call, Pairs], Answer]:
    """How keys and documents are to be written."""
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
                if value:
                    if checked and key.decode() in _NAMED:
                        _check_json(key, value)
                    parts += (separator, b'"', key, b'":', value)
                    separator = b","
            yield b"".join(parts)
        yield b"{}" if separator == b"{" else b"}"

    return Answer(pieces(), _JSON)


def _check_json(key: bytes, value: bytes) -> None:
    try:
        msgspec.json.decode(value, type=msgspec.Raw)
    except NOT_JSON as error:
        raise BadRequest(f'value of key "{key.decode()}" is not valid JSON: {error}') from None


def _wanted(call: Call, write: Callable[[Call, Pairs], Answer]) -> list[str]:
    """The keys that the body of `GET keyvalues` lists. Raises BadRequest."""
    if write is _as_protobuf:
        return [key.decode("utf-8", "replace") for key, _, _ in messages.decode_keys(call.body)]
    try:
        return _texts_decoder.decode(call.body)
    except NOT_JSON as error:
        if write is _as_json:
            try:
                return [str(body) for body in _integers_decoder.decode(call.body)]
            except NOT_JSON:
                pass
        if call.body.strip() == b"null":
            return []
        raise BadRequest(f'GET /keyvalues on 0 keys, data "{call.instance.name}": {error}') from None


def _key_values(call: Call) -> Answer:
    write = _format(call)
    keys = [key if key in _NAMED else str(_body_id(key)) for key in _wanted(call, write)]
    return write(call, _looked_up(call.view, keys, _selection(call)))


_KEYS_AT_ONCE = 256


def _looked_up(view: VersionedView, keys: list[str], selection: Selection) -> Pairs:
    for at in range(0, len(keys), _KEYS_AT_ONCE):
        names = keys[at : at + _KEYS_AT_ONCE]
        found = storage.many(view, [0 if name in _NAMED else int(name) for name in names])
        batch = []
        for name, document in zip(names, found, strict=True):
            if name in _NAMED:
                batch.append((name.encode(), storage.document(view, name) or b""))
            else:
                batch.append((name.encode(), b"" if document is None else selection.of(document)))
        yield batch


# -- everything at once


def _all(call: Call) -> Answer:
    from fascicle.datatypes.neuronjson.tables import table_at

    table = table_at(call)
    selection = _selection(call)
    pieces: Iterable[bytes | memoryview] = table.json_list(table.places(), selection, selection.body_ids_only)
    answer = Answer(pieces, _JSON)
    tokens = [token.partition(";")[0].strip() for token in call.headers.get("accept-encoding", "").split(",")]
    if "gzip" in tokens:
        answer.body = _gzipped(pieces)
        answer.headers.append(("Content-Encoding", "gzip"))
    return answer


def _gzipped(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    compressor = isal_zlib.compressobj(1, isal_zlib.DEFLATED, _GZIP_WINDOW)
    for piece in pieces:
        yield compressor.compress(piece)
    yield compressor.flush()


def _query(call: Call) -> Answer:
    from fascicle.datatypes.neuronjson import matching
    from fascicle.datatypes.neuronjson.tables import table_at
    from fascicle.kernels import decimal

    query = conditions.parsed(call.body)
    selection = _selection(call)
    if query.body_ids is not None:
        return Answer(_listed(call.view, query.body_ids, selection), _JSON)
    if not query.alternatives:
        return Answer(b"[]", _JSON)
    table = table_at(call)
    places = matching.found(table, query)
    if call.flag("onlyid"):
        return Answer(decimal.json_list(table.bodies[places]), _JSON)
    return Answer(table.json_list(places, selection), _JSON)


def _listed(view: VersionedView, bodies: tuple[int, ...], selection: Selection) -> Iterator[bytes]:
    separator = b"["
    for document in storage.many(view, bodies):
        if document is not None:
            yield separator + selection.of(document)
            separator = b","
    yield b"[]" if separator == b"[" else b"]"


def _fields(call: Call) -> Answer:
    from fascicle.datatypes.neuronjson.tables import table_at

    counts = table_at(call).counts()
    return Answer.json(counts if call.flag("counts") else list(counts))


def _field_times(call: Call) -> Answer:
    from fascicle.datatypes.neuronjson.tables import table_at

    table = table_at(call)
    told = {}
    for name in sorted(table.columns):
        text = table.greatest_text(name) if name.endswith(documents.TIME) else None
        if text is not None:
            told[name[: -len(documents.TIME)]] = msgspec.Raw(text)
    return Answer.json(told)


# -- documents beside the annotations


def _get_document(call: Call) -> Answer:
    found = storage.document(call.view, call.keyword)
    if found is None:
        return Answer(status=404)
    return Answer(found, _JSON)


def _put_document(call: Call) -> Commit:
    name, body = call.keyword, call.body
    return Commit(lambda change: storage.put_document(change.view, name, body))


def _delete_document(call: Call) -> Commit:
    name = call.keyword
    return Commit(lambda change: storage.delete_document(change.view, name))


_SHOW = (
    Option("show", "`user`, `time` or `all`: also who set each field, when, or both"),
    Option("fields", "only these fields, `name1,name2`, and always `bodyid`"),
)
_FORMATS = (
    Option("json", "`true`: answer with a JSON object of annotations by id"),
    Option("tar", "`true`: answer with a tar archive, a file for each id"),
    Option("jsontar", "`true`: the same"),
    Option("check", "`true`: with `json=true`, fail at the first document that is not JSON"),
    *_SHOW,
)
_WRITING = (
    Option("u", "the user; required"),
    Option("conditional", "fields that keep the value they have, `name1,name2`; also `conditionals`"),
    Option("replace", "`true`: fields that are not given disappear"),
)
_DOCUMENT: dict[str, Callable[[Call], Reply]] = {
    "GET": _get_document,
    "POST": _put_document,
    "DELETE": _delete_document,
    ANY_METHOD: _no_such_method,
}


def _only_get_and_post(call: Call) -> Reply:
    raise BadRequest("only GET or POST methods allowed for /query endpoint")


class Neuronjson(Datatype):
    """A JSON object per body."""

    typename = "neuronjson"
    type_url = "github.com/janelia-flyem/dvid/datatype/neuronjson"
    summary = "One JSON object per body, with who set each field and when, and queries over all of them."
    versioned_classes = (storage.ANNOTATIONS, storage.DOCUMENTS)
    routes = (
        Route(
            "key",
            {"GET": _get, "HEAD": _head, "POST": _put, "DELETE": _delete, ANY_METHOD: _no_such_method},
            "The annotation of a body: read, test, update, delete. A posted object must have `bodyid`; fields that are "
            "null are deleted, others merged into what is there.",
            path="<body>",
            options=(*_SHOW, *_WRITING),
        ),
        Route(
            "keys",
            {"GET": _keys, ANY_METHOD: _keys},
            "The ids of all bodies that have annotations, ascending, as a JSON list of strings.",
            work=Work.HEAVY,
        ),
        Route(
            "keyrange",
            {"GET": _key_range, ANY_METHOD: _key_range},
            "The ids between two ids, both included. What starts behind the digits, such as `z`, is the largest id.",
            path="<first id>/<last id>",
            work=Work.HEAVY,
        ),
        Route(
            "keyrangevalues",
            {"GET": _key_range_values, ANY_METHOD: _key_range_values},
            "The annotations between two ids, both included.",
            path="<first id>/<last id>",
            options=_FORMATS,
            work=Work.HEAVY,
        ),
        Route(
            "keyvalues",
            {"GET": _key_values, "POST": _put_many, "HEAD": _no_such_method, ANY_METHOD: _no_such_method},
            "Many annotations at once. GET: the body lists ids, as a protobuf message Keys, or as a JSON list for json "
            "and tar. POST: the body is a protobuf message KeyValues; all are stored or none.",
            options=(*_FORMATS, *_WRITING),
            work=Work.HEAVY,
        ),
        Route(
            "all",
            {"GET": _all, ANY_METHOD: _all},
            "All annotations as a JSON list, ascending by body, without those that have nothing to show; compressed "
            "for clients that accept gzip.",
            options=_SHOW,
            work=Work.HEAVY,
        ),
        Route(
            "fields",
            {"GET": _fields, ANY_METHOD: _fields},
            "The names of all fields as a JSON list.",
            options=(Option("counts", "`true`: an object of how many annotations have each field"),),
            work=Work.HEAVY,
        ),
        Route(
            "fieldtimes",
            {"GET": _field_times, ANY_METHOD: _field_times},
            "When each field was last set, as a JSON object.",
            work=Work.HEAVY,
        ),
        Route(
            "query",
            {"GET": _query, "POST": _query, "HEAD": _only_get_and_post, ANY_METHOD: _only_get_and_post},
            "The annotations that fit a JSON object of conditions by field, or one of a list of such objects: a value, "
            'a list of values, `"re/<pattern>"`, `"exists/1"` or `"exists/0"`.',
            options=(Option("onlyid", "`true`: only the ids"), *_SHOW),
            work=Work.HEAVY,
            reads_by_post=True,
        ),
        Route(JSON_SCHEMA, _DOCUMENT, "The JSON Schema that posted annotations must fit."),
        Route(SCHEMA, _DOCUMENT, "A document of the client's own, kept as posted."),
        Route(SCHEMA_BATCH, _DOCUMENT, "A document of the client's own, kept as posted."),
    )

    def create(self, settings: Mapping[str, str]) -> dict[str, Any]:
        return {}

    def resolved(self, view: VersionedView) -> None:
        storage.note_all_changes(view)
