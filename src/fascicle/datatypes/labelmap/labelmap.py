"""The datatype labelmap, put together from its parts; see `docs/design` for how they store what they know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from fascicle.datatypes.base import Change, Datatype, Route
from fascicle.datatypes.labelmap import (
    counters,
    history,
    lookups,
    mutations,
    points,
    proximity,
    queries,
    remote_index,
    settings,
    sparse,
    splits,
    voxels,
)
from fascicle.datatypes.labelmap.remote_labels import RemoteView
from fascicle.datatypes.volume_settings import names_volume
from fascicle.store.base import ReadTransaction
from fascicle.versions.model import Instance
from fascicle.versions.resolution import Ancestry, VersionedView


class Labelmap(Datatype):
    """Supervoxels in blocks at every scale, bodies made of them, and the edits that move supervoxels between bodies."""

    typename: ClassVar[str] = "labelmap"
    type_url: ClassVar[str] = "github.com/janelia-flyem/dvid/datatype/labelmap"
    type_version: ClassVar[str] = "0.1"
    summary: ClassVar[str] = "64-bit supervoxels, grouped into bodies by a versioned mapping"
    default_compression: ClassVar[str] = "gzip"
    routes: ClassVar[tuple[Route, ...]] = (
        *settings.ROUTES,
        *remote_index.where_voxels_change(voxels.ROUTES),
        *points.ROUTES,
        *remote_index.where_bodies_are_found(lookups.ROUTES),
        *remote_index.needing_index(queries.ROUTES),
        *remote_index.needing_index(proximity.ROUTES),
        *remote_index.needing_index(sparse.ROUTES),
        *counters.ROUTES,
        *remote_index.needing_index(mutations.ROUTES),
        *remote_index.needing_index(splits.ROUTES),
        *history.ROUTES,
        *remote_index.ROUTES,
    )
    shows_volumes: ClassVar[bool] = True

    def completed(self, settings_: Mapping[str, str], server: Mapping[str, Any]) -> Mapping[str, str]:
        return settings.completed(settings_, server) if names_volume(settings_) else settings_

    def view(
        self, txn: ReadTransaction, instance: Instance, ancestry: Ancestry, server: Mapping[str, Any]
    ) -> VersionedView:
        return RemoteView(txn, instance.id, ancestry, instance.properties, server)

    def create(self, settings_: Mapping[str, str]) -> dict[str, Any]:
        return settings.new_properties(settings_)

    def created(self, change: Change) -> None:
        settings.store_initial_points(change)

    def extended(self, instance: Instance, view: VersionedView) -> dict[str, Any]:
        return settings.extended(instance, view)

    def extents(self, instance: Instance, view: VersionedView) -> dict[str, Any] | None:
        return settings.extents(instance, view)
