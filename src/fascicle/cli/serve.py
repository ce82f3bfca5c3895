"""`fascicle serve`: answer requests over HTTP."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--http", "address", metavar="HOST:PORT", help="Where to listen. [127.0.0.1:8000]")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Folder of the store. [fascicle-data]")
@click.option("--full-write", is_flag=True, help="Allow changes of committed versions.")
@click.option("--read-only", is_flag=True, help="Refuse all changes.")
@click.option("--workers", type=click.IntRange(1, 64), help="Processes that answer requests. [1]")
@click.option("--allow-labelmap-split", is_flag=True, help="Allow the endpoint 'split' of label maps.")
@click.option("--verbose", is_flag=True, help="Log every request.")
def serve(
    config: Path | None,
    address: str | None,
    data: Path | None,
    full_write: bool,
    read_only: bool,
    workers: int | None,
    allow_labelmap_split: bool,
    verbose: bool,
) -> None:
    """Answer requests over HTTP, with settings of a TOML file CONFIG (ours, or one written for DVID) or none.

    An administrators' token is taken from the environment variable FASCICLE_ADMIN_TOKEN or DVID_ADMIN_TOKEN.
    """
    from fascicle import config as settings_module
    from fascicle.server import processes

    if full_write and read_only:
        raise click.UsageError("--full-write and --read-only exclude each other")
    settings = settings_module.load(config)
    if address is not None:
        settings.server.httpAddress = address
    if data is not None:
        settings.data = data
    if full_write:
        settings.server.rwmode = "fullwrite"
    if read_only:
        settings.server.rwmode = "readonly"
    if workers is not None:
        settings.server.workers = workers
    if allow_labelmap_split:
        settings.server.allowLabelmapSplit = True
    if verbose:
        settings.logging.requests = "all"
    processes.run(settings)
