"""Profiles: the instances, syncs and tags that the field's programs expect to find in a repo, as tables.

Names are those of the programs: NeuTu derives them from the segmentation's (`<segmentation>_annotations`, `_todo`,
`_skeletons`, `_meshes`, `_sv_meshes`) or knows them by heart (`bookmark_annotations`, `bookmarks`, `rois`, `roi_data`;
its `zdviddata.cpp` lists them); Neuroglancer looks for `<segmentation>_meshes` and `_skeletons`; neuclease and
flyemflows tag key-values with `type=...`. The second profile is the list of the public hemibrain server, region by
region, as the page "Data Instances" of its documentation has it.

Applying a profile is idempotent: instances of the right type that are there stay as they are, and only get the syncs
and tags that they lack. Not for this module: what is written into the instances.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote

from fascicle.errors import FascicleError

SEGMENTATION = "segmentation"
LEVELS = 7
"""Coarser scales of a label map, unless a profile is asked for others; viewers want at least one."""


class ProfileError(FascicleError):
    """A profile cannot be applied; the message says to which instances, and nothing was changed."""


class Requests(Protocol):
    """What is needed of a connection."""

    def json(self, method: str, path: str, document: Any = None, /) -> Any:
        """Send JSON, give back the JSON of the answer (None if it is empty)."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An instance of a profile."""

    name: str
    typename: str
    meaning: str
    syncs: tuple[str, ...] = ()
    """Instances that it follows, which stand before it in the table."""
    tags: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    """Other types that serve the same programs: what is there is left alone if it has one of these."""
    versioned: bool = True


def _keyvalue(name: str, meaning: str, kind: str = "") -> Wanted:
    return Wanted(name, "keyvalue", meaning, tags={"type": kind} if kind else {})


def _points(name: str, meaning: str) -> Wanted:
    return Wanted(name, "annotation", meaning, syncs=(SEGMENTATION,))


_GRAYSCALE = Wanted("grayscale", "uint8blk", "Images; programs find coarser scales in grayscale_1, grayscale_2, ...")
_LABELS = Wanted(SEGMENTATION, "labelmap", "Supervoxels and bodies; all edits of the segmentation happen here.")
_ANNOTATIONS = Wanted(
    "segmentation_annotations",
    "neuronjson",
    "What is known of each body: type, instance, status, class, ...",
    also=("keyvalue",),
)
_SYNAPSES = _points("synapses", "T-bars (PreSyn) and densities (PostSyn), with their relations.")
_COUNTS = Wanted("synapses_labelsz", "labelsz", "Bodies ranked by their numbers of synapses.", syncs=("synapses",))
_BOOKMARKS = _points("bookmark_annotations", "Bookmarks of people: tag user:<name>.")
_TODO = _points("segmentation_todo", "Places that need work; NeuTu shows them on their bodies.")
_ASSIGNED = _keyvalue("bookmarks", "Which assigned places have been checked, by x_y_z.")
_MESHES = _keyvalue("segmentation_meshes", "Surfaces of bodies under <body>.ngmesh, in nm.", "meshes")
_SKELETONS = _keyvalue("segmentation_skeletons", "Skeletons of bodies under <body>_swc, in voxels.", "skeletons")
_ROIS = _keyvalue("rois", "For each region's name, the key of its surface in roi_data.")
_ROI_DATA = _keyvalue("roi_data", "Surfaces of regions, as OBJ.")
_SMOOTH_ROIS = _keyvalue("roisSmoothedDecimated", "Smooth surfaces of regions, few triangles, OBJ by name.", "meshes")
_ROI_LABELS = Wanted("segmentation_roi_voxels", "labelmap", "Regions as voxels: label n is the n-th of the list.")
_PIECE_MESHES = Wanted(
    "segmentation_sv_meshes",
    "tarsupervoxels",
    "Surfaces of supervoxels, which are sent as a tar per body for cleaving.",
    syncs=(SEGMENTATION,),
    settings={"Extension": "drc"},
    versioned=False,
)

# fmt: off
HEMIBRAIN_ROIS = (
    "AB(L)", "AB(R)", "AL(L)", "AL(R)", "AME(R)", "AOTU(R)", "ATL(L)", "ATL(R)", "AVLP(R)", "BU(L)", "BU(R)",
    "CA(L)", "CA(R)", "CAN(R)", "CRE(L)", "CRE(R)", "EB", "EPA(L)", "EPA(R)", "FB", "FLA(R)", "GNG", "GOR(L)",
    "GOR(R)", "IB", "ICL(L)", "ICL(R)", "IPS(R)", "LAL(L)", "LAL(R)", "LH(R)", "LO(R)", "LOP(R)", "ME(R)", "NO",
    "PB", "PED(R)", "PLP(R)", "PRW", "PVLP(R)", "SAD", "SCL(L)", "SCL(R)", "SIP(L)", "SIP(R)", "SLP(R)", "SMP(L)",
    "SMP(R)", "SPS(L)", "SPS(R)", "VES(L)", "VES(R)", "WED(R)", "a'L(L)", "a'L(R)", "aL(L)", "aL(R)", "b'L(L)",
    "b'L(R)", "bL(L)", "bL(R)", "gL(L)", "gL(R)",
)
# fmt: on
"""The hemibrain's regions in the order of their labels in `segmentation_roi_voxels`, from 1 on."""

PROFILES: dict[str, tuple[Wanted, ...]] = {
    "proofreading": (
        _GRAYSCALE,
        _LABELS,
        _ANNOTATIONS,
        _MESHES,
        _SKELETONS,
        _PIECE_MESHES,
        _SYNAPSES,
        _COUNTS,
        _BOOKMARKS,
        _TODO,
        _ASSIGNED,
        _ROIS,
        _ROI_DATA,
        _SMOOTH_ROIS,
        _ROI_LABELS,
        _keyvalue("neutu_config", "Settings that NeuTu keeps with a repo."),
    ),
    "hemibrain": (
        _LABELS,
        _ANNOTATIONS,
        _MESHES,
        _SKELETONS,
        _SYNAPSES,
        _COUNTS,
        _BOOKMARKS,
        _TODO,
        _ASSIGNED,
        _ROIS,
        _ROI_DATA,
        _SMOOTH_ROIS,
        _ROI_LABELS,
        Wanted("voxel-classes", "labelmap", "What kind of tissue each voxel is."),
        Wanted("mito", "labelmap", "Mitochondria, one label each."),
        *(Wanted(name, "roi", f"The region {name}, in blocks of 32 voxels.") for name in HEMIBRAIN_ROIS),
    ),
}
"""Profile -> its instances, those that are followed before their followers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileOptions:
    """What can be chosen of a profile."""

    resolution_nm: tuple[float, float, float] = (8, 8, 8)
    """Edge lengths of a voxel, x, y, z."""
    levels: int = LEVELS
    rois: tuple[str, ...] = ()
    """Names of further regions."""
    without: tuple[str, ...] = ()
    """Names of instances to leave out."""


class State(enum.Enum):
    """What is to be done for an instance."""

    NEW = "new"
    CHANGED = "changed"
    COMPLETE = "exists"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Step:
    """An instance of a profile beside what is there."""

    wanted: Wanted
    state: State
    syncs: tuple[str, ...] = ()
    """Syncs to be added."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags to be added."""
    found: str = ""
    """The type of the instance that is there."""
    late: bool = False
    """What it follows, or itself, may hold something already: it has to be filled again."""

    def __str__(self) -> str:
        if self.state is State.CONFLICT:
            return f"{self.wanted.name}: is of type {self.found}, but must be of type {self.wanted.typename}"
        added = [f"follows {', '.join(self.syncs)}"] if self.syncs else []
        added += [f"tag {name}={value}" for name, value in self.tags.items()]
        kind = self.found or self.wanted.typename
        return f"{self.state.value:<8} {self.wanted.name} ({kind})" + (f": {'; '.join(added)}" if added else "")


def instances(profile: str, options: ProfileOptions) -> list[Wanted]:
    """The instances of a profile, and those of further regions. Raises ProfileError for a name that is not known."""
    if profile not in PROFILES:
        raise ProfileError(f"there is no profile {profile!r}: it must be one of {', '.join(PROFILES)}")
    wanted = [one for one in PROFILES[profile] if one.name not in options.without]
    names = {one.name for one in wanted}
    for name in options.rois:
        if name not in names:
            wanted.append(Wanted(name, "roi", f"The region {name}, in blocks of 32 voxels."))
            names.add(name)
    return wanted


def plan(wanted: Sequence[Wanted], there: Mapping[str, Any]) -> list[Step]:
    """What is to be done, one step per instance; `there` are the repo's instances as its info describes them."""
    steps: list[Step] = []
    for one in wanted:
        late = any(name in there for name in one.syncs)
        if one.name not in there:
            steps.append(Step(one, State.NEW, one.syncs, one.tags, late=late))
            continue
        base = there[one.name]["Base"]
        kind = base["TypeName"]
        if kind != one.typename:
            state = State.COMPLETE if kind in one.also else State.CONFLICT
            steps.append(Step(one, state, found=kind))
            continue
        syncs = tuple(name for name in one.syncs if name not in (base["Syncs"] or ()))
        have = base["Tags"] or {}
        tags = {name: value for name, value in one.tags.items() if have.get(name) != value}
        state = State.CHANGED if syncs or tags else State.COMPLETE
        steps.append(Step(one, state, syncs, tags, kind, late=True))
    return steps


def apply(
    connection: Requests,
    node: str,
    steps: Sequence[Step],
    options: ProfileOptions,
    progress: Callable[[Step], None] = lambda step: None,
) -> None:
    """Do the steps at an open version. Raises ProfileError before anything is changed if instances have other types."""
    conflicts = [str(step) for step in steps if step.state is State.CONFLICT]
    if conflicts:
        raise ProfileError(f"instances of other types are in the way: {'; '.join(conflicts)}")
    for step in steps:
        if step.state is State.NEW:
            connection.json("POST", f"/api/repo/{node}/instance", creation(step.wanted, options))
        path = f"/api/node/{node}/{quote(step.wanted.name)}"
        if step.state is State.CHANGED and step.tags:
            connection.json("POST", f"{path}/tags", dict(step.tags))
        if step.syncs:
            connection.json("POST", f"{path}/sync", {"sync": ",".join(step.syncs)})
            if step.late and step.wanted.typename in ("annotation", "labelsz"):
                connection.json("POST", f"{path}/reload")  # a new sync does not look at what is there already
        progress(step)


def creation(wanted: Wanted, options: ProfileOptions) -> dict[str, str]:
    """The body of the request that makes an instance."""
    voxel = ",".join(f"{edge:g}" for edge in options.resolution_nm)
    voxels = {"VoxelSize": voxel, "VoxelUnits": "nanometers,nanometers,nanometers", "BlockSize": "64,64,64"}
    kinds = {
        "uint8blk": voxels,
        "labelmap": {**voxels, "MaxDownresLevel": str(options.levels)},
        "roi": {"BlockSize": "32,32,32"},
    }
    settings = {"typename": wanted.typename, "dataname": wanted.name}
    settings |= kinds.get(wanted.typename, {}) | dict(wanted.settings)
    if wanted.tags:
        settings["Tags"] = ",".join(f"{name}={value}" for name, value in wanted.tags.items())
    if not wanted.versioned:
        settings["versioned"] = "false"
    return settings
