"""Load what is known of a brain beside its voxels into the instances of the profile for proofreading."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

import msgspec
import numpy as np

from fascicle.datatypes.keyvalue.messages import key_values
from fascicle.formats import legacy_mesh
from fascicle.pipeline.sample_annotations import (
    USER,
    SampleAnnotations,
    obj_text,
    region_surfaces,
    synapse_elements,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROI_LABELS = "segmentation_roi_voxels"
ROI_MESHES = "segmentation_roi_voxels_meshes"
"""The viewer looks for surfaces of a label map under this name."""
_BATCH = 10_000


class Requests(Protocol):
    """What is needed of a connection."""

    def request(self, method: str, path: str, body: bytes | memoryview = b"", /) -> bytes:
        """Send bytes and give back the answer's."""


Step = Callable[[int, int], None]
"""Called with the number of steps that are done, and how many there are."""


def load_annotations(
    server: Requests, node: str, notes: SampleAnnotations, resolution_nm: tuple[float, float, float], step: Step
) -> None:
    """Write everything but the volume of regions into the instances of a version, which must be there."""

    def post(instance: str, keyword: str, document: Any) -> None:
        server.request("POST", f"/api/node/{node}/{quote(instance)}/{keyword}", msgspec.json.encode(document))

    def post_keys(instance: str, pairs: list[tuple[str, bytes]], query: str = "") -> None:
        message = key_values((key.encode(), value) for key, value in pairs)
        server.request("POST", f"/api/node/{node}/{instance}/keyvalues{query}", message)

    elements = synapse_elements(notes.synapses)
    batches = range(0, len(elements), _BATCH)
    steps = len(batches) + len(notes.regions) + 5
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        step(done, steps)

    for start in batches:
        post("synapses", "elements", elements[start : start + _BATCH])
        advance()
    for region in notes.regions:
        post(region.name, "roi", region.spans())
        advance()
    surfaces = list(region_surfaces(notes.regions, resolution_nm))
    texts = [(region.name, obj_text(vertices, triangles)) for region, vertices, triangles in surfaces]
    post_keys("roi_data", texts)
    post_keys("roisSmoothedDecimated", texts)
    post_keys("rois", [(name, msgspec.json.encode({"->": {"type": "roi_data", "key": name}})) for name, _ in texts])
    numbered = enumerate(surfaces, start=1)
    post_keys(ROI_MESHES, [(f"{label}.ngmesh", ngmesh(vertices, faces)) for label, (_, vertices, faces) in numbered])
    advance()
    neurons = [(str(neuron["bodyid"]), msgspec.json.encode(neuron)) for neuron in notes.neurons]
    post_keys("segmentation_annotations", neurons, f"?u={USER}")
    advance()
    post("bookmark_annotations", "elements", notes.bookmarks)
    post("segmentation_todo", "elements", notes.todos)
    advance()
    post_keys("bookmarks", [(key, msgspec.json.encode(value)) for key, value in notes.assigned.items()])
    advance()
    post_keys("segmentation_skeletons", [(f"{body}_swc", text.encode()) for body, text in notes.skeletons.items()])
    advance()


def ngmesh(vertices: NDArray[np.float32], triangles: NDArray[np.uint32]) -> bytes:
    """A mesh in the viewer's form, from vertices f32[n, 3] in nm and triangles u32[m, 3]."""
    return legacy_mesh.encode(vertices, triangles)
