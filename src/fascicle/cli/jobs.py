"""What commands that start long jobs have in common: who does the work, where to, and for which bodies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from fascicle.cli.ingest import Size


def job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--workers`, `--scheduler`, `--memory`, `--journal` and `--quiet`."""
    file = click.Path(path_type=Path, dir_okay=False)
    options = (
        click.option("--workers", type=click.IntRange(1), help="Processes. [as many as there are processors]"),
        click.option(
            "--scheduler", default="", metavar="ADDRESS", help="Let the workers of a Dask scheduler do the work."
        ),
        click.option(
            "--memory", type=Size(), default="2G", show_default=True, help="About so much memory may be used."
        ),
        click.option("--journal", type=file, help="File that remembers what is done."),
        click.option("--quiet", is_flag=True, help="No progress bars."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def source_and_destination(places: Sequence[str], remote: bool) -> tuple[str, str]:
    """The places `[SOURCE] [DEST]`: there is no SOURCE if it is `remote`, that is, named by options.

    Both may be empty. Raises UsageError if there are too many.
    """
    most = 1 if remote else 2
    if len(places) > most:
        raise click.UsageError(f"too many places: {' '.join(places)}")
    address = "" if remote else (places[0] if places else "")
    return address, places[-1] if len(places) == most else ""


def body_list(text: str) -> tuple[int, ...]:
    """Numbers with commas between, or those in the lines of a file."""
    if not text:
        return ()
    path = Path(text)
    parts = text.split(",") if text[0].isdigit() and not path.is_file() else _lines(path)
    if not all(part.isascii() and part.isdigit() and 0 < int(part) < 1 << 64 for part in parts):
        raise click.UsageError(f"--bodies {text}: these are not bodies, as 1,2,3")
    return tuple(int(part) for part in parts)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--bodies: {path} cannot be read: {error}") from None
