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
    settings,
    sparse,
    splits,
    voxels,
)
from fascicle.versions.model import Instance
from fascicle.versions.resolution import VersionedView


class Labelmap(Datatype):
    """Supervoxels in blocks at every scale, bodies made of them, and the edits that move supervoxels between bodies."""

    typename: ClassVar[str] = "labelmap"
    type_url: ClassVar[str] = "github.com/janelia-flyem/dvid/datatype/labelmap"
    type_version: ClassVar[str] = "0.1"
    summary: ClassVar[str] = "64-bit supervoxels, grouped into bodies by a versioned mapping"
    default_compression: ClassVar[str] = "gzip"
    routes: ClassVar[tuple[Route, ...]] = (
        *settings.ROUTES,
        *voxels.ROUTES,
        *points.ROUTES,
        *lookups.ROUTES,
        *queries.ROUTES,
        *proximity.ROUTES,
        *sparse.ROUTES,
        *counters.ROUTES,
        *mutations.ROUTES,
        *splits.ROUTES,
        *history.ROUTES,
    )

    def create(self, settings_: Mapping[str, str]) -> dict[str, Any]:
        return settings.new_properties(settings_)

    def created(self, change: Change) -> None:
        settings.store_initial_points(change)

    def extended(self, instance: Instance, view: VersionedView) -> dict[str, Any]:
        return settings.extended(instance, view)

    def extents(self, instance: Instance, view: VersionedView) -> dict[str, Any] | None:
        return settings.extents(instance, view)
