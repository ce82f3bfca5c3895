"""A version of a repo, on a server or in a store folder.

Example:
    with fascicle.open("http://localhost:8000", repo="medulla") as version:
        version["segmentation"][100:110, 0:512, 0:512]      # NumPy, [z, y, x]
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any
from urllib.parse import quote

from fascicle.client.connections import Place, path_of
from fascicle.client.notes import Instance, KeyValues, NeuronNotes, Points
from fascicle.client.volumes import IMAGE_TYPES, LABEL_TYPES, LabelArray, VolumeArray
from fascicle.errors import BadRequest, NotFound

MASTER = "master"


class Version:
    """One version. `version[name]` is a data instance as it is at this version:

    =============  =================================================
    datatype       what comes back
    =============  =================================================
    images         `VolumeArray`: `[z, y, x]`, `scale`, `to_dask`
    labelmap       `LabelArray`: also `labels_at`, `merge`, `cleave`
    keyvalue       `KeyValues`: `value`, `put`, `delete`, `keys`
    neuronjson     `NeuronNotes`: `note`, `update`, `query`
    annotation     `Points`: `in_box`, `of_body`, `put`
    any other      `Instance`: `get` and `post`
    =============  =================================================
    """

    def __init__(self, place: Place, info: dict[str, Any], uuid: str) -> None:
        self.place = place
        self.uuid = uuid
        self.repo: str = info["Alias"]
        """Alias of the repo."""
        self.root: str = info["Root"]
        """UUID of the repo's first version."""
        node = info["DAG"]["Nodes"][uuid]
        self.branch: str = node.get("Branch") or MASTER
        self.locked: bool = bool(node.get("Locked"))
        """Whether it was committed when it was opened. What is committed never changes."""
        self.note: str = node.get("Note", "")
        self.instances: dict[str, str] = {
            name: instance["Base"]["TypeName"] for name, instance in sorted(info["DataInstances"].items())
        }
        """Datatype of each data instance by its name."""

    def __getitem__(self, name: str) -> Any:
        typename = self.instances.get(name)
        if typename is None:
            known = ", ".join(self.instances) or "none"
            raise KeyError(f"version {self.uuid} has no data instance {name!r}, only {known}")
        if typename in LABEL_TYPES:
            return LabelArray(self.place, self.uuid, name)
        if typename in IMAGE_TYPES:
            return VolumeArray(self.place, self.uuid, name)
        kinds: dict[str, type[Instance]] = {"keyvalue": KeyValues, "neuronjson": NeuronNotes, "annotation": Points}
        return kinds.get(typename, Instance)(self.place, self.uuid, name, typename)

    def __iter__(self) -> Iterator[str]:
        return iter(self.instances)

    def __contains__(self, name: object) -> bool:
        return name in self.instances

    def __len__(self) -> int:
        return len(self.instances)

    @property
    def annotations(self) -> dict[str, Points]:
        """The instances with points, by name."""
        return {name: self[name] for name, typename in self.instances.items() if typename == "annotation"}

    # -- other versions

    def commit(self, note: str = "") -> None:
        """Lock this version. Raises Refused if it is locked already."""
        self.place.json("POST", path_of(self.uuid, "commit"), {"note": note} if note else {})
        self.locked = True

    def new_version(self, note: str = "") -> Version:
        """An open child of this version, which must be locked, on the same branch. Raises Refused."""
        answer = self.place.json("POST", path_of(self.uuid, "newversion"), {"note": note})
        return self.at(answer["child"])

    def new_branch(self, branch: str, note: str = "") -> Version:
        """An open child of this version, which must be locked, on a branch of its own. Raises Refused."""
        answer = self.place.json("POST", path_of(self.uuid, "branch"), {"branch": branch, "note": note})
        return self.at(answer["child"])

    def at(self, version: str) -> Version:
        """Another version of the same repo: its UUID, or a branch or tag. Raises NotFound. Shares the connection."""
        return _version(self.place, self.place.json("GET", f"/api/repo/{self.root}/info"), version)

    def close(self) -> None:
        """Let go of the connection, and of a store folder."""
        self.place.close()

    def __enter__(self) -> Version:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "locked" if self.locked else "open"
        return f"<Version {self.uuid[:8]} of {self.repo or self.root[:8]}, branch {self.branch}, {state}>"


def open_version(place: str, *, repo: str = "", version: str = "", user: str = "", token: str = "") -> Version:
    """Open a version of a repo.

    `place`    URL of a server (`http://localhost:8000`), or a folder with a store, which no server may be writing to
    `repo`     alias of a repo, or the beginning of its UUID; not needed if there is one repo only
    `version`  a UUID or its beginning, a branch or a tag; by default the newest version of the master branch
    `user`     who edits, for the records of mutations; by default the name of the account
    `token`    administrators' token; by default that of the environment variable FASCICLE_ADMIN_TOKEN

    Raises NotFound if there is no such store, repo or version, BadRequest if several repos could be meant.

    >>> with fascicle.open("http://localhost:8000", repo="medulla") as version:    # doctest: +SKIP
    ...     version["segmentation"].labels_at([[512, 300, 40]])
    array([17], dtype=uint64)
    """
    opened = Place(place, token, user)
    try:
        return _version(opened, _repo(opened, repo, version), version)
    except BaseException:
        opened.close()
        raise


def _repo(place: Place, repo: str, version: str) -> dict[str, Any]:
    """The description of a repo."""
    repos: list[dict[str, Any]] = [
        info
        for info in (place.json("GET", "/api/repos/info") or {}).values()
        if isinstance(info, dict) and "Root" in info
    ]
    if repo:
        found = [info for info in repos if info["Alias"] == repo]
        found = found or [info for info in repos if info["Root"].startswith(repo.lower())]
    elif version and len(repos) != 1:
        found = [info for info in repos if any(uuid.startswith(version.lower()) for uuid in info["DAG"]["Nodes"])]
    else:
        found = repos
    what = f"repo {repo!r}" if repo else f"version {version!r}" if version else "repo"
    if not found:
        raise NotFound(f"{place.address} has no {what}")
    if len(found) > 1:
        names = ", ".join(sorted(info["Alias"] or info["Root"][:8] for info in found)[:20])
        raise BadRequest(f"{place.address} has {len(found)} repos that this could be; name one with repo=: {names}")
    return found[0]


def _version(place: Place, info: dict[str, Any], version: str) -> Version:
    nodes = info["DAG"]["Nodes"]
    branches = {node.get("Branch") or MASTER for node in nodes.values()}
    wanted = version or MASTER
    exact = [uuid for uuid in nodes if uuid in (wanted, wanted.lower())]
    if not exact and wanted in branches:
        path = f"/api/repo/{info['Root']}/branch-versions/{quote(wanted, safe='')}"
        exact = place.json("GET", path)[:1]
    if not exact:
        exact = [uuid for uuid in nodes if uuid.startswith(wanted.lower())]
    if len(exact) != 1:
        problem = (
            f"{wanted!r} means {len(exact)} versions" if exact else f"there is no version, branch or tag {wanted!r}"
        )
        raise NotFound(f"repo {info['Alias'] or info['Root']}: {problem}")
    return Version(place, info, exact[0])
