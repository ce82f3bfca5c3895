"""Repos, nodes (versions) and instances as values. The catalog makes them from the store's rows."""

from __future__ import annotations

from typing import Any

import msgspec


class Repo(msgspec.Struct, frozen=True, kw_only=True):
    """A version graph and the instances in it."""

    id: int
    root_uuid: str
    root_version: int
    alias: str = ""
    description: str = ""
    passcode: str = ""
    log: tuple[str, ...] = ()
    created: str = ""
    updated: str = ""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A version. `id` is the server's own number, greater than those of its parents; 0 is no version."""

    id: int
    uuid: str
    repo_id: int
    branch: str = ""
    note: str = ""
    log: tuple[str, ...] = ()
    locked: bool = False
    parents: tuple[int, ...] = ()
    children: tuple[int, ...] = ()
    created: str = ""
    updated: str = ""


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """A named set of data of one datatype, visible from every version of its repo."""

    id: int
    name: str
    typename: str
    data_uuid: str
    repo_id: int
    created_at_version: int
    versioned: bool = True
    compression: str = "lz4"
    """As in the settings: none, snappy, lz4, gzip, gzip:N, jpeg or jpeg:N."""
    checksum: str = "none"
    syncs: tuple[str, ...] = ()
    """Data UUIDs of the instances that this one follows."""
    tags: dict[str, str] | None = None
    deleted: bool = False
    properties: dict[str, Any] = {}
    """What the datatype keeps for the instance, unversioned; plain JSON values."""
