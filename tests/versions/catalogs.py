"""Building version graphs in tests."""

from __future__ import annotations

from fascicle.store.memory import MemoryStore
from fascicle.versions import graph
from fascicle.versions.catalog import Catalog, CatalogCache, CatalogEditor
from fascicle.versions.model import Instance, Node, Repo


class Workbench:
    """A store in memory, with calls that make one change each."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.catalogs = CatalogCache(self.store)

    @property
    def catalog(self) -> Catalog:
        with self.store.read() as txn:
            return self.catalogs.at(txn)

    def edit(self, change, *args, **more):  # type: ignore[no-untyped-def]
        """Run a function of `graph` in a write transaction."""
        return self.store.write(lambda txn: change(CatalogEditor(txn, self.catalogs), *args, **more))

    def repo(self, **more: str) -> Repo:
        return self.edit(graph.create_repo, **more)

    def root(self, repo: Repo) -> Node:
        return self.catalog.node(repo.root_version)

    def lock(self, node: Node) -> Node:
        if self.catalog.node(node.id).locked:
            return self.catalog.node(node.id)
        return self.edit(graph.commit, node)

    def child(self, node: Node) -> Node:
        self.lock(node)
        return self.edit(graph.new_version, node)

    def branch(self, node: Node, name: str) -> Node:
        self.lock(node)
        return self.edit(graph.new_branch, node, name)

    def merge(self, *nodes: Node) -> Node:
        for node in nodes:
            self.lock(node)
        return self.edit(graph.merge, nodes)

    def instance(self, node: Node, name: str = "data", **more: object) -> Instance:
        return self.edit(graph.create_instance, node, name=name, typename="keyvalue", **more)
