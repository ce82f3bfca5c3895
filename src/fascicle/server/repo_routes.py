"""Routes of repos: making and deleting them, information, instances, merging versions."""

from __future__ import annotations

from typing import Any

from fascicle.datatypes import derived, instance_settings, registry
from fascicle.datatypes.base import Answer
from fascicle.datatypes.change import MIN_MUTATION_ID
from fascicle.errors import BadRequest
from fascicle.server import instance_creation
from fascicle.server.catalog_calls import CatalogCall, CatalogRoute, Edit, member_answer, text_list, text_member
from fascicle.server.descriptions import Describer
from fascicle.versions import conflicts, graph, references
from fascicle.versions.catalog import CatalogEditor
from fascicle.versions.model import Instance, Node
from fascicle.versions.resolution import VersionedView


def describer(call: CatalogCall) -> Describer:
    store = call.app.store
    return Describer(call.txn, call.catalog, store.description, call.app.datatype_settings[MIN_MUTATION_ID])


def all_repos(call: CatalogCall) -> Answer:
    """`GET /api/repos/info`"""
    describe = describer(call).repo
    return Answer.json({repo.root_uuid: describe(repo) for repo in call.catalog.repos()})


def create_repo(call: CatalogCall) -> Edit:
    """`POST /api/repos`"""
    given = call.json()
    alias, description = text_member(given, "alias"), text_member(given, "description")
    root, passcode = text_member(given, "root"), text_member(given, "passcode")
    return Edit(
        lambda editor: graph.create_repo(editor, alias, description, root, passcode),
        lambda repo: member_answer("root", repo.root_uuid),
    )


def delete_repo(call: CatalogCall) -> Edit:
    """`DELETE /api/repo/<UUID>?imsure=true`"""
    _check_sure(call)
    repo = call.catalog.repo(call.node.repo_id)
    graph.check_passcode(repo, call.request.query.get("passcode", ""))
    return Edit(lambda editor: graph.delete_repo(editor, repo), call.app.start_sweeping)


def delete_instance(call: CatalogCall) -> Edit:
    """`DELETE /api/repo/<UUID>/<name>?imsure=true`"""
    _check_sure(call)
    repo = call.catalog.repo(call.node.repo_id)
    graph.check_passcode(repo, call.request.query.get("passcode", ""))
    instance = call.catalog.instance(repo.id, call.request.segments[3])
    return Edit(lambda editor: graph.delete_instance(editor, instance), call.app.start_sweeping)


def _check_sure(call: CatalogCall) -> None:
    if call.request.query.get("imsure") != "true":
        raise BadRequest("deleting needs the option 'imsure=true'")


def _head(call: CatalogCall) -> Answer:
    return Answer()


def _info(call: CatalogCall) -> Answer:
    return Answer.json(describer(call).repo(call.catalog.repo(call.node.repo_id)))


def _set_info(call: CatalogCall) -> Edit:
    given = call.json()
    fields = {name: text_member(given, name) for name in ("alias", "description") if name in given}
    return Edit(
        lambda editor: graph.change_repo(editor, editor.catalog.repo(call.node.repo_id), **fields),
    )


def _log(call: CatalogCall) -> Answer:
    return Answer.json({"log": call.catalog.repo(call.node.repo_id).log})


def _append_log(call: CatalogCall) -> Edit:
    given = call.json()
    if "log" not in given:
        raise BadRequest("Could not find 'log' value in POSTed JSON.")
    lines = text_list(given, "log")
    return Edit(lambda editor: graph.change_repo(editor, editor.catalog.repo(call.node.repo_id), log=lines))


def _branch_versions(call: CatalogCall) -> Answer:
    if not call.args:
        raise BadRequest("'branch-versions' must be followed by the name of a branch")
    branch = references.branch_name(call.args[0])
    return Answer.json([node.uuid for node in call.catalog.branch_versions(call.node.repo_id, branch)])


# -- instances


def _create_instance(call: CatalogCall) -> Edit:
    settings = instance_settings.as_texts(call.json())
    request, app, node = call.request, call.app, call.node
    _check_open(call, node)
    root = call.catalog.repo(node.repo_id).root_uuid
    new = instance_creation.planned(settings, app.datatype_settings, admin=request.admin, root_uuid=root)

    def apply(editor: CatalogEditor) -> Instance:
        current = editor.catalog.node(node.id)
        _check_open(call, current)
        return new.make(editor, current, app.datatype_settings, user=request.user, app=request.app)

    answer = f"Added {new.name} [{new.typename}] to node {node.uuid}"
    return Edit(apply, lambda _: member_answer("result", answer))


def _check_open(call: CatalogCall, node: Node) -> None:
    if node.locked and not call.request.admin and not call.app.gates.full_write:
        raise BadRequest(f"New data instance cannot be created on locked node {node.uuid}")


# -- merging


def _parents(call: CatalogCall, given: dict[str, Any]) -> list[Node]:
    references = text_list(given, "parents")
    if len(references) < 2:
        raise BadRequest("Must specify at least two parent UUIDs using 'parents' field")
    parents = []
    for reference in references:
        try:
            parents.append(call.catalog.resolve(reference))
        except BadRequest as error:
            raise BadRequest(f'can\'t match parent "{reference}": {error.message}') from None
    return parents


def _merge(call: CatalogCall) -> Edit:
    given = call.json()
    if text_member(given, "mergetype") != "conflict-free":
        raise BadRequest("'mergeType' must be 'conflict-free' at this time")
    parents, note = _parents(call, given), text_member(given, "note")

    def apply(editor: CatalogEditor) -> Node:
        merged = graph.merge(editor, parents, note)
        derived.settle(editor, merged)
        return merged

    return Edit(apply, lambda node: member_answer("child", node.uuid))


def _resolve(call: CatalogCall) -> Edit:
    given = call.json()
    names = text_list(given, "data")
    if not names:
        raise BadRequest("Must specify at least one data instance using 'data' field")
    parents, note = _parents(call, given), text_member(given, "note")
    instances = []
    for name in dict.fromkeys(names):
        instance = call.catalog.instance(parents[0].repo_id, name)
        classes = registry.datatype(instance.typename).versioned_classes
        if not classes:
            raise BadRequest(
                f'conflicts of data instance "{name}" of type {instance.typename} cannot be resolved by key'
            )
        instances.append((instance, classes))

    def apply(editor: CatalogEditor) -> Node:
        merged = conflicts.resolve(editor, instances, parents, note)
        for instance, _ in instances:
            for version in (*merged.parents, merged.id):
                view = VersionedView(editor.txn, instance.id, editor.catalog.ancestry(version))
                registry.datatype(instance.typename).resolved(view)
        derived.settle(editor, merged)
        return merged

    return Edit(apply, lambda node: member_answer("child", node.uuid))


ROUTES = (
    CatalogRoute("", {"HEAD": _head, "DELETE": delete_repo}, "HEAD: whether a version exists."),
    CatalogRoute(
        "info",
        {"GET": _info, "POST": _set_info},
        'Everything about a repo as JSON; POST `{"alias": ..., "description": ...}` changes it.',
        heavy=True,
    ),
    CatalogRoute("log", {"GET": _log, "POST": _append_log}, 'The log of a repo: `{"log": [...]}`; POST appends.'),
    CatalogRoute(
        "instance",
        {"POST": _create_instance},
        'A new data instance: `{"typename": ..., "dataname": ..., "versioned": ..., settings of the datatype}`.',
        heavy=True,
    ),
    CatalogRoute("branch-versions", {"GET": _branch_versions}, "UUIDs from a branch's leaf to the root.", "<branch>"),
    CatalogRoute(
        "merge",
        {"POST": _merge},
        'A version that sees several locked ones: `{"mergeType": "conflict-free", "parents": [...], "note": ...}`.',
    ),
    CatalogRoute(
        "resolve",
        {"POST": _resolve},
        'A merge in which the first parents win: `{"data": [...], "parents": [...], "note": ...}`.',
        heavy=True,
    ),
)
