"""What the demo's link shows: a state of the viewer with images, bodies, regions and synapses, kept in the repo.

All of it is read from the precomputed views of the newest version: images and bodies with their meshes, skeletons and
names, regions, and synapses as lines. Only bookmarks and places to work on are put into the state itself, as local
annotations, since precomputed ones have no words. The state is stored as a key-value, which the link names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import quote

from fascicle.server.viewer import PAGE_PATH, viewer_state

STATES = "viewer_states"
GRAYSCALE = "grayscale"
SEGMENTATION = "segmentation"
SYNAPSES = "synapses"
ROI_LABELS = "segmentation_roi_voxels"
_TILT = [0.34, -0.36, 0.12, 0.86]
_PALE = ("#ffd9a0", "#a0d8ff", "#ffa0c8", "#b8ffb0", "#e0b0ff", "#fff0a0")
_LINE_SHADER = """#uicontrol float confidence slider(min=0, max=1, default=0)
void main() {
  if (prop_post_confidence() < confidence) discard;
  setColor(vec4(1.0, 0.85, 0.1, 0.9));
  setEndpointMarkerColor(vec3(1.0, 0.85, 0.1), vec3(0.2, 0.9, 1.0));
  setEndpointMarkerSize(7.0, 4.0);
  setEndpointMarkerBorderWidth(0.0, 0.0);
}
"""
Element = dict[str, Any]


class Requests(Protocol):
    """What is needed of a connection."""

    def json(self, method: str, path: str, value: Any = None, /) -> Any:
        """Send JSON, give back the JSON of the answer (None if it is empty)."""


def demo_state(
    base_url: str,
    repo: dict[str, Any],
    segments: Sequence[int] = (),
    notes: Mapping[str, Iterable[Element]] | None = None,
) -> dict[str, Any]:
    """The viewer on the newest version of the repo's master branch, at the middle of the data, with bodies selected.

    `repo` is the repo's info; `notes` are elements by the name of their layer.
    """
    instances = repo["DataInstances"]
    extended = instances[SEGMENTATION]["Extended"]
    low, high = extended["MinPoint"], extended["MaxPoint"]
    size = [b - a + 1 for a, b in zip(low, high, strict=True)]
    voxel = extended["VoxelSize"]
    extent = max(edge * nm for edge, nm in zip(size, voxel, strict=True)) / min(voxel)
    version = f"{repo['Root'][:8]}:master"
    state = viewer_state(
        base_url,
        version,
        GRAYSCALE if _has_voxels(instances, GRAYSCALE) else None,
        SEGMENTATION,
        resolution_nm=voxel,
        position_xyz=[a + edge // 2 + 0.5 for a, edge in zip(low, size, strict=True)],
        cross_section_scale=max(size[:2]) / 620,
        projection_scale=extent * 1.3,
        segments=segments,
        title=f"Fascicle: {repo['Alias']}",
        projectionOrientation=_TILT,
        showSlices=False,
        showDefaultAnnotations=False,
    )
    views = f"precomputed://{base_url.rstrip('/')}/precomputed/{repo['Root'][:8]}/master"
    for layer in state["layers"]:
        layer["source"] = f"{views}/{layer['name']}"
    if _has_voxels(instances, ROI_LABELS):
        count = sum(one["Base"]["TypeName"] == "roi" for one in instances.values())
        state["layers"].append(
            {
                "type": "segmentation",
                "name": "regions",
                "source": {  # whoever asks for it gets skeletons of regions, too
                    "url": f"{views}/{ROI_LABELS}",
                    "subsources": {"default": True, "mesh": True},
                    "enableDefaultSubsources": False,
                },
                "segments": [str(label) for label in range(1, count + 1)],
                "selectedAlpha": 0.12,
                "notSelectedAlpha": 0,
                "objectAlpha": 0.3,
                "segmentColors": {str(label): _PALE[label % len(_PALE)] for label in range(1, count + 1)},
                "hideSegmentZero": True,
                "pick": False,
            }
        )
    if SYNAPSES in instances:
        state["layers"].append(_synapse_layer(f"{views}/{SYNAPSES}/lines"))
    for name, elements in (notes or {}).items():
        state["layers"].append(_note_layer(name, elements, state["dimensions"]))
    return state


def _has_voxels(instances: dict[str, Any], name: str) -> bool:
    return name in instances and instances[name]["Extended"]["MinPoint"] is not None


def _local(name: str, dimensions: dict[str, Any], annotations: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    source = {"url": "local://annotations", "transform": {"outputDimensions": dimensions}}
    return {"type": "annotation", "name": name, "source": source, "annotations": annotations, **more}


def _synapse_layer(source: str) -> dict[str, Any]:
    """A line from each T-bar to each of its densities; those of the selected bodies are shown."""
    return {
        "type": "annotation",
        "name": SYNAPSES,
        "source": source,
        "linkedSegmentationLayer": {"presynaptic": SEGMENTATION, "postsynaptic": SEGMENTATION},
        "filterBySegmentation": ["presynaptic", "postsynaptic"],
        "shader": _LINE_SHADER,
    }


def _note_layer(name: str, elements: Iterable[Element], dimensions: dict[str, Any]) -> dict[str, Any]:
    points = [
        {"type": "point", "id": f"{i:x}", "point": _middle(element), "description": _words(element)}
        for i, element in enumerate(elements)
    ]
    return _local(name, dimensions, points, annotationColor={"bookmarks": "#6cf06c"}.get(name, "#ff8040"))


def _words(element: Element) -> str:
    known = element["Prop"]
    return ": ".join(filter(None, (known.get("action") or known.get("type"), known.get("comment"))))


def _middle(element: Element) -> list[float]:
    """The middle of an element's voxel."""
    return [axis + 0.5 for axis in element["Pos"]]


# -- from a server


def read_notes(server: Requests, version: str) -> dict[str, list[Element]]:
    """Bookmarks and places to work on at a version, by the names of their layers; kinds without any are left out."""
    found = {}
    for name, instance in {"bookmarks": "bookmark_annotations", "to do": "segmentation_todo"}.items():
        blocks = server.json("GET", f"/api/node/{version}/{instance}/all-elements")
        elements = [element for block in blocks.values() for element in block]
        if elements:
            found[name] = elements
    return found


def publish(server: Requests, base_url: str, root: str, name: str, state: dict[str, Any]) -> str:
    """Store a state in the repo and give the link to it."""
    path = f"/api/node/{root}/{STATES}/key/{quote(name)}"
    server.json("POST", path, state)
    base = base_url.rstrip("/")
    return f"{base}{PAGE_PATH}#!{base}{path}"
