"""The instances that the server's settings ask for: one for each scale of a volume that lives elsewhere.

A section `[store.x]` of engine `ngprecomputed` with an `instance` makes, for images, `<instance>`, `<instance>_1`, ...,
one for each scale, and for a segmentation one labelmap that has all scales. They are made in the repo of `uuid`, or in
the only repo there is; at start, when a repo is made, and when a volume that could not be read comes back. They stay
when the section goes. Where the volume's own description has changed, that of the instance follows.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from fascicle.config import GridStore
from fascicle.datatypes.elsewhere import Elsewhere
from fascicle.datatypes.volume_settings import DESCRIBED
from fascicle.errors import BadRequest, FascicleError
from fascicle.server import instance_creation
from fascicle.store.base import Store, WriteTransaction
from fascicle.versions import graph
from fascicle.versions.catalog import Catalog, CatalogCache, CatalogEditor
from fascicle.versions.model import Instance, Node

log = logging.getLogger(__name__)

FIRST_RETRY_S = 5.0
LAST_RETRY_S = 600.0
IMAGE_TYPES = {
    "uint8": "uint8blk",
    "uint16": "uint16blk",
    "uint32": "uint32blk",
    "uint64": "uint64blk",
    "float32": "float32blk",
}


class VolumeInstances:
    """A thread that makes and refreshes instances, as long as a volume cannot be read."""

    def __init__(self, store: Store, catalogs: CatalogCache, elsewhere: Elsewhere, server: Mapping[str, Any]) -> None:
        self._store = store
        self._catalogs = catalogs
        self._elsewhere = elsewhere
        self._server = server
        self._wanted = [grid for grid in elsewhere.stores.values() if grid.instance]
        self._woken = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look at all sections now."""
        if not self._wanted:
            return
        self._woken.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="volumes", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop after what is at hand."""
        self._closing = True
        self._woken.set()

    def _run(self) -> None:
        pause_s: float | None = None
        told: dict[str, str] = {}
        while not self._closing:
            if not self._woken.wait(pause_s) and pause_s is not None:
                pause_s = min(2 * pause_s, LAST_RETRY_S)
            elif self._woken.is_set():
                pause_s = None
            self._woken.clear()
            failed = False
            for grid in self._wanted:
                if self._closing:
                    return
                problem = self._make(grid)
                failed = failed or bool(problem)
                if problem and told.get(grid.alias) != problem:
                    log.warning("[store.%s]: %s", grid.alias, problem)
                told[grid.alias] = problem
            pause_s = (pause_s or FIRST_RETRY_S) if failed else None

    def _make(self, grid: GridStore) -> str:
        """Make what is missing; what is wrong with the volume, or nothing."""
        try:
            with self._store.read() as txn:
                node = _node_for(grid, self._catalogs.at(txn))
            if node is None:
                return ""
            ensure(self._store, self._catalogs, grid, node, self._elsewhere, self._server)
        except FascicleError as error:
            return error.message
        except Exception:
            log.exception("[store.%s] failed", grid.alias)
            return "failed"
        return ""


def _node_for(grid: GridStore, catalog: Catalog) -> Node | None:
    """The version that gets the instances; None as long as there is no repo."""
    repos = catalog.repos()
    if grid.uuid:
        try:
            return catalog.resolve(grid.uuid)
        except BadRequest as error:
            if not repos:
                return None
            raise BadRequest(f"no version for the instances {grid.instance!r}: {error.message}") from None
    if len(repos) > 1:
        raise BadRequest(
            f"there are {len(repos)} repos: the section must say by 'uuid' which of them gets {grid.instance!r}"
        )
    return catalog.node(repos[0].root_version) if repos else None


def ensure(
    store: Store, catalogs: CatalogCache, grid: GridStore, node: Node, elsewhere: Elsewhere, server: Mapping[str, Any]
) -> None:
    """Make the instances of a volume that are missing, and refresh the others. Raises VolumeError."""
    for settings in wanted(grid, elsewhere):
        new = instance_creation.planned(settings, server)

        def change(txn: WriteTransaction, new: instance_creation.NewInstance = new) -> None:
            editor = CatalogEditor(txn, catalogs)
            if editor.catalog.has_instance(node.repo_id, new.name):
                _refresh(editor, editor.catalog.instance(node.repo_id, new.name), new, grid)
            else:
                new.make(editor, node, server)
                log.info("[store.%s]: made instance %s of type %s", grid.alias, new.name, new.typename)

        if _differs(store, catalogs, node, new):
            store.write(change)


def wanted(grid: GridStore, elsewhere: Elsewhere) -> list[dict[str, str]]:
    """Settings of the instances that a volume should have."""
    volume = elsewhere.volume(grid.address)
    common = {"gridstore": grid.alias}
    if volume.pyramid.kind == "segmentation":
        return [{"typename": "labelmap", "dataname": grid.instance, **common}]
    typename = IMAGE_TYPES.get(np.dtype(volume.scales[0].dtype).name)
    if typename is None:
        raise BadRequest(f"{grid.address} has voxels of {volume.scales[0].dtype.name}, which no image type can show")
    names = [grid.instance + (f"_{level}" if level else "") for level in range(len(volume.scales))]
    return [
        {"typename": typename, "dataname": name, "scalelevel": str(level), **common} for level, name in enumerate(names)
    ]


def _differs(store: Store, catalogs: CatalogCache, node: Node, new: instance_creation.NewInstance) -> bool:
    with store.read() as txn:
        catalog = catalogs.at(txn)
        if not catalog.has_instance(node.repo_id, new.name):
            return True
        found = catalog.instance(node.repo_id, new.name).properties
        return bool(found.get(DESCRIBED) != new.fields["properties"][DESCRIBED])


def _refresh(editor: CatalogEditor, found: Instance, new: instance_creation.NewInstance, grid: GridStore) -> None:
    """Let an instance follow its volume where the volume's description has changed since the instance was made."""
    given, asked = found.properties, new.fields["properties"]
    known = given.get(DESCRIBED)
    if known is None or (given.get("GridStore", "").lower(), given["ScaleLevel"]) != (grid.alias, asked["ScaleLevel"]):
        log.warning("[store.%s]: there is an instance %s already, which shows something else", grid.alias, new.name)
        return
    changed = {name: asked[name] for name, value in asked[DESCRIBED].items() if known.get(name) != value}
    if changed:
        graph.change_instance(editor, found, properties={**given, **changed, DESCRIBED: asked[DESCRIBED]})
        log.info("[store.%s]: %s of instance %s changed", grid.alias, ", ".join(sorted(changed)), found.name)
