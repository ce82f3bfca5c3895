"""The command `fascicle`. Each command is a module of this package that is imported when it is used."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from fascicle import __version__

_COMMANDS = {
    "serve": ("fascicle.cli.serve", "serve", "Answer requests over HTTP."),
    "demo": ("fascicle.cli.demo", "demo", "A small brain, versioned and segmented, in the browser."),
    "init": ("fascicle.cli.init", "init", "Make the instances that proofreading needs, or the hemibrain's."),
    "ingest": ("fascicle.cli.ingest", "ingest", "Bring images or labels into a volume."),
    "convert": ("fascicle.cli.convert", "convert", "Write any volume as a static precomputed one."),
    "index": ("fascicle.cli.index", "index", "Make the index of labels that live elsewhere."),
    "import": ("fascicle.cli.table_import", "import_", "Bring tables of synapses, regions or bodies into a version."),
    "export": ("fascicle.cli.export", "export", "Write a version as precomputed volumes, or tables of it."),
    "mirror": ("fascicle.cli.mirror", "mirror", "Copy a precomputed volume, or a part of it."),
    "lookup": ("fascicle.cli.lookup", "lookup", "Labels at the points of a table."),
    "host": ("fascicle.cli.host", "host", "Serve a folder to viewers; settings of other servers."),
    "view": ("fascicle.cli.view", "view", "Print or open a link to the viewer."),
    "shot": ("fascicle.cli.shot", "shot", "Write a picture of a section, or of bodies in 3-D."),
    "mesh": ("fascicle.cli.mesh", "mesh", "Make meshes of the bodies of a segmentation."),
    "skeletonize": ("fascicle.cli.skeletonize", "skeletonize", "Make skeletons of the bodies of a segmentation."),
    "repo": ("fascicle.cli.repo", "repo", "Make, list and show repos of a store."),
    "backup": ("fascicle.cli.backup", "backup", "Copy a store, also while it is in use."),
    "check": ("fascicle.cli.check", "check", "Read all of a store and verify every checksum."),
    "compact": ("fascicle.cli.compact", "compact", "Give back the space of values that are no longer used."),
    "about": ("fascicle.cli.about", "about", "Versions of this program and of what it stands on."),
}
"""name -> (module, attribute, one line of help)"""

_DVID_FLAGS = {"fullwrite": "--full-write", "readonly": "--read-only", "verbose": "--verbose"}
"""Flags that DVID takes before the command."""


class LazyGroup(click.Group):
    """A group that imports a command when it is run, not to list it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name == "help":
            return click.Command("help", callback=lambda: click.echo(self.get_help(ctx)))
        if name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[name]
        try:
            command: click.Command = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise click.ClickException(f"command {name!r} is not available here: {error}") from None
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


@click.group(cls=LazyGroup, invoke_without_command=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fascicle")
def group() -> None:
    """A versioned data service for connectomics."""


def translated(arguments: list[str]) -> list[str]:
    """Arguments in the form `-fullwrite serve x.toml` as those of our own command."""
    moved: list[str] = []
    rest = list(arguments)
    while rest and rest[0].startswith("-"):
        name = rest[0].lstrip("-")
        if name not in _DVID_FLAGS:
            return arguments
        moved.append(_DVID_FLAGS[name])
        del rest[0]
    return [rest[0], *moved, *rest[1:]] if rest and moved else arguments


def main() -> None:
    """Run the command line; bad input ends with one line and exit code 2."""
    try:
        code = group.main(args=translated(sys.argv[1:]), prog_name="fascicle", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        click.echo(f"fascicle: {' '.join(error.format_message().split())}", err=True)
        sys.exit(2)
    except click.Abort:
        sys.exit(130)
    except Exception as error:
        from fascicle.errors import FascicleError  # not before: it would slow down help

        if not isinstance(error, FascicleError):
            raise
        click.echo(f"fascicle: {error.message}", err=True)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)
