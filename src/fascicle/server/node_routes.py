"""Routes of versions: notes, logs, locking, children."""

from __future__ import annotations

from fascicle.datatypes.base import Answer
from fascicle.errors import BadRequest
from fascicle.server.catalog_calls import CatalogCall, CatalogRoute, Edit, member_answer, text_list, text_member
from fascicle.versions import graph


def _note(call: CatalogCall) -> Answer:
    return Answer.json({"note": call.node.note})


def _set_note(call: CatalogCall) -> Edit:
    given = call.json()
    if "note" not in given:
        raise BadRequest("Could not find 'note' value in POSTed JSON.")
    note = text_member(given, "note")
    return Edit(lambda editor: graph.change_node(editor, call.node, note=note))


def _log(call: CatalogCall) -> Answer:
    return Answer.json({"log": call.node.log})


def _append_log(call: CatalogCall) -> Edit:
    given = call.json()
    if "log" not in given:
        raise BadRequest("Could not find 'log' value in POSTed JSON.")
    lines = text_list(given, "log")
    return Edit(lambda editor: graph.change_node(editor, call.node, log=lines))


def _status(call: CatalogCall) -> Answer:
    return Answer.json({"Locked": call.node.locked})


def _commit(call: CatalogCall) -> Edit:
    given = call.json()
    note, lines = text_member(given, "note"), text_list(given, "log")
    return Edit(
        lambda editor: graph.commit(editor, call.node, note, lines),
        lambda node: member_answer("committed", node.uuid),
    )


def _new_version(call: CatalogCall) -> Edit:
    given = call.json()
    note, uuid = text_member(given, "note"), text_member(given, "uuid")
    return Edit(
        lambda editor: graph.new_version(editor, call.node, None, note, uuid),
        lambda node: member_answer("child", node.uuid),
    )


def _branch(call: CatalogCall) -> Edit:
    given = call.json()
    branch, note, uuid = text_member(given, "branch"), text_member(given, "note"), text_member(given, "uuid")
    return Edit(
        lambda editor: graph.new_branch(editor, call.node, branch, note, uuid),
        lambda node: member_answer("child", node.uuid),
    )


def _tag(call: CatalogCall) -> Edit:
    given = call.json()
    name = text_member(given, "tag")
    return Edit(lambda editor: graph.tag(editor, call.node, name), lambda node: member_answer("child", node.uuid))


GATED = frozenset({"note", "log", "commit", "lock"})
"""Keywords whose POST is refused on a locked version."""

ROUTES = (
    CatalogRoute("note", {"GET": _note, "POST": _set_note}, 'The note of a version: `{"note": ...}`.'),
    CatalogRoute("log", {"GET": _log, "POST": _append_log}, 'The log of a version: `{"log": [...]}`; POST appends.'),
    CatalogRoute("status", {"GET": _status}, 'Whether a version is locked: `{"Locked": true}`.'),
    CatalogRoute(
        "commit",
        {"GET": _status, "POST": _commit},
        'Lock a version; `{"note": ..., "log": [...]}` are added before. Answers `{"committed": UUID}`.',
    ),
    CatalogRoute("lock", {"POST": _commit}, "The old name of commit."),
    CatalogRoute(
        "newversion",
        {"POST": _new_version},
        'A child of a locked version on its branch; optional `{"note": ..., "uuid": ...}`. Answers `{"child": UUID}`.',
    ),
    CatalogRoute(
        "branch",
        {"POST": _branch},
        'A child of a locked version on a new branch: `{"branch": ..., "note": ..., "uuid": ...}`.',
    ),
    CatalogRoute("tag", {"POST": _tag}, 'A locked child whose UUID is the tag: `{"tag": "v1.0"}`.'),
)
