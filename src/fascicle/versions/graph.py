"""Operations on repos, versions and instances, each inside of one write transaction.

Everything is checked before anything is changed; what is refused raises BadRequest with the text that clients see.
"""

from __future__ import annotations

import time
import uuid as uuids
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from fascicle.errors import BadRequest
from fascicle.versions import references, times
from fascicle.versions.catalog import CatalogEditor
from fascicle.versions.model import Instance, Node, Repo

RESERVED_NAMES = frozenset({"log", "branch", "note", "commit", "newversion", "tag", "status", "blobstore"})
UUID_CHARACTERS = 32
_HEXADECIMAL = frozenset("0123456789abcdef")


def checked_uuid(text: str) -> str:
    """A UUID given by a client, in lower case. Raises BadRequest."""
    if len(text) != UUID_CHARACTERS:
        raise BadRequest("Bad UUID provided: UUID must be 32 character hexadecimal string")
    lower = text.lower()
    for character in lower:
        if character not in _HEXADECIMAL:
            raise BadRequest(f"Bad UUID provided: invalid hexadecimal character {character!r}")
    return lower


def _new_uuid(editor: CatalogEditor, given: str | None) -> str:
    if given:
        uuid = checked_uuid(given)
        if editor.catalog.node_by_uuid(uuid) is not None:
            raise BadRequest("UUID already exists in datastore")
        return uuid
    return uuids.uuid4().hex


def _log_lines(lines: Sequence[str]) -> tuple[str, ...]:
    stamp = times.rfc3339_seconds(time.time_ns())
    return tuple(f"{stamp}  {line}" for line in lines)


# -- repos


def create_repo(
    editor: CatalogEditor, alias: str = "", description: str = "", root: str | None = None, passcode: str = ""
) -> Repo:
    """A new repo with one open version."""
    uuid = _new_uuid(editor, root)
    now = times.rfc3339(time.time_ns())
    repo_id, version = editor.next_repo(), editor.next_version()
    repo = Repo(
        id=repo_id,
        root_uuid=uuid,
        root_version=version,
        alias=alias,
        description=description,
        passcode=passcode,
        created=now,
        updated=now,
    )
    editor.put_repo(repo)
    editor.put_node(Node(id=version, uuid=uuid, repo_id=repo_id, created=now, updated=now))
    return repo


def change_repo(editor: CatalogEditor, repo: Repo, *, log: Sequence[str] = (), **fields: Any) -> Repo:
    """Change members of a repo and append to its log."""
    current = editor.catalog.repo(repo.id)
    now = times.rfc3339(time.time_ns())
    return editor.put_repo(replace(current, log=(*current.log, *_log_lines(log)), updated=now, **fields))


def check_passcode(repo: Repo, given: str) -> None:
    if repo.passcode and repo.passcode != given:
        raise BadRequest(f"the passcode of repo {repo.root_uuid} is needed for this and was not given rightly")


def delete_repo(editor: CatalogEditor, repo: Repo) -> None:
    """Forget a repo at once; the data of its instances are removed later."""
    for instance in editor.catalog.instances(repo.id):
        editor.put_instance(replace(instance, deleted=True))
    editor.remove_repo(repo)


# -- versions


def change_node(editor: CatalogEditor, node: Node, *, log: Sequence[str] = (), **fields: Any) -> Node:
    """Change members of a version and append to its log."""
    current = editor.catalog.node(node.id)
    now = times.rfc3339(time.time_ns())
    return editor.put_node(replace(current, log=(*current.log, *_log_lines(log)), updated=now, **fields))


def commit(editor: CatalogEditor, node: Node, note: str = "", log: Sequence[str] = ()) -> Node:
    """Lock a version."""
    if editor.catalog.node(node.id).locked:
        raise BadRequest("Could not post to locked node")
    fields = {"note": note} if note else {}
    return change_node(editor, node, log=log, locked=True, **fields)


def new_version(
    editor: CatalogEditor, parent: Node, branch: str | None = None, note: str = "", uuid: str | None = None
) -> Node:
    """A child of a locked version, on its branch or on a new one."""
    parent = editor.catalog.node(parent.id)
    if not parent.locked:
        raise BadRequest("can't branch an unlocked node")
    if branch is None or branch == parent.branch:
        branch = parent.branch
        if any(editor.catalog.node(child).branch == branch for child in parent.children):
            raise BadRequest("branch already exists with given name")
    elif editor.catalog.has_branch(parent.repo_id, branch):
        raise BadRequest("branch already exists with given name")
    return _add_child(editor, (parent,), branch, note, _new_uuid(editor, uuid))


def new_branch(editor: CatalogEditor, parent: Node, branch: str, note: str = "", uuid: str | None = None) -> Node:
    """A child of a locked version on a named branch."""
    if references.branch_name(branch) == "":
        raise BadRequest("Cannot create a master branch")
    if any(character in branch for character in ":~/") or not branch.isprintable():
        raise BadRequest(
            f"branch name {branch!r} could not be used in a reference: it must not contain ':', '~' or '/'"
        )
    return new_version(editor, parent, branch, note, uuid)


def tag(editor: CatalogEditor, parent: Node, name: str) -> Node:
    """A locked child of a locked version whose UUID is the tag itself."""
    if not name or any(character in name for character in ":~/?#") or not name.isprintable() or " " in name:
        raise BadRequest(
            f"tag {name!r} could not be used in a URL: it must be a word without ':', '~', '/', '?' or '#'"
        )
    if len(name) == UUID_CHARACTERS and _HEXADECIMAL.issuperset(name.lower()):
        raise BadRequest(f"tag {name!r} has the form of a UUID")
    if editor.catalog.node_by_uuid(name) is not None:
        raise BadRequest("UUID already exists in datastore")
    parent = editor.catalog.node(parent.id)
    if not parent.locked:
        raise BadRequest("can't branch an unlocked node")
    branch = f"tag-{name}"
    if editor.catalog.has_branch(parent.repo_id, branch):
        raise BadRequest("branch already exists with given name")
    child = _add_child(editor, (parent,), branch, "", name)
    return commit(editor, child, f'Tag of version {parent.uuid} with "{name}"')


def merge(editor: CatalogEditor, parents: Sequence[Node], note: str = "") -> Node:
    """An open version that sees what all of its locked parents see; it stays on the branch of the first one."""
    current = [editor.catalog.node(parent.id) for parent in parents]
    if len(current) < 2:
        raise BadRequest("Must specify at least two parent UUIDs using 'parents' field")
    if len({node.id for node in current}) < len(current):
        raise BadRequest("a version cannot be merged with itself: 'parents' names one version twice")
    if len({node.repo_id for node in current}) > 1:
        raise BadRequest("versions of different repos cannot be merged")
    if not all(node.locked for node in current):
        raise BadRequest("can't branch an unlocked node")
    first = current[0]
    if any(editor.catalog.node(child).branch == first.branch for child in first.children):
        name = first.branch or "master"
        raise BadRequest(f'branch already exists with given name: version {first.uuid} has a child on branch "{name}"')
    return _add_child(editor, tuple(current), first.branch, note, uuids.uuid4().hex)


def _add_child(editor: CatalogEditor, parents: tuple[Node, ...], branch: str, note: str, uuid: str) -> Node:
    now = times.rfc3339(time.time_ns())
    return editor.put_node(
        Node(
            id=editor.next_version(),
            uuid=uuid,
            repo_id=parents[0].repo_id,
            branch=branch,
            note=note,
            parents=tuple(parent.id for parent in parents),
            created=now,
            updated=now,
        )
    )


# -- instances


def check_instance_name(name: str) -> None:
    """Raises BadRequest for names that could not be used in a URL."""
    if name in RESERVED_NAMES:
        raise BadRequest(f'cannot use reserved name "{name}"')
    if not name or not name.isprintable() or any(character in "/?#" or character.isspace() for character in name):
        raise BadRequest(f"data instance name {name!r} must be a word without '/', '?' and '#'")


def create_instance(
    editor: CatalogEditor, node: Node, *, at_least: int = 1, log: Sequence[str] = (), **fields: Any
) -> Instance:
    """A new instance; `fields` are those of `Instance` that its settings give, with `name` and `typename`."""
    name = fields["name"]
    check_instance_name(name)
    repo = editor.catalog.repo(node.repo_id)
    if editor.catalog.has_instance(repo.id, name):
        raise BadRequest(f'Data named "{name}" already exists in repo (root {repo.root_uuid})')
    instance = Instance(
        id=editor.next_instance(at_least),
        data_uuid=uuids.uuid4().hex,
        repo_id=repo.id,
        created_at_version=node.id,
        **fields,
    )
    editor.put_instance(instance)
    change_repo(editor, repo, log=log)
    return instance


def change_instance(editor: CatalogEditor, instance: Instance, *, log: Sequence[str] = (), **fields: Any) -> Instance:
    """Change members of an instance and append to its repo's log."""
    current = editor.catalog.instance_by_id(instance.id)
    changed = editor.put_instance(replace(current, **fields))
    if log:
        change_repo(editor, editor.catalog.repo(changed.repo_id), log=log)
    return changed


def rename_instance(editor: CatalogEditor, instance: Instance, name: str) -> Instance:
    """Give an instance another name; its data and what follows it stay."""
    check_instance_name(name)
    if editor.catalog.has_instance(instance.repo_id, name):
        raise BadRequest("data name already exists")
    return change_instance(editor, instance, name=name, log=[f'Renamed data instance "{instance.name}" to "{name}"'])


def delete_instance(editor: CatalogEditor, instance: Instance) -> None:
    """Take an instance away; its name is free at once, its data are removed later."""
    line = f"Delete data instance '{instance.name}' of type '{instance.typename}'"
    change_instance(editor, instance, deleted=True, log=[line])


def follow(editor: CatalogEditor, instance: Instance, names: Sequence[str], replaced: bool) -> Instance:
    """Let an instance follow others of its repo."""
    publishers = []
    for name in names:
        try:
            publishers.append(editor.catalog.instance(instance.repo_id, name).data_uuid)
        except BadRequest as error:
            raise BadRequest(f'issue with requested sync name "{name}": {error.message}') from None
    old = () if replaced else editor.catalog.instance_by_id(instance.id).syncs
    syncs = tuple(dict.fromkeys((*old, *publishers)))
    line = f'Data instance "{instance.name}" set to sync with map[{" ".join(names)}]'
    return change_instance(editor, instance, syncs=syncs, log=[line])
