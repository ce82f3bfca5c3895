"""`fascicle check`: read all of a store."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("fascicle-data"),
    show_default=True,
    help="Folder of the store.",
)
def check(data: Path) -> None:
    """Read all of a store and verify every checksum. Exit code 1, and a line for each fault, if something is wrong."""
    from fascicle.errors import StoreError
    from fascicle.store import open_store
    from fascicle.versions import consistency

    if not data.is_dir():
        raise StoreError(f"there is no store in {data}")
    store = open_store(data)
    try:
        faults = store.check()
        with store.read() as txn:
            faults += consistency.faults(txn)
        statistics = store.statistics()
    finally:
        store.close()
    for fault in faults:
        click.echo(fault)
    click.echo(f"{statistics.keys} keys, {statistics.file_bytes} bytes: {len(faults) or 'no'} faults")
    if faults:
        sys.exit(1)
