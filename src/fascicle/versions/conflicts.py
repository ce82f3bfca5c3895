"""Merging versions that disagree: which versions may do so, and resolving that key by key: the first parent wins.

Where a lower parent sees another value than the winner, that value is hidden by a tombstone in a locked child of that
parent, and the children are merged. If the winner only inherits its value from a version that the lower parent descends
from, the tombstone would hide that, too; then the merged version gets a copy of the value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fascicle.errors import BadRequest
from fascicle.versions import graph, keys
from fascicle.versions.catalog import Catalog, CatalogEditor
from fascicle.versions.model import Instance, Node
from fascicle.versions.resolution import _TOMBSTONE_HANDLE, VersionedView

NOTE = "Version for deleting conflicts before merge"


def resolve(
    editor: CatalogEditor, instances: Sequence[tuple[Instance, Sequence[int]]], parents: Sequence[Node], note: str = ""
) -> Node:
    """The merged version; `instances` come with the classes of their versioned keys."""
    for instance, _ in instances:
        if not instance.versioned:
            raise BadRequest(f'data instance "{instance.name}" is not versioned, so it has no conflicts')
    catalog = editor.catalog
    ancestries = [catalog.ancestry(parent.id) for parent in parents]
    hidden: list[set[tuple[int, int, bytes]]] = [set() for _ in parents]
    copied: list[tuple[Instance, int, bytes, bytes]] = []
    for instance, classes in instances:
        for key_class in classes:
            for type_key, entries in _groups(editor, instance, key_class):
                listed = [(version, handle == _TOMBSTONE_HANDLE) for version, handle in entries.items()]
                seen = [ancestry.resolve(listed) for ancestry in ancestries]
                winner = next((version for version in seen if version is not None), None)
                if winner is None:
                    continue
                losers = [at for at, version in enumerate(seen) if version not in (None, winner)]
                for at in losers:
                    hidden[at].add((instance.id, key_class, type_key))
                if any(ancestries[at].contains(winner) for at in losers):
                    copied.append((instance, key_class, type_key, entries[winner]))
    merged_from = []
    for parent, removals in zip(parents, hidden, strict=True):
        merged_from.append(_extension(editor, parent, removals) if removals else parent)
    merged = graph.merge(editor, merged_from, note)
    ancestry = editor.catalog.ancestry(merged.id)
    for instance, key_class, type_key, handle in copied:
        view = VersionedView(editor.txn, instance.id, ancestry)
        view.put(key_class, type_key, view.load(handle))
    return merged


def versions_apart(catalog: Catalog, merged: Node) -> set[int]:
    """The versions that some parents of a merged version descend from, or are, and others do not."""
    ancestries = [catalog.ancestry(parent) for parent in merged.parents]
    apart: set[int] = set()
    left = list(merged.parents)
    while left:
        version = left.pop()
        if version not in apart and not all(ancestry.contains(version) for ancestry in ancestries):
            apart.add(version)
            left += catalog.node(version).parents
    return apart


def _groups(editor: CatalogEditor, instance: Instance, key_class: int) -> Iterator[tuple[bytes, dict[int, bytes]]]:
    """(type key, version -> handle) for all keys of a class."""
    first = keys.prefix(instance.id, key_class)
    base, entries = b"", dict[int, bytes]()
    for key, handle in editor.txn.scan_handles(first, keys.after(first)):
        if key[:-4] != base:
            if entries:
                yield base[keys.PREFIX_BYTES :], entries
            base, entries = key[:-4], {}
        entries[keys.version_of(key)] = handle
    if entries:
        yield base[keys.PREFIX_BYTES :], entries


def _extension(editor: CatalogEditor, parent: Node, removals: set[tuple[int, int, bytes]]) -> Node:
    """A locked child of a parent in which some keys are deleted."""
    branch = name = f"conflict-{parent.uuid}"
    attempt = 1
    while editor.catalog.has_branch(parent.repo_id, branch):
        attempt += 1
        branch = f"{name}-{attempt}"
    child = graph.new_version(editor, parent, branch, NOTE)
    ancestry = editor.catalog.ancestry(child.id)
    for instance_id, key_class, type_key in removals:
        VersionedView(editor.txn, instance_id, ancestry).delete(key_class, type_key)
    return graph.commit(editor, child)
