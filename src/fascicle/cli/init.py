"""`fascicle init`: the instances, syncs and tags that a kind of work needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fascicle.cli.ingest import Numbers
from fascicle.cli.target import connect, target_options

if TYPE_CHECKING:
    from fascicle.pipeline.profiles import Step


@click.command()
@click.option(
    "--profile", required=True, type=click.Choice(["proofreading", "hemibrain"]), help="What the repo is made for."
)
@target_options
@click.option("--resolution", type=Numbers(float), default="8,8,8", show_default=True, help="Size of a voxel in nm.")
@click.option(
    "--scales", type=click.IntRange(1, 20), default=7, show_default=True, help="Coarser scales of new label maps."
)
@click.option("--roi", "rois", multiple=True, metavar="NAME", help="A further region; may be given several times.")
@click.option("--without", multiple=True, metavar="NAME", help="Leave an instance out; may be given several times.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def init(
    profile: str,
    data: Path | None,
    server: str | None,
    repo: str,
    uuid: str,
    resolution: tuple[float, float, float],
    scales: int,
    rois: tuple[str, ...],
    without: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Make a repo ready for proofreading, or like the hemibrain's.

    Instances that are there already stay as they are, and only get the syncs and tags that they lack, so the command
    may be given again. A repo is made if there is none with the alias. Without `--data` and `--server` the store is
    the folder fascicle-data, as for `fascicle serve`; without `--repo` and `--uuid` the alias is the profile's name.

    \b
    fascicle init --profile proofreading
    fascicle init --profile proofreading --data db --repo medulla --resolution 10,10,10
    fascicle init --profile hemibrain --server http://127.0.0.1:8000 --uuid 28841c
    """
    from fascicle.pipeline import profiles
    from fascicle.pipeline.version_choice import choose_version, make_repo

    if data is None and server is None:
        data = Path("fascicle-data")
    if not repo and not uuid:
        repo = profile
    options = profiles.ProfileOptions(resolution_nm=resolution, levels=scales, rois=rois, without=without)
    wanted = profiles.instances(profile, options)
    unknown = [name for name in without if name not in {one.name for one in profiles.PROFILES[profile]}]
    if unknown:
        raise click.UsageError(f"the profile {profile} has no instance {', '.join(unknown)}")
    if uuid and repo:
        raise click.UsageError("name either a version (--uuid) or a repo (--repo)")
    if dry_run and data is not None and not data.is_dir():
        _tell(profiles.plan(wanted, {}), dry_run)
        return
    with connect(data, server, new=not uuid) as connection:
        chosen = choose_version(connection, uuid, repo)
        steps = profiles.plan(wanted, chosen.instances if chosen else {})
        if not dry_run:
            if chosen is None:
                chosen = make_repo(connection, repo, f"made with the profile {profile}")
            profiles.apply(connection, chosen.node, steps, options)
        _tell(steps, dry_run)
        if chosen is not None:
            click.echo(f"repo {chosen.root}")


def _tell(steps: list[Step], dry_run: bool) -> None:
    from fascicle.pipeline.profiles import State

    for step in steps:
        click.echo(str(step))
    count = {state: sum(step.state is state for step in steps) for state in State}
    would = "would be " if dry_run else ""
    click.echo(
        f"{count[State.NEW]} instances {would}made, {count[State.CHANGED]} {would}changed, "
        f"{count[State.COMPLETE]} there already"
        + (f", {count[State.CONFLICT]} in the way" if count[State.CONFLICT] else "")
    )
