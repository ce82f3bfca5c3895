"""`fascicle backup`: a consistent copy of a store."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("fascicle-data"),
    show_default=True,
    help="Folder of the store.",
)
def backup(target: Path, data: Path) -> None:
    """Copy a store into the new folder TARGET, which opens as a store of its own. A server may be using the store."""
    from fascicle.errors import StoreError
    from fascicle.store import open_store

    if not data.is_dir():
        raise StoreError(f"there is no store in {data}")
    if target.exists() and any(target.iterdir()):
        raise StoreError(f"{target} is not empty")
    store = open_store(data)
    try:
        store.backup(target)
    finally:
        store.close()
    click.echo(f"copied {data} to {target}")
