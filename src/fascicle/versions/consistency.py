"""Checks of the catalog's rows against each other."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from fascicle.store.base import ReadTransaction
from fascicle.versions import keys
from fascicle.versions.catalog import INSTANCES, NODES, REPOS, Counters
from fascicle.versions.model import Instance, Node, Repo

_Row = TypeVar("_Row", Repo, Node, Instance)


def faults(txn: ReadTransaction) -> list[str]:
    """One line for each row that is damaged or names something that is not there."""
    found: list[str] = []
    repos = _rows(txn, REPOS, Repo, found)
    nodes = _rows(txn, NODES, Node, found)
    instances = _rows(txn, INSTANCES, Instance, found)
    counters = Counters.read(txn)
    uuids: dict[str, int] = {}
    for node in nodes.values():
        if node.repo_id not in repos:
            found.append(f"version {node.uuid} belongs to repo {node.repo_id}, which is not there")
        for parent in node.parents:
            if parent not in nodes:
                found.append(f"version {node.uuid} has parent {parent}, which is not there")
            elif parent >= node.id:
                found.append(f"version {node.uuid} has parent {parent}, which is not older")
        if uuids.setdefault(node.uuid, node.id) != node.id:
            found.append(f"UUID {node.uuid} belongs to versions {uuids[node.uuid]} and {node.id}")
        if node.id >= counters.next_version:
            found.append(f"version {node.uuid} has number {node.id}, which has not been given out")
    for repo in repos.values():
        if repo.root_version not in nodes:
            found.append(f"repo {repo.root_uuid} has root version {repo.root_version}, which is not there")
    for instance in instances.values():
        if instance.deleted:
            continue
        if instance.repo_id not in repos:
            found.append(f"data instance {instance.name!r} belongs to repo {instance.repo_id}, which is not there")
        if instance.id >= counters.next_instance:
            found.append(f"data instance {instance.name!r} has number {instance.id}, which has not been given out")
    return found


def _rows(txn: ReadTransaction, key_class: int, kind: type[_Row], found: list[str]) -> dict[int, _Row]:
    rows = {}
    first = keys.prefix(keys.CATALOG, key_class)
    for key, row in txn.scan(first, keys.after(first)):
        try:
            rows[int.from_bytes(key[keys.PREFIX_BYTES :], "big")] = msgspec.msgpack.decode(row, type=kind)
        except msgspec.DecodeError as error:
            found.append(f"row {key.hex()} of the catalog is damaged: {error}")
    return rows
