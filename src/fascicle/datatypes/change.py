"""The inside of a write transaction as datatypes see it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from fascicle.datatypes import registry
from fascicle.datatypes.base import Change
from fascicle.errors import BadRequest
from fascicle.mutations import blobs, records
from fascicle.store.base import WriteTransaction
from fascicle.versions import times
from fascicle.versions.catalog import CatalogCache, CatalogEditor
from fascicle.versions.model import Instance, Node

MIN_MUTATION_ID = "min_mutation_id_start"


class StoreChange(Change):
    """One instance at one version in a write transaction."""

    def __init__(
        self,
        editor: CatalogEditor,
        instance: Instance,
        node: Node,
        *,
        user: str = "",
        app: str = "",
        settings: Mapping[str, Any] | None = None,
        time_ns: int = 0,
    ) -> None:
        self.editor = editor
        self.txn = editor.txn
        self.catalog = editor.catalog
        self.instance = instance
        self.node = node
        version = node.id if instance.versioned else editor.catalog.repo(node.repo_id).root_version
        self.ancestry = editor.catalog.ancestry(version)
        self.user = user
        self.app = app
        self.settings = settings or {}
        self.time_ns = time_ns or time.time_ns()

    @classmethod
    def on(cls, txn: WriteTransaction, cache: CatalogCache, instance: Instance, node: Node, **more: Any) -> StoreChange:
        """A change of an instance in a transaction, for tests and tools."""
        editor = CatalogEditor(txn, cache)
        return cls(editor, editor.catalog.instance_by_id(instance.id), editor.catalog.node(node.id), **more)

    def mutation_id(self) -> int:
        return records.take_mutation_id(self.txn, self.node.repo_id, self.settings.get(MIN_MUTATION_ID, 0))

    def record(self, message: dict[str, Any]) -> None:
        records.append(self.txn, self.instance.id, self.ancestry.version, message | self._common())

    def record_all(self, messages: Iterable[dict[str, Any]]) -> None:
        common = self._common()
        stamped = [message | common for message in messages]
        records.append_all(self.txn, self.instance.id, self.ancestry.version, stamped)

    def _common(self) -> dict[str, Any]:
        """What is said in every record."""
        common = {"UUID": self.node.uuid, "Timestamp": times.record_text(self.time_ns)}
        if self.user:
            common["User"] = self.user
        if self.app:
            common["App"] = self.app
        return common

    def emit(self, event: Any) -> None:
        publisher = self.instance
        for follower in self.editor.catalog.instances(publisher.repo_id):
            if publisher.data_uuid in follower.syncs:
                registry.datatype(follower.typename).follow(self._of(follower), publisher, event)

    def update_instance(self, **properties: Any) -> Instance:
        current = self.editor.catalog.instance_by_id(self.instance.id)
        self.instance = self.editor.put_instance(replace(current, properties={**current.properties, **properties}))
        self.catalog = self.editor.catalog
        return self.instance

    def put_blob(self, data: bytes) -> str:
        return blobs.put(self.txn, data)

    def sibling(self, name: str) -> StoreChange:
        return self._of(self.editor.catalog.instance(self.node.repo_id, name))

    def _of(self, instance: Instance) -> StoreChange:
        if instance.deleted:
            raise BadRequest("invalid data instance name")
        return StoreChange(
            self.editor,
            instance,
            self.node,
            user=self.user,
            app=self.app,
            settings=self.settings,
            time_ns=self.time_ns,
        )
