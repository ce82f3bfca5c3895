"""What is derived, in versions that were just made of several parents.

Keys of parents that disagree are conflicts, which people settle. What datatypes derive from keys (lists by body,
counts) is derived anew instead, in the transaction that makes the version: nobody ever has to settle that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fascicle.datatypes import registry
from fascicle.datatypes.change import StoreChange
from fascicle.versions.catalog import CatalogEditor
from fascicle.versions.conflicts import versions_apart
from fascicle.versions.model import Instance, Node


def settle(editor: CatalogEditor, merged: Node) -> None:
    """Bring what all instances derive up to date in a version that was made in this transaction."""
    apart = versions_apart(editor.catalog, merged)
    for instance in _publishers_first(editor.catalog.instances(merged.repo_id)):
        if instance.versioned and not instance.deleted:
            registry.datatype(instance.typename).merged(StoreChange(editor, instance, merged), apart)


def _publishers_first(instances: Iterable[Instance]) -> Iterator[Instance]:
    left = {instance.data_uuid: instance for instance in instances}

    def given(instance: Instance) -> Iterator[Instance]:
        for uuid in instance.syncs:
            if uuid in left:
                yield from given(left.pop(uuid))
        yield instance

    while left:
        yield from given(left.pop(next(iter(left))))
