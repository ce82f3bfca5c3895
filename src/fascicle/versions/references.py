"""How requests name versions: a UUID, a prefix of one, a tag, or a branch with a number of steps back.

2b6d75f1c6e348ce945e1a66eb2f6bf3     a whole UUID; it counts although others start with it
2b6d                                 a prefix that one version has, in any repo
2b6d:master                          the last version of a branch in the repo of 2b6d
2b6d:side~2                          two versions before that
:master                              the same, where there is only one repo
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fascicle.errors import BadRequest

if TYPE_CHECKING:
    from fascicle.versions.catalog import Catalog
    from fascicle.versions.model import Node


def resolve(catalog: Catalog, reference: str) -> Node:
    """The version that a reference names. Raises BadRequest if there is none or more than one."""
    selector, colon, expression = reference.partition(":")
    if ":" in expression:
        raise BadRequest(f'bad UUID specification "{reference}"')
    if not colon:
        return _by_prefix(catalog, selector)
    if selector:
        node = _by_prefix(catalog, selector)
        if not expression:
            return node
        return _on_branch(catalog, node.repo_id, expression)
    repos = catalog.repos()
    if not repos:
        raise BadRequest(f'there is no repo, so reference "{reference}" names no version')
    if len(repos) > 1:
        raise BadRequest("UUID must be specified if more than one repo exists")
    return _on_branch(catalog, repos[0].id, expression)


def branch_name(name: str) -> str:
    """The stored name of a branch: `master` is the one without a name."""
    return "" if name == "master" else name


def _by_prefix(catalog: Catalog, prefix: str) -> Node:
    exact = catalog.node_by_uuid(prefix) or catalog.node_by_uuid(prefix.lower())
    if exact is not None:
        return exact
    if not prefix:
        raise BadRequest("could not find UUID with partial match to an empty reference")
    found = catalog.nodes_with_prefix(prefix)
    if prefix.lower() != prefix:
        found += [node for node in catalog.nodes_with_prefix(prefix.lower()) if node not in found]
    if not found:
        raise BadRequest(f"could not find UUID with partial match to {prefix}")
    if len(found) > 1:
        raise BadRequest(f"more than one UUID matches {prefix}")
    return found[0]


def _on_branch(catalog: Catalog, repo_id: int, expression: str) -> Node:
    name, tilde, steps = expression.partition("~")
    branch = branch_name(name)
    head = catalog.head(repo_id, branch)
    if not tilde:
        return head
    if not (steps.isascii() and steps.isdecimal()):
        raise BadRequest(f'can\'t parse parent "{steps}" in branch "{name}"')
    walk = catalog.branch_versions(repo_id, branch)
    if int(steps[:12]) >= len(walk):
        raise BadRequest(f'parent {steps} is out of range for branch "{name}"')
    return walk[int(steps)]
