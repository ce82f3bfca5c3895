"""Which version a command works on: one that is named, or the open end of a repo's master branch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fascicle.pipeline.ingest_connections import Connection, IngestError


@dataclass(frozen=True, slots=True)
class ChosenVersion:
    """A version to work on."""

    node: str
    """Its reference: the UUID, or `<root>:master`."""
    root: str
    """UUID of the first version of its repo; empty for a repo that is yet to be made."""
    instances: dict[str, Any] = field(default_factory=dict)
    """The repo's instances by name, as `/api/repo/<uuid>/info` describes them."""


def choose_version(connection: Connection, uuid: str, repo: str) -> ChosenVersion | None:
    """The version of a reference (`uuid`), or the open end of the master branch of the repo with an alias (`repo`).

    None if there is no repo with this alias. Raises IngestError unless exactly one of them is given, and if several
    repos have the alias or the reference means nothing.
    """
    if bool(uuid) == bool(repo):
        raise IngestError("name either a version (--uuid) or a repo (--repo)")
    if uuid:
        found = connection.json("GET", f"/api/repo/{uuid}/info")
        matches = [known for known in found["DAG"]["Nodes"] if known.startswith(uuid)]
        return ChosenVersion(matches[0] if len(matches) == 1 else uuid, found["Root"], found["DataInstances"])
    repos = [known for known in connection.json("GET", "/api/repos/info").values() if known["Alias"] == repo]
    if len(repos) > 1:
        raise IngestError(f"{len(repos)} repos have the alias {repo!r}: name a version with --uuid")
    if not repos:
        return None
    root, nodes = repos[0]["Root"], repos[0]["DAG"]["Nodes"]
    return ChosenVersion(root if len(nodes) == 1 else f"{root}:master", root, repos[0]["DataInstances"])


def make_repo(connection: Connection, alias: str, description: str) -> ChosenVersion:
    """A new repo with one open version."""
    asked = {"alias": alias, "description": description}
    root: str = connection.json("POST", connection.privileged("/api/repos"), asked)["root"]
    return ChosenVersion(root, root)
