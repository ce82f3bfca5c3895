"""Making data instances: from requests, and for the volumes that the server's settings name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fascicle.config import Settings
from fascicle.datatypes import instance_settings, registry
from fascicle.datatypes.change import StoreChange
from fascicle.datatypes.volume_settings import LOOKED_UP, check_may_name, names_volume
from fascicle.errors import BadRequest
from fascicle.versions import graph
from fascicle.versions.catalog import CatalogEditor
from fascicle.versions.model import Instance, Node


@dataclass(frozen=True, slots=True)
class NewInstance:
    """An instance that is to be made."""

    fields: dict[str, Any]
    """Members of `Instance`."""
    line: str
    """For the repo's log."""

    @property
    def name(self) -> str:
        found: str = self.fields["name"]
        return found

    @property
    def typename(self) -> str:
        found: str = self.fields["typename"]
        return found

    def make(self, editor: CatalogEditor, node: Node, server: Mapping[str, Any], **more: Any) -> Instance:
        """Enter it in the catalog and let its datatype begin. `more` are a change's user and application."""
        at_least: int = server.get("instance_id_start", 1)
        instance = graph.create_instance(editor, node, at_least=at_least, log=[self.line], **self.fields)
        registry.datatype(self.typename).created(StoreChange(editor, instance, node, settings=server, **more))
        return instance


def planned(
    given: Mapping[str, str], server: Mapping[str, Any], *, admin: bool = True, root_uuid: str = ""
) -> NewInstance:
    """What settings (names in lower case) of an instance in a repo mean. May read from a volume that lives elsewhere.

    Raises BadRequest for settings that make no sense, and for those that only administrators may give.
    """
    for name in ("typename", "dataname"):
        if not given.get(name):
            raise BadRequest(f"POST on repo endpoint requires specification of valid '{name}'")
    typename, name = given["typename"], given["dataname"]
    graph.check_instance_name(name)
    datatype = registry.datatype(typename)
    tags = instance_settings.tags(given.get("tags", ""))
    if datatype.shows_volumes:
        check_may_name(given, server, admin)
    asked = dict(given)
    if not names_volume(asked) and (alias := _assigned(server, typename, name, tags, root_uuid)):
        asked["gridstore"] = alias
    settings = datatype.completed(asked, server)
    fields = {
        "name": name,
        "typename": typename,
        "versioned": instance_settings.versioned(settings.get("versioned", "")),
        "compression": instance_settings.compression(settings.get("compression", "")) or datatype.default_compression,
        "checksum": instance_settings.checksum(settings.get("checksum", "")) or "none",
        "tags": tags,
        "properties": datatype.create(settings),
    }
    shown = " ".join(f"{key}:{value}" for key, value in sorted(settings.items()) if key != LOOKED_UP)
    return NewInstance(fields, f'New data instance "{name}" of type "{typename}" with config {{map[{shown}]}}')


def server_settings(settings: Settings) -> dict[str, Any]:
    """What the making of instances looks at."""
    return {"instance_id_start": settings.server.instance_id_start, "assignments": settings.assignments}


def _assigned(
    server: Mapping[str, Any], typename: str, name: str, tags: Mapping[str, str] | None, root_uuid: str
) -> str | None:
    """The volume that a section `[backend.<spec>]` gives an instance: by its name, a tag or its type."""
    assignments: Mapping[str, str] = server.get("assignments", {})
    if not assignments or not registry.datatype(typename).shows_volumes:
        return None
    for spec, alias in assignments.items():
        head, colon, root = spec.partition(":")
        if colon and root and head == name.lower() and root_uuid.startswith(root):
            return alias
    for tag, value in (tags or {}).items():
        for spec in (f"{tag}={value}".lower(), f"{tag}:{value}".lower()):
            if spec in assignments:
                return assignments[spec]
    return assignments.get(typename)
