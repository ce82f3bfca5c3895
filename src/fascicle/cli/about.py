"""`fascicle about`: versions."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import click

from fascicle import __version__

_SHOWN = ("lmdb", "uvicorn", "uvloop", "httptools", "msgspec", "numpy", "numba")


@click.command()
def about() -> None:
    """Versions of this program and of what it stands on."""
    click.echo(f"fascicle {__version__}")
    click.echo(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in _SHOWN:
        try:
            click.echo(f"{name} {version(name)}")
        except PackageNotFoundError:
            click.echo(f"{name} is not installed")
