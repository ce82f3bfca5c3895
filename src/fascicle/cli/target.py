"""Options that name a store or server, a repo or version, for the commands that work on one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fascicle.pipeline.ingest_connections import Connection


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--data`, `--server`, `--repo` and `--uuid` to a command."""
    options = (
        click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Store to work on directly."),
        click.option("--server", metavar="URL", help="Running server to work on instead."),
        click.option("--repo", default="", metavar="ALIAS", help="Repo: the open end of its master branch."),
        click.option("--uuid", default="", metavar="REF", help="Version, instead of --repo."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def connect(data: Path | None, server: str | None, *, new: bool = False) -> Connection:
    """A connection to the store or server that was named.

    Raises UsageError unless exactly one of them was, and StoreError for a folder that is not there, unless `new`.
    """
    from fascicle.errors import StoreError
    from fascicle.pipeline.ingest_connections import LocalConnection, ServerConnection

    if (data is None) == (server is None):
        raise click.UsageError("name either a folder (--data) or a server (--server)")
    if server is not None:
        token = os.environ.get("FASCICLE_ADMIN_TOKEN") or os.environ.get("DVID_ADMIN_TOKEN") or ""
        return ServerConnection(server, token)
    assert data is not None
    if not new and not data.is_dir():
        raise StoreError(f"there is no store in {data}")
    return LocalConnection(data)
