"""Repos, versions and instances: rows of the store, and a table of them in memory.

The rows lie under instance 0. There is one row for each repo, node and instance, one row of counters, and a log that
names the row behind every change. A process keeps one `Catalog`, and brings it up to date by reading the log from
where it stopped: first it compares the number of the transaction, then the length of the log, and then it reads only
changed rows. So a new version costs the same whether it is the tenth or the ten thousandth, and any number of
processes may serve one store.

A write transaction may have changed rows that are not committed yet; it sees them through a catalog of its own that
lies over the shared one (`CatalogCache.writing`).
"""

from __future__ import annotations

import struct
from bisect import bisect_left, insort
from collections import ChainMap
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

import msgspec

from fascicle.errors import BadRequest
from fascicle.store.base import ReadTransaction, Store, WriteTransaction
from fascicle.versions import keys, references
from fascicle.versions.ancestry import Lineage
from fascicle.versions.model import Instance, Node, Repo
from fascicle.versions.resolution import Ancestry

STATE = 1
CHANGES = 2
REPOS = 3
NODES = 4
INSTANCES = 5
MUTATION_IDS = 6
BLOBS = 7
"""Classes of keys of instance 0."""

REPO, NODE, INSTANCE, EVERYTHING = b"r", b"n", b"i", b"*"
"""What a line of the log says has changed; `EVERYTHING` asks for reading all rows anew."""

_STATE_KEY = keys.prefix(keys.CATALOG, STATE)
_CHANGES = keys.prefix(keys.CATALOG, CHANGES)
_STATE = struct.Struct(">QIII")
_SEQUENCE = struct.Struct(">Q")
_ID = struct.Struct(">I")

_repo_decoder = msgspec.msgpack.Decoder(Repo)
_node_decoder = msgspec.msgpack.Decoder(Node)
_instance_decoder = msgspec.msgpack.Decoder(Instance)


def row_key(key_class: int, number: int) -> bytes:
    return keys.prefix(keys.CATALOG, key_class) + _ID.pack(number)


@dataclass(slots=True)
class Counters:
    """How many lines the log has, and the next numbers to give out."""

    sequence: int = 0
    next_version: int = 1
    next_instance: int = 1
    next_repo: int = 1

    @classmethod
    def of(cls, row: bytes | None) -> Counters:
        return cls() if row is None else cls(*_STATE.unpack(row))

    @classmethod
    def read(cls, txn: ReadTransaction) -> Counters:
        return cls.of(txn.get(_STATE_KEY))

    def write(self, txn: WriteTransaction) -> None:
        txn.put(_STATE_KEY, _STATE.pack(self.sequence, self.next_version, self.next_instance, self.next_repo))


class Catalog:
    """The repos, nodes and instances of a store.

    Reading is safe in any thread; changes are made under the lock of the `CatalogCache`, each single table always
    whole.
    """

    def __init__(self, over: Catalog | None = None) -> None:
        self.sequence: int = 0 if over is None else over.sequence
        self.transaction = -1
        self.state_row: bytes | None = b""
        """The row of counters when this catalog was last brought up to date; b"" before."""
        self.lineage: Lineage = Lineage(None if over is None else over.lineage)
        self._over = over
        self._repos: MutableMapping[int, Repo] = _table(over and over._repos)
        self._nodes: MutableMapping[int, Node] = _table(over and over._nodes)
        self._instances: MutableMapping[int, Instance] = _table(over and over._instances)
        self._versions: MutableMapping[str, int] = _table(over and over._versions)
        self._names: MutableMapping[tuple[int, str], int] = _table(over and over._names)
        self._data_uuids: MutableMapping[str, int] = _table(over and over._data_uuids)
        self._tips: MutableMapping[tuple[int, str], tuple[int, ...]] = _table(over and over._tips)
        self._repo_instances: MutableMapping[int, tuple[int, ...]] = _table(over and over._repo_instances)
        self._sorted_uuids: list[str] = []
        self._repo_versions: dict[int, list[int]] = {}
        self._ancestries: dict[int, Ancestry] = {}

    # -- looking up

    def node(self, version: int) -> Node:
        """A version by its number. Raises BadRequest."""
        found = self._nodes.get(version)
        if found is None:
            raise BadRequest(f"server-specific version id is invalid: {version}")
        return found

    def node_by_uuid(self, uuid: str) -> Node | None:
        """A version by its full UUID or tag, or None."""
        version = self._versions.get(uuid)
        return None if version is None else self._nodes[version]

    def resolve(self, reference: str) -> Node:
        """The version a reference of a request names: a UUID, a prefix of one, a tag, or a branch.

        Raises BadRequest.
        """
        version = self._versions.get(reference)
        if version is not None:
            return self._nodes[version]
        return references.resolve(self, reference)

    def nodes_with_prefix(self, prefix: str) -> list[Node]:
        """The versions whose UUID starts with a text; at most two are looked for."""
        catalog: Catalog | None = self
        found: list[Node] = []
        while catalog is not None and len(found) < 2:
            uuids = catalog._sorted_uuids
            for uuid in uuids[(at := bisect_left(uuids, prefix)) : at + 2]:
                if uuid.startswith(prefix):
                    found.append(self._nodes[self._versions[uuid]])
            catalog = catalog._over
        return found

    def repos(self) -> list[Repo]:
        """All repos, in the order in which they were made."""
        return [self._repos[number] for number in sorted(self._repos)]

    def repo(self, repo_id: int) -> Repo:
        found = self._repos.get(repo_id)
        if found is None:
            raise BadRequest(f"repo {repo_id} not found")
        return found

    def nodes(self, repo_id: int) -> list[Node]:
        """All versions of a repo, ascending by number."""
        numbers = list(self._over._repo_versions.get(repo_id, ())) if self._over else []
        numbers += self._repo_versions.get(repo_id, ())
        return [self._nodes[number] for number in numbers]

    def instance(self, repo_id: int, name: str) -> Instance:
        """An instance of a repo by name. Raises BadRequest `invalid data instance name`."""
        number = self._names.get((repo_id, name), 0)
        if not number:
            raise BadRequest("invalid data instance name")
        return self._instances[number]

    def has_instance(self, repo_id: int, name: str) -> bool:
        return bool(self._names.get((repo_id, name), 0))

    def instance_by_id(self, instance_id: int) -> Instance:
        found = self._instances.get(instance_id)
        if found is None or found.deleted:
            raise BadRequest(f"data instance {instance_id} is deleted")
        return found

    def instance_by_data_uuid(self, data_uuid: str) -> Instance | None:
        number = self._data_uuids.get(data_uuid, 0)
        found = self._instances.get(number)
        return None if found is None or found.deleted else found

    def instances(self, repo_id: int) -> list[Instance]:
        """The instances of a repo, in the order in which they were made."""
        found = [self._instances[number] for number in self._repo_instances.get(repo_id, ())]
        return [instance for instance in found if not instance.deleted]

    def deleted_instances(self) -> list[Instance]:
        """Instances whose data are still to be removed."""
        return [instance for instance in list(self._instances.values()) if instance.deleted]

    # -- the graph

    def ancestry(self, version: int) -> Ancestry:
        """A version with what it descends from."""
        found = self._ancestries.get(version)
        if found is None and self._over is not None:
            found = self._over._ancestries.get(version)
        if found is None:
            self.node(version)
            found = self._ancestries[version] = self.lineage.ancestry(version)
        return found

    def has_branch(self, repo_id: int, branch: str) -> bool:
        return (repo_id, branch) in self._tips

    def head(self, repo_id: int, branch: str) -> Node:
        """The node of a branch without child on it; of several, the one with the greatest number. Raises BadRequest."""
        tips = self._tips.get((repo_id, branch))
        if not tips:
            uuid = self.repo(repo_id).root_uuid
            raise BadRequest(f'branch "{branch or "master"}" not found in repo "{uuid}"')
        return self._nodes[max(tips)]

    def branch_versions(self, repo_id: int, branch: str) -> list[Node]:
        """From the leaf of a branch up to the root, also over other branches; [] for an unknown branch.

        Where versions were merged, the other parents are listed once and the walk goes on from the last one.
        """
        if not self.has_branch(repo_id, branch):
            return []
        walk: list[Node] = []
        node = self.head(repo_id, branch)
        while True:
            walk.append(node)
            if not node.parents:
                return walk
            walk += (self._nodes[parent] for parent in node.parents[:-1])
            node = self._nodes[node.parents[-1]]

    def version_sequence(self, end: int, start: int) -> list[Node]:
        """From `end` over first parents up to `start`, inclusive, or to the root if `start` is not on the way."""
        walk = []
        for version in self.ancestry(end).first_parents():
            walk.append(self._nodes[version])
            if version == start:
                break
        return walk

    # -- following the log

    def refresh(self, txn: ReadTransaction) -> None:
        """Read what has changed since this catalog was last brought up to date."""
        state_row = txn.get(_STATE_KEY)
        sequence = Counters.of(state_row).sequence
        if sequence != self.sequence:
            first = self.sequence + 1
            lines = list(txn.scan(_CHANGES + _SEQUENCE.pack(first), _CHANGES + _SEQUENCE.pack(sequence + 1)))
            complete = len(lines) == sequence - self.sequence
            if not complete or any(line[:1] == EVERYTHING for _, line in lines):
                self._reload(txn)
            else:
                for _, line in lines:
                    self._take_row(txn, line[:1], _ID.unpack_from(line, 1)[0])
            self.sequence = sequence
        self.state_row = state_row
        self.transaction = txn.number

    def _reload(self, txn: ReadTransaction) -> None:
        fresh = Catalog()
        for key, row in _rows(txn, REPOS):
            fresh._repos[key] = _repo_decoder.decode(row)
        for _, row in _rows(txn, NODES):
            fresh.take_node(_node_decoder.decode(row))
        for _, row in _rows(txn, INSTANCES):
            fresh.take_instance(_instance_decoder.decode(row))
        fresh._over = None
        fresh.sequence, fresh.transaction = self.sequence, self.transaction
        self.__dict__.update(fresh.__dict__)

    def _take_row(self, txn: ReadTransaction, kind: bytes, number: int) -> None:
        key_class = {REPO: REPOS, NODE: NODES, INSTANCE: INSTANCES}[kind]
        row = txn.get(row_key(key_class, number))
        if row is None:
            if kind == INSTANCE and self._over is None:
                self._drop_instance(number)
        elif kind == REPO:
            self.take_repo(_repo_decoder.decode(row))
        elif kind == NODE:
            self.take_node(_node_decoder.decode(row))
        else:
            self.take_instance(_instance_decoder.decode(row))

    def take_repo(self, repo: Repo) -> None:
        """Put a new or changed repo into the tables."""
        self._repos[repo.id] = repo

    def take_node(self, node: Node) -> None:
        """Put a new or changed node into the tables."""
        old = self._nodes.get(node.id)
        if old is not None:
            self._nodes[node.id] = msgspec.structs.replace(node, children=old.children)
            return
        self._nodes[node.id] = node
        self.lineage.add(node.id, node.parents)
        for parent in node.parents:
            above = self._nodes[parent]
            self._nodes[parent] = msgspec.structs.replace(above, children=(*above.children, node.id))
        branch = (node.repo_id, node.branch)
        tips = self._tips.get(branch, ())
        self._tips[branch] = (*(tip for tip in tips if tip not in node.parents), node.id)
        self._repo_versions.setdefault(node.repo_id, []).append(node.id)
        self._versions[node.uuid] = node.id
        insort(self._sorted_uuids, node.uuid)

    def take_instance(self, instance: Instance) -> None:
        """Put a new or changed instance into the tables."""
        old = self._instances.get(instance.id)
        self._instances[instance.id] = instance
        if old is None:
            self._data_uuids[instance.data_uuid] = instance.id
            self._repo_instances[instance.repo_id] = (*self._repo_instances.get(instance.repo_id, ()), instance.id)
        elif self._names.get((old.repo_id, old.name)) == old.id:
            self._names[old.repo_id, old.name] = 0
        if not instance.deleted:
            self._names[instance.repo_id, instance.name] = instance.id

    def _drop_instance(self, number: int) -> None:
        instance = self._instances.pop(number, None)
        if instance is not None:
            self._data_uuids.pop(instance.data_uuid, None)
            others = tuple(other for other in self._repo_instances[instance.repo_id] if other != number)
            self._repo_instances[instance.repo_id] = others


class CatalogCache:
    """The catalog of one store in this process."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = Lock()
        self._shared = Catalog()

    def at(self, txn: ReadTransaction) -> Catalog:
        """A catalog that contains all that a read transaction sees (and may contain later commits)."""
        shared = self._shared
        number = txn.number
        if shared.transaction < number:
            with self._lock:
                if shared.transaction < number:
                    shared.refresh(txn)
        return shared

    def writing(self, txn: WriteTransaction) -> Catalog:
        """A catalog that contains what a write transaction sees, its own changes and those of its group included.

        It must be used by that transaction only, and only until something else has written rows in it.
        """
        shared = self._shared
        if txn.get(_STATE_KEY) == shared.state_row:
            return shared
        with self._lock:  # nobody may bring the shared one up to date while ours is being made
            own = Catalog(shared)
            own.refresh(txn)
            return own


class CatalogEditor:
    """Rows being changed in a write transaction, and the catalog as that transaction sees it."""

    def __init__(self, txn: WriteTransaction, cache: CatalogCache) -> None:
        self.txn = txn
        self.catalog = cache.writing(txn)
        self._shared = cache._shared
        self._counters: Counters | None = None

    @property
    def counters(self) -> Counters:
        if self._counters is None:
            self._counters = Counters.read(self.txn)
        return self._counters

    def put_repo(self, repo: Repo) -> Repo:
        self._own().take_repo(repo)
        self._put(REPO, REPOS, repo.id, repo)
        return repo

    def put_node(self, node: Node) -> Node:
        self._own().take_node(node)
        self._put(NODE, NODES, node.id, msgspec.structs.replace(node, children=()))
        return self.catalog.node(node.id)

    def put_instance(self, instance: Instance) -> Instance:
        self._own().take_instance(instance)
        self._put(INSTANCE, INSTANCES, instance.id, instance)
        return instance

    def remove_instance(self, instance: Instance) -> None:
        """Forget an instance that has no data any more."""
        self.txn.delete(row_key(INSTANCES, instance.id))
        self._log(INSTANCE, instance.id)

    def remove_repo(self, repo: Repo) -> None:
        """Forget a repo and its nodes. Its instances must have been marked as deleted."""
        for node in self.catalog.nodes(repo.id):
            self.txn.delete(row_key(NODES, node.id))
        self.txn.delete(row_key(REPOS, repo.id))
        self.txn.delete(row_key(MUTATION_IDS, repo.id))
        self._log(EVERYTHING, 0)

    def next_version(self) -> int:
        self.counters.next_version += 1
        return self.counters.next_version - 1

    def next_instance(self, at_least: int = 1) -> int:
        number = max(self.counters.next_instance, at_least)
        self.counters.next_instance = number + 1
        return number

    def next_repo(self) -> int:
        self.counters.next_repo += 1
        return self.counters.next_repo - 1

    def _own(self) -> Catalog:
        """This transaction's catalog, made before the first change: the shared one must not see what may be lost."""
        if self.catalog is self._shared:
            self.catalog = Catalog(self._shared)
        return self.catalog

    def _put(self, kind: bytes, key_class: int, number: int, row: Any) -> None:
        self.txn.put(row_key(key_class, number), msgspec.msgpack.encode(row))
        self._log(kind, number)

    def _log(self, kind: bytes, number: int) -> None:
        counters = self.counters
        counters.sequence += 1
        self.txn.put(_CHANGES + _SEQUENCE.pack(counters.sequence), kind + _ID.pack(number))
        counters.write(self.txn)
        self._own().sequence = counters.sequence
        if counters.sequence % _TRIM_EVERY == 0:
            stop = max(1, counters.sequence - _TRIM_EVERY)
            self.txn.delete_range(_CHANGES, _CHANGES + _SEQUENCE.pack(stop))


_TRIM_EVERY = 8192
"""The log keeps between one and two times as many lines; who is further behind reads all rows."""


def _table(over: Any) -> Any:
    return {} if over is None else ChainMap({}, over)


def _rows(txn: ReadTransaction, key_class: int) -> Iterator[tuple[int, bytes]]:
    first = keys.prefix(keys.CATALOG, key_class)
    for key, row in txn.scan(first, keys.after(first)):
        yield int.from_bytes(key[keys.PREFIX_BYTES :], "big"), row
