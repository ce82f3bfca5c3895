"""The repo of `fascicle demo`: loaded over HTTP into a running server, then shown.

The root version holds the data and is committed when all of it is there; its child is open, to try edits on. So a
repo whose root is open was not finished, and is loaded again from the start.
"""

from __future__ import annotations

import http.client
import json
import signal
import sys
import time
import webbrowser
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from fascicle import config
from fascicle.errors import FascicleError
from fascicle.pipeline import demo_view, profiles

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fascicle.pipeline.sample_annotations import SampleAnnotations
    from fascicle.volumes.base import VolumeSource

SEED = 1
GRAYSCALE = "grayscale"
SEGMENTATION = "segmentation"
MESHES = "segmentation_meshes"
"""Where the viewer looks for them: a keyvalue instance with this name and keys `<body>.ngmesh`."""
SHOWN_BODIES = 16
LEVELS = 3
BLOCK = 64
_LABEL_FILES = ("groundtruth.h5.gz", "groundtruth.h5", "*.h5", "*.h5.gz", "*.npy", "*.ckl.gz", "*.ckl")
_KNOWN_RESOLUTION_NM = {"fib25-medulla-250": (10.0, 10.0, 10.0), "pinky-512": (4.0, 4.0, 40.0)}
_START_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Volume:
    """What is loaded, from voxel 0, 0, 0 on. The table (u64[n] each) may be empty: then supervoxels are bodies."""

    alias: str
    description: str
    grayscale: VolumeSource | None
    supervoxels: VolumeSource
    supervoxel_ids: NDArray[np.uint64]
    body_ids: NDArray[np.uint64]
    resolution_nm: tuple[float, float, float]
    notes: SampleAnnotations | None = None
    """What else is known; of real data nothing is made up."""


class LoadError(Exception):
    """The server refused something, or went away."""


class Server:
    """Requests to one server over one connection; `token` is that of its administrators, if it has one."""

    def __init__(self, base_url: str, token: str = "") -> None:
        self.base_url = base_url
        self.token = token
        place = urlsplit(base_url)
        self._connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=600)

    def request(self, method: str, path: str, body: bytes | memoryview = b"") -> bytes:
        """The answer's body. Raises LoadError for any status but 200."""
        try:
            self._connection.request(method, path, body=body or None, headers={"Content-Length": str(len(body))})
            response = self._connection.getresponse()
            answer = response.read()
        except OSError:
            self._connection.close()
            raise
        if response.status != 200:
            raise LoadError(
                f"{method} {path} was answered with {response.status}: {answer[:300].decode(errors='replace')}"
            )
        return answer

    def json(self, method: str, path: str, value: Any = None) -> Any:
        answer = self.request(method, path, b"" if value is None else json.dumps(value).encode())
        return json.loads(answer) if answer else None

    def wait(self) -> None:
        """Return as soon as the server answers."""
        deadline = time.monotonic() + _START_LIMIT_S
        while True:
            try:
                self.request("GET", "/api/server/info")
                return
            except (OSError, http.client.HTTPException, LoadError):
                if time.monotonic() > deadline:
                    raise LoadError(f"no answer from {self.base_url} within {_START_LIMIT_S:g} s") from None
                time.sleep(0.1)


def show(base_url: str, folder: Path | None, open_browser: bool) -> None:
    """Wait for the server, load the demo unless it is there, print the link and open a browser.

    Meant for a process of its own: ends quietly on Ctrl-C, and with status 1 and one line if loading fails.
    """
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    console = Console(stderr=True)
    try:
        server = Server(base_url, config.load().admin_token)
        alias = f"sample brain {SEED}" if folder is None else folder.resolve().name
        with Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            console=console,
        ) as progress:
            found = load(server, alias, folder, progress)
        url = link(server, found)
    except (LoadError, FascicleError, OSError, http.client.HTTPException) as error:
        print(f"fascicle: the demo could not be loaded: {error}", file=sys.stderr)
        sys.exit(1)
    console.print("\n[bold]Open this link in a browser[/bold] (Ctrl-C ends the demo):\n")
    print(f"{url}\n", flush=True)
    console.print(f"Console, API and help: {base_url}/", highlight=False)
    if open_browser:
        webbrowser.open(url)


def load(server: Server, alias: str, folder: Path | None, progress: Progress) -> dict[str, Any]:
    """The info of the demo's repo, which is made and filled if it is not there."""
    making = progress.add_task("reading slices" if folder else "growing a brain", total=None)
    ready = None
    for repo in _repos(server):
        if repo["Alias"] == alias:
            if repo["DAG"]["Nodes"][repo["Root"]]["Locked"]:
                progress.update(making, description="found in the store", total=1, completed=1)
                return repo
            ready = repo["Root"]
    volume = generated(alias) if folder is None else read_folder(folder)
    progress.update(making, total=1, completed=1)
    root = ready or new_repo(server, volume)
    fill(server, root, volume, progress)
    if folder is not None:
        _post_tables(server, root, folder, progress)
    server.json("POST", f"/api/node/{root}/commit", {"note": f"{volume.description}, as loaded"})
    server.json("POST", f"/api/node/{root}/newversion", {"note": "open for edits"})
    return next(repo for repo in _repos(server) if repo["Root"] == root)


def _post_tables(server: Server, root: str, folder: Path, progress: Progress) -> None:
    """Real synapses, regions and notes, if the folder has tables of them."""
    from fascicle.pipeline.demo_tables import load_tables, tables_in
    from fascicle.pipeline.ingest_connections import ServerConnection

    tables = tables_in(folder)
    if tables:
        task = progress.add_task(f"loading {', '.join(tables)}", total=None)
        with ServerConnection(server.base_url, server.token) as connection:
            load_tables(connection, root, folder, "demo")
        progress.update(task, total=1, completed=1)


def largest_bodies(server: Server, root: str) -> list[int]:
    """The ids of up to `SHOWN_BODIES` of the bodies that have a mesh, the largest ones first."""
    keys = server.json("GET", f"/api/node/{root}/{MESHES}/keys")
    bodies = [int(key.partition(".")[0]) for key in keys]
    sizes = server.json("GET", f"/api/node/{root}/{SEGMENTATION}/sizes", bodies)
    ranked = sorted(zip(sizes, bodies, strict=True), reverse=True)
    return [body for _, body in ranked[:SHOWN_BODIES]]


def link(server: Server, repo: dict[str, Any]) -> str:
    """The link to the viewer on the newest version of the repo's master branch, with its large bodies selected."""
    version = f"{repo['Root']}:master"
    segments = largest_bodies(server, repo["Root"])
    state = demo_view.demo_state(server.base_url, repo, segments, demo_view.read_notes(server, version))
    return demo_view.publish(server, server.base_url, repo["Root"], "demo", state)


def read_folder(folder: Path) -> Volume:
    """Real data: slices in a folder `grayscale`, and one label volume (HDF5, npy, crackle) beside it.

    A dataset `transforms` of an HDF5 file is the table from supervoxels to bodies. Raises VolumeError.
    """
    import numpy as np

    from fascicle.volumes.array_files import Hdf5Volume
    from fascicle.volumes.base import VolumeError
    from fascicle.volumes.opening import open_volume

    slices = folder / "grayscale"
    found = [path for pattern in _LABEL_FILES for path in sorted(folder.glob(pattern))]
    if not found:
        raise VolumeError(f"{folder} holds no label volume: one of {', '.join(_LABEL_FILES)}")
    supervoxels = open_volume(str(found[0]))
    table = np.zeros((0, 2), np.uint64)
    if isinstance(supervoxels, Hdf5Volume) and "transforms" in supervoxels.names():
        table = supervoxels.table("transforms").astype(np.uint64)
        table = table[table[:, 0] != 0]
    name = folder.resolve().name
    return Volume(
        name,
        f"{name}, labels from {found[0].name}",
        open_volume(str(slices)) if slices.is_dir() else None,
        supervoxels,
        table[:, 0],
        table[:, 1],
        supervoxels.resolution_nm or _KNOWN_RESOLUTION_NM.get(name, (8.0, 8.0, 8.0)),
    )


def generated(alias: str, size_zyx: tuple[int, int, int] = (256, 256, 256)) -> Volume:
    """The generated brain as a volume to load."""
    from fascicle.pipeline.sample_annotations import annotate
    from fascicle.pipeline.sample_brain import make_brain
    from fascicle.volumes.array_files import ArrayVolume

    brain = make_brain(SEED, size_zyx)
    return Volume(
        alias,
        f"a generated brain, seed {SEED}",
        ArrayVolume(brain.grayscale_zyx, "grayscale of the sample brain"),
        ArrayVolume(brain.supervoxels_zyx, "supervoxels of the sample brain"),
        brain.supervoxel_ids,
        brain.body_ids,
        brain.resolution_nm,
        annotate(brain, SEED),
    )


def _repos(server: Server) -> list[dict[str, Any]]:
    server.wait()
    return list(server.json("GET", "/api/repos/info").values())


def new_repo(server: Server, volume: Volume) -> str:
    """Make a repo for a volume; the UUID of its root."""
    query = f"?admintoken={quote(server.token)}" if server.token else ""
    asked = {"alias": volume.alias, "description": volume.description}
    root: str = server.json("POST", f"/api/repos{query}", asked)["root"]
    return root


def fill(server: Server, root: str, volume: Volume, progress: Progress) -> None:
    """Make the instances of a repo that are missing, and write a volume into them at its root version."""
    import numpy as np

    _make_instances(server, root, volume)
    if volume.grayscale is not None:
        _post_volume(server, root, GRAYSCALE, volume.grayscale, np.uint8, progress)
    if volume.supervoxel_ids.size:
        table = mapping_message(volume.supervoxel_ids, volume.body_ids)
        server.request("POST", f"/api/node/{root}/{SEGMENTATION}/mappings", table)
    _post_volume(server, root, SEGMENTATION, volume.supervoxels, np.uint64, progress)
    task: TaskID = progress.add_task("meshing bodies", total=1)
    for done, total, body, mesh in meshes(volume):
        server.request("POST", f"/api/node/{root}/{MESHES}/key/{body}.ngmesh", mesh)
        progress.update(task, completed=done, total=total)
    if volume.notes is not None:
        _post_notes(server, root, volume, volume.notes, progress)


def _make_instances(server: Server, root: str, volume: Volume) -> None:
    """Those of the profile for proofreading, and what the viewer needs besides."""
    from fascicle.pipeline.demo_annotations import ROI_MESHES

    notes = volume.notes
    without = [GRAYSCALE] if volume.grayscale is None else []
    if notes is None:
        without.append(f"{SEGMENTATION}_skeletons")  # it would promise the viewer a skeleton of every body
    options = profiles.ProfileOptions(
        resolution_nm=volume.resolution_nm,
        levels=LEVELS,
        rois=tuple(region.name for region in notes.regions) if notes is not None else (),
        without=tuple(without),
    )
    wanted = profiles.instances("proofreading", options)
    wanted.append(profiles.Wanted(demo_view.STATES, "keyvalue", "States of the viewer.", versioned=False))
    if notes is not None:
        wanted.append(profiles.Wanted(ROI_MESHES, "keyvalue", "Surfaces of regions.", tags={"type": "meshes"}))
    there = server.json("GET", f"/api/repo/{root}/info")["DataInstances"]
    profiles.apply(server, root, profiles.plan(wanted, there), options)


def _post_notes(server: Server, root: str, volume: Volume, notes: SampleAnnotations, progress: Progress) -> None:
    import numpy as np

    from fascicle.pipeline.demo_annotations import ROI_LABELS, load_annotations
    from fascicle.pipeline.sample_annotations import region_labels
    from fascicle.volumes.array_files import ArrayVolume

    labels = ArrayVolume(region_labels(notes.regions, volume.supervoxels.shape_zyx), "regions of the sample brain")
    _post_volume(server, root, ROI_LABELS, labels, np.uint64, progress)
    task: TaskID = progress.add_task("loading synapses, notes", total=1)
    load_annotations(
        server,
        root,
        notes,
        volume.resolution_nm,
        lambda done, total: progress.update(task, completed=done, total=total),
    )


def meshes(volume: Volume) -> Iterator[tuple[int, int, int, bytes]]:
    """(how many, of how many, body, mesh in the viewer's form) for each body, from every second voxel or fewer.

    The form is a count u32, vertices f32[n, 3] in nanometres, triangles u32[m, 3], all little-endian.
    """
    import numpy as np

    from fascicle.kernels.surfaces import label_boxes, smooth, surface
    from fascicle.pipeline.demo_annotations import ngmesh

    depth, height, width = volume.supervoxels.shape_zyx
    step = 2 if depth * height * width <= 1 << 25 else 4
    coarse = np.concatenate(
        [
            volume.supervoxels.read((z, 0, 0), (min(depth, z + BLOCK), height, width))[::step, ::step, ::step]
            for z in range(0, depth, BLOCK)
        ]
    )
    supervoxels, inverse = np.unique(coarse, return_inverse=True)
    owners = supervoxels.astype(np.uint64)
    if volume.supervoxel_ids.size:
        order = np.argsort(volume.supervoxel_ids)
        ids = volume.supervoxel_ids[order]
        at = np.minimum(np.searchsorted(ids, owners), ids.size - 1)
        owners = np.where(ids[at] == owners, volume.body_ids[order][at], owners)
    bodies, number = np.unique(owners, return_inverse=True)
    labels = (number + (bodies[0] != 0)).astype(np.int32)[inverse].reshape(coarse.shape)
    bodies = bodies[bodies != 0]
    boxes = label_boxes(labels, bodies.size)
    scale = np.array(volume.resolution_nm, np.float32) * step
    for label, body in enumerate(bodies.tolist(), start=1):
        vertices, triangles = surface(labels, label, boxes[label])
        smooth(vertices, triangles, 4)
        yield label, bodies.size, body, ngmesh(vertices * scale, triangles)


def _post_volume(
    server: Server, root: str, name: str, source: VolumeSource, dtype: type[np.generic], progress: Progress
) -> None:
    """Write a volume in slabs of whole blocks, filled up with 0 at the far edges, then say how large it really is."""
    import numpy as np

    depth, height, width = source.shape_zyx
    padded_height, padded_width = (-(-edge // BLOCK) * BLOCK for edge in (height, width))
    starts = range(0, depth, BLOCK)
    task: TaskID = progress.add_task(f"loading {name}", total=len(starts))
    for z in starts:
        last = min(depth, z + BLOCK)
        slab = np.zeros((BLOCK, padded_height, padded_width), dtype)
        slab[: last - z, :height, :width] = source.read((z, 0, 0), (last, height, width))
        path = f"/api/node/{root}/{name}/raw/0_1_2/{padded_width}_{padded_height}_{BLOCK}/0_0_{z}?mutate=true"
        server.request("POST", path, slab.data.cast("B"))
        progress.advance(task)
    extents = {"MinPoint": [0, 0, 0], "MaxPoint": [width - 1, height - 1, depth - 1]}
    server.json("POST", f"/api/node/{root}/{name}/extents", extents)


def mapping_message(supervoxel_ids: NDArray[np.uint64], body_ids: NDArray[np.uint64]) -> bytes:
    """The protobuf `MappingOps` that says which supervoxels (u64[n]) belong to which bodies (u64[n])."""
    import numpy as np

    if not body_ids.size:
        return b""
    order = np.argsort(body_ids, kind="stable")
    bodies, starts = np.unique(body_ids[order], return_index=True)
    message = bytearray()
    for body, members in zip(bodies.tolist(), np.split(supervoxel_ids[order], starts[1:]), strict=True):
        packed = b"".join(_varint(member) for member in members.tolist())
        operation = b"\x08\x01\x10" + _varint(body) + b"\x1a" + _varint(len(packed)) + packed
        message += b"\x0a" + _varint(len(operation)) + operation
    return bytes(message)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
