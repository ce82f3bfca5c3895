"""Repos, versions and instances as the JSON that clients know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fascicle.datatypes import registry
from fascicle.errors import FascicleError
from fascicle.mutations import records
from fascicle.store.base import ReadTransaction
from fascicle.versions.catalog import Catalog
from fascicle.versions.model import Instance, Node, Repo
from fascicle.versions.resolution import VersionedView

_COMPRESSIONS = {
    "none": "No compression",
    "snappy": "Go Snappy compression",
    "lz4": "LZ4 compression",
    "gzip": "gzip compression",
    "jpeg": "jpeg compression",
}
_CHECKSUMS = {"none": "No checksum", "crc32": "CRC32 checksum"}


def compression_text(setting: str, properties: Mapping[str, Any]) -> str:
    """`LZ4 compression, level -1`: the form in which clients look for the word jpeg.

    The level that is shown for jpeg is the width of a block, because clients know it so.
    """
    name, _, level = setting.partition(":")
    if name == "jpeg":
        level = str(properties.get("BlockSize", (32,))[0])
    return f"{_COMPRESSIONS.get(name, name)}, level {level or -1}"


class Describer:
    """Makes descriptions from one snapshot."""

    def __init__(self, txn: ReadTransaction, catalog: Catalog, store_text: str, min_mutation_id: int = 0) -> None:
        self.txn = txn
        self.catalog = catalog
        self.store_text = store_text
        self.min_mutation_id = min_mutation_id

    def base(self, instance: Instance) -> dict[str, Any]:
        """What is known of an instance of any datatype."""
        datatype = registry.datatype(instance.typename)
        publishers = [self.catalog.instance_by_data_uuid(data_uuid) for data_uuid in instance.syncs]
        try:
            created_at = self.catalog.node(instance.created_at_version).uuid
        except FascicleError:
            created_at = ""
        return {
            "TypeName": instance.typename,
            "TypeURL": datatype.type_url,
            "TypeVersion": datatype.type_version,
            "DataUUID": instance.data_uuid,
            "Name": instance.name,
            "RepoUUID": created_at,
            "Compression": compression_text(instance.compression, instance.properties),
            "Checksum": _CHECKSUMS.get(instance.checksum, instance.checksum),
            "Syncs": ["undefined" if publisher is None else publisher.name for publisher in publishers],
            "Versioned": instance.versioned,
            "KVStore": self.store_text,
            "LogStore": self.store_text,
            "Tags": instance.tags,
        }

    def instance(self, instance: Instance, node: Node) -> dict[str, Any]:
        """An instance at a version."""
        datatype = registry.datatype(instance.typename)
        version = node.id if instance.versioned else self.catalog.repo(node.repo_id).root_version
        view = VersionedView(self.txn, instance.id, self.catalog.ancestry(version))
        description = {"Base": self.base(instance), "Extended": datatype.extended(instance, view)}
        extents = datatype.extents(instance, view)
        if extents is not None:
            description["Extents"] = extents
        return description

    def repo(self, repo: Repo) -> dict[str, Any]:
        """A repo with all of its versions and instances, these at the head of master."""
        catalog = self.catalog
        nodes = catalog.nodes(repo.id)
        head = catalog.head(repo.id, "") if catalog.has_branch(repo.id, "") else catalog.node(repo.root_version)
        mutation_id = records.next_mutation_id(self.txn, repo.id, self.min_mutation_id)
        described = {node.uuid: self.node(node) for node in nodes}
        updated = max([repo.updated, *(node.created for node in nodes)])
        return {
            "Root": repo.root_uuid,
            "Alias": repo.alias,
            "Description": repo.description,
            "Log": repo.log,
            "Properties": {},
            "DataInstances": {instance.name: self.instance(instance, head) for instance in catalog.instances(repo.id)},
            "DAG": {"Root": repo.root_uuid, "Nodes": described},
            "MutationID": mutation_id,
            "SavedMutationID": mutation_id,
            "Created": repo.created,
            "Updated": updated,
        }

    def node(self, node: Node) -> dict[str, Any]:
        """A version; the times of its children count as changes of it."""
        updated = node.updated
        for child in node.children:
            updated = max(updated, self.catalog.node(child).created)
        return {
            "Branch": node.branch,
            "Note": node.note,
            "Log": node.log,
            "UUID": node.uuid,
            "VersionID": node.id,
            "Locked": node.locked,
            "Parents": node.parents,
            "Children": node.children,
            "Created": node.created,
            "Updated": updated,
        }
