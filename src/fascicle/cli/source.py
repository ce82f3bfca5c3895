"""What a command reads, as one argument and some options: an address, or an instance at a version."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fascicle.pipeline.sources import SourceSpec


def source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--data`, `--server`, `--repo`, `--uuid`, `--instance`, `--supervoxels`, `--dataset` and `--channel`."""
    options = (
        click.option("--data", default="", metavar="DIR", help="Store to read from, instead of SOURCE."),
        click.option("--server", default="", metavar="URL", help="Running server to read from, instead of SOURCE."),
        click.option("--repo", default="", metavar="ALIAS", help="Its repo."),
        click.option("--uuid", default="", metavar="REF", help="Version, branch or tag. [newest of the master branch]"),
        click.option("--instance", default="", metavar="NAME", help="Its instance."),
        click.option("--supervoxels", is_flag=True, help="Supervoxels of a labelmap instead of bodies."),
        click.option("--dataset", default="", metavar="PATH", help="Array of a file or folder that has several."),
        click.option("--channel", type=click.IntRange(0), help="Channel of a source that has several."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def source_spec(address: str | Sequence[str], options: dict[str, Any]) -> SourceSpec:
    """The source that an argument (which may be empty) and the options name; these are taken out of `options`.

    Several addresses are the image files of a stack.

    Raises UsageError unless exactly one of them says where it is.
    """
    from fascicle.pipeline.sources import SourceSpec

    names = ("data", "server", "repo", "instance", "supervoxels", "dataset", "channel")
    values = {name: options.pop(name) for name in names}
    first, *more = [address] if isinstance(address, str) else address or [""]
    spec = SourceSpec(address=first, more=tuple(more), version=options.pop("uuid"), **values)
    if sum(bool(place) for place in (spec.address, spec.data, spec.server)) != 1:
        raise click.UsageError("name either a SOURCE, a store (--data) or a server (--server)")
    if not spec.address and not spec.instance:
        raise click.UsageError("name the instance to read with --instance")
    if not spec.address and not spec.repo and not spec.version:
        raise click.UsageError("name the repo (--repo) or the version (--uuid) to read")
    return spec
