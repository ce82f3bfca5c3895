"""`fascicle compact`: give back the space of values that nothing refers to any more."""

from __future__ import annotations

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
def compact(data: Path) -> None:
    """Rewrite what is alive in segments that are mostly dead, and remove those; also while the store is in use."""
    from fascicle.errors import StoreError
    from fascicle.store import open_store

    if not data.is_dir():
        raise StoreError(f"there is no store in {data}")
    store = open_store(data)
    try:
        freed = store.compact()
        statistics = store.statistics()
    finally:
        store.close()
    click.echo(f"{freed} bytes given back; {statistics.live_bytes} of {statistics.file_bytes} are in use")
