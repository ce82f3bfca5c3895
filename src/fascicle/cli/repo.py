"""`fascicle repo`: repos of a store, without a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from fascicle.store import Store
    from fascicle.versions.catalog import CatalogCache

_data = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("fascicle-data"),
    show_default=True,
    help="Folder of the store.",
)


@contextmanager
def _opened(data: Path, *, new: bool = False) -> Iterator[tuple[Store, CatalogCache]]:
    """The store in a folder and its catalog. Raises StoreError for a folder that is not there, unless `new`."""
    from fascicle.errors import StoreError
    from fascicle.store import open_store
    from fascicle.versions.catalog import CatalogCache

    if not new and not data.is_dir():
        raise StoreError(f"there is no store in {data}")
    store = open_store(data)
    try:
        yield store, CatalogCache(store)
    finally:
        store.close()


@click.group()
def repo() -> None:
    """Make, list and show repos of a store."""


@repo.command("new")
@click.argument("alias")
@click.argument("description", default="")
@click.option("--root", default="", metavar="UUID", help="UUID of the first version. [random]")
@click.option("--passcode", default="", help="Asked for when the repo or an instance is to be deleted.")
@_data
def new(alias: str, description: str, root: str, passcode: str, data: Path) -> None:
    """Make a repo with one open version, and print its UUID."""
    from fascicle.versions import graph
    from fascicle.versions.catalog import CatalogEditor

    with _opened(data, new=True) as (store, catalogs):
        made = store.write(
            lambda txn: graph.create_repo(CatalogEditor(txn, catalogs), alias, description, root, passcode)
        )
    click.echo(made.root_uuid)


@repo.command("list")
@_data
def list_repos(data: Path) -> None:
    """Print the root UUID, the numbers of versions and instances, and the alias of every repo."""
    with _opened(data) as (store, catalogs), store.read() as txn:
        catalog = catalogs.at(txn)
        for found in catalog.repos():
            versions, instances = len(catalog.nodes(found.id)), len(catalog.instances(found.id))
            click.echo(f"{found.root_uuid}  {versions:6} versions  {instances:4} instances  {found.alias}")


@repo.command("info")
@click.argument("reference")
@_data
def info(reference: str, data: Path) -> None:
    """Print the JSON description of the repo that a version belongs to."""
    import msgspec

    from fascicle.server.descriptions import Describer

    with _opened(data) as (store, catalogs), store.read() as txn:
        catalog = catalogs.at(txn)
        found = catalog.repo(catalog.resolve(reference).repo_id)
        description = Describer(txn, catalog, store.description).repo(found)
    click.echo(msgspec.json.format(msgspec.json.encode(description), indent=2).decode())
