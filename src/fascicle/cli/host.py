"""`fascicle host`: a folder of precomputed volumes for viewers, and what other servers need to be told."""

from __future__ import annotations

from pathlib import Path

import click

UNNAMED = "my-bucket"
"""The bucket of a policy when none is named."""


@click.command()
@click.argument("folder", required=False, metavar="DIR")
@click.option(
    "--http", "address", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT", help="Where to listen."
)
@click.option("--origin", "origins", multiple=True, metavar="ORIGIN", help="Whose pages may read it. [everybody's]")
@click.option("--listing", is_flag=True, help="Show folders as lists of links.")
@click.option("--compress", is_flag=True, help="Compress on the way what is not compressed.")
@click.option("--follow-links", is_flag=True, help="Links may lead out of DIR.")
@click.option(
    "--max-age",
    "max_age_s",
    type=click.IntRange(0),
    default=0,
    metavar="SECONDS",
    help="Caches need not ask again so long. [0]",
)
@click.option("--nginx", is_flag=True, help="Print settings of nginx for DIR instead.")
@click.option("--s3-cors", is_flag=True, help="Print the CORS settings of an S3 bucket instead.")
@click.option("--gcs-cors", is_flag=True, help="Print the CORS settings of a Google bucket instead.")
@click.option(
    "--s3-policy",
    is_flag=False,
    flag_value=UNNAMED,
    default="",
    metavar="BUCKET[/FOLDER]",
    help="Print a policy by which everybody may read it. [that of DIR, or one to fill in]",
)
@click.option("--fix-names", is_flag=True, help="Rename what lies in DIR, or a bucket, as the format has it instead.")
@click.option("--dry-run", is_flag=True, help="With --fix-names: only say what would be renamed.")
def host(
    folder: str | None,
    address: str,
    origins: tuple[str, ...],
    listing: bool,
    compress: bool,
    follow_links: bool,
    max_age_s: int,
    nginx: bool,
    s3_cors: bool,
    gcs_cors: bool,
    s3_policy: str,
    fix_names: bool,
    dry_run: bool,
) -> None:
    """Serve DIR to viewers: ranges, other origins, names as every program gives them; and a viewer at its front page.

    \b
    fascicle host out --http 0.0.0.0:8080
    fascicle host /data/public --nginx > /etc/nginx/conf.d/public.conf
    fascicle host --s3-cors > cors.json
    fascicle host s3://bucket/volume --fix-names --dry-run
    """
    asked = sum((nginx, s3_cors, gcs_cors, bool(s3_policy), fix_names))
    if asked > 1:
        raise click.UsageError("--nginx, --s3-cors, --gcs-cors, --s3-policy and --fix-names exclude each other")
    if dry_run and not fix_names:
        raise click.UsageError("--dry-run is for --fix-names")
    if folder is None and (nginx or fix_names or not asked):
        raise click.UsageError("name the folder: fascicle host DIR")
    if s3_policy == UNNAMED and folder is not None and folder.startswith("s3://"):
        s3_policy = folder
    if s3_cors or gcs_cors or s3_policy or nginx:
        click.echo(_settings(folder, address, origins or ("*",), nginx, s3_cors, s3_policy), nl=False)
        return
    assert folder is not None
    if fix_names:
        _fix_names(folder, dry_run)
        return
    from fascicle.server.static_app import HostOptions
    from fascicle.server.static_host import host_folder

    options = HostOptions(
        origins=origins or ("*",),
        listing=listing,
        compress=compress,
        follow_links=follow_links,
        max_age_s=max_age_s,
    )
    host_folder(Path(folder), address, options)


def _settings(
    folder: str | None, address: str, origins: tuple[str, ...], nginx: bool, s3_cors: bool, s3_policy: str
) -> str:
    from fascicle.server import static_settings

    if nginx:
        source = click.get_current_context().get_parameter_source("address")
        listen = "80" if source is click.core.ParameterSource.DEFAULT else address
        if len(origins) > 1:
            raise click.UsageError("nginx takes one --origin")
        return static_settings.nginx(str(Path(folder or ".").absolute()), listen, origins[0])
    if s3_policy:
        return static_settings.s3_policy(s3_policy)
    return static_settings.s3_cors(origins) if s3_cors else static_settings.gcs_cors(origins)


def _fix_names(address: str, dry_run: bool) -> None:
    from fascicle.pipeline.object_names import fix_names

    done = fix_names(address, dry_run=dry_run)
    if dry_run:
        for old, new in done.renamed:
            click.echo(f"{old} -> {new}")
    for old, new in done.in_the_way[:20]:
        click.echo(f"{old} was left alone: there is a {new}", err=True)
    click.echo(f"{len(done.renamed)} {'to be renamed' if dry_run else 'renamed'}, {len(done.in_the_way)} left alone")
    if done.in_the_way:
        click.get_current_context().exit(1)
