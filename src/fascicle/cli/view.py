"""`fascicle view`: a link to the viewer that shows what was named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fascicle.cli.ingest import Numbers

if TYPE_CHECKING:
    from fascicle.pipeline.ingest_connections import Connection
    from fascicle.pipeline.sources import SourceSpec
    from fascicle.pipeline.view import ViewOptions


class Ids(click.ParamType[Any]):
    """Numbers of bodies, between commas."""

    name = "ids"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        parts = str(value).replace(" ", "").split(",")
        if not all(part.isascii() and part.isdigit() and int(part) < 1 << 64 for part in parts):
            self.fail(f"{value!r} must be numbers of bodies like 17,23", param, ctx)
        return tuple(int(part) for part in parts)


class Range(click.ParamType[Any]):
    """Two values low,high."""

    name = "low,high"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            low, high = (float(part) for part in str(value).split(","))
        except ValueError:
            low = high = 0.0
        if not low < high:
            self.fail(f"{value!r} must be two values like 20,210", param, ctx)
        return low, high


@click.command()
@click.argument("source", nargs=-1)
@click.option("--server", default="", metavar="URL", help="Running server whose instances to show.")
@click.option("--repo", default="", metavar="ALIAS", help="Its repo.")
@click.option("--uuid", "version", default="", metavar="REF", help="Version, branch or tag. [newest of master]")
@click.option("--instance", "instances", multiple=True, metavar="NAME", help="Its instance; may be repeated. [all]")
@click.option("--supervoxels", is_flag=True, help="Supervoxels of label maps instead of bodies.")
@click.option("--position", "position_xyz", type=Numbers(float), help="Where to look, in voxels. [the middle]")
@click.option("--scale", type=click.FloatRange(0, min_open=True), help="Voxels per pixel. [the whole volume is seen]")
@click.option("--layout", default="4panel", show_default=True, help="xy, xz, yz, xy-3d, 4panel, 3d, ...")
@click.option("--segments", type=Ids(), default=(), metavar="ID,ID", help="Bodies to select.")
@click.option("--range", "value_range", type=Range(), metavar="LOW,HIGH", help="Values of black and white. [found]")
@click.option("--title", default="", help="Title of the page.")
@click.option("--viewer", default="", metavar="URL", help="Viewer to use, or `public`. [the server's own, else public]")
@click.option("--at", default="", metavar="URL", help="Under which URL the common folder of local sources is served.")
@click.option(
    "--http", "address", default="127.0.0.1:0", metavar="HOST:PORT", help="Where to serve local sources. [free]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the state instead of a link.")
@click.option("--short", is_flag=True, help="Print a short link; the state is kept by the server.")
@click.option("--save", default="", metavar="ADDRESS", help="Write the state to a file or bucket, link that.")
@click.option("--open", "opens", is_flag=True, help="Open the link in the browser.")
def view(
    source: tuple[str, ...],
    server: str,
    repo: str,
    version: str,
    instances: tuple[str, ...],
    supervoxels: bool,
    viewer: str,
    at: str,
    address: str,
    as_json: bool,
    short: bool,
    save: str,
    opens: bool,
    **shown: Any,
) -> None:
    """Print a link to Neuroglancer that shows SOURCE, or instances of a running server, one layer each.

    SOURCE is a folder with a precomputed volume, annotations, meshes or skeletons, zarr or N5, its address (http,
    https, gs, s3, vast), or dvid://http://server/uuid/instance. Folders on this machine are served until Ctrl-C.

    \b
    fascicle view out/grayscale out/segmentation --segments 17,23
    fascicle view --server http://localhost:8000 --repo medulla --layout 3d --short
    fascicle view gs://bucket/em --position 1000,2000,300 --scale 2 --open
    """
    from fascicle.pipeline.sources import SourceSpec
    from fascicle.pipeline.view import PUBLIC_VIEWER, ViewOptions

    if bool(repo or version or instances) and not server:
        raise click.UsageError("--repo, --uuid and --instance are of a --server")
    if not source and not server:
        raise click.UsageError("name a SOURCE or a --server")
    specs = [SourceSpec(address=name) for name in source]
    if server:
        specs += _of_server(server, repo, version, instances, supervoxels)
    options = ViewOptions(viewer=PUBLIC_VIEWER if viewer == "public" else viewer, **shown)
    local = [Path(name.removeprefix("file://")).expanduser() for name in source if _is_local(name)]
    if not local:
        keeps = _keeper(server, repo, version) if short else None
        _show(specs, options, None, keeps, as_json, save, opens)
        return
    missing = [str(folder) for folder in local if not folder.is_dir()]
    if missing:
        raise click.UsageError(f"{missing[0]} is no folder")
    root = _common(local)
    if at:
        if short:
            raise click.UsageError("--short needs a server that keeps the state; with --at use --save")
        _show(specs, options, _Published(root, at), None, as_json, save, opens)
        return
    if as_json:
        raise click.UsageError("say with --at under which URL the folders are served; `fascicle host` serves them")
    _host_and_show(root, address, specs, options, short, save, opens)


def _is_local(name: str) -> bool:
    return "://" not in name or name.startswith("file://")


def _common(folders: list[Path]) -> Path:
    """The folder that is served: the parent of all."""
    import os

    parents = [str(folder.resolve().parent) for folder in folders]
    return Path(os.path.commonpath(parents))


class _Published:
    """URLs of folders below one that is served."""

    def __init__(self, root: Path, base: str) -> None:
        self._root = root
        self._base = base.rstrip("/")

    def __call__(self, folder: str) -> str:
        from urllib.parse import quote

        below = Path(folder).expanduser().resolve().relative_to(self._root).as_posix()
        return f"{self._base}/{quote(below)}"


def _of_server(server: str, repo: str, version: str, instances: tuple[str, ...], supervoxels: bool) -> list[SourceSpec]:
    from fascicle.pipeline.sources import SourceSpec
    from fascicle.pipeline.view_choice import viewable_instances

    if not repo and not version:
        raise click.UsageError("name the repo (--repo) or the version (--uuid) to show")
    server = server if "://" in server else f"http://{server}"
    names = list(instances) or viewable_instances(server, repo, version)
    specs = [SourceSpec(server=server, repo=repo, version=version, instance=name) for name in names]
    return [replace(spec, supervoxels=supervoxels) for spec in specs] if supervoxels else specs


def _keeper(server: str, repo: str, version: str) -> Any:
    """What keeps a state on the server and gives its URL."""
    if not server:
        raise click.UsageError("--short needs a server that keeps the state; --save ADDRESS writes it elsewhere")
    from fascicle.cli.target import connect
    from fascicle.pipeline.version_choice import choose_version
    from fascicle.pipeline.view import store_state

    def keep(state: dict[str, Any]) -> str:
        with connect(None, server) as connection:
            return _url_of_kept(connection, server, store_state(connection, _root(connection), state))

    def _root(connection: Connection) -> str:
        chosen = choose_version(connection, "", repo) if repo else choose_version(connection, version, "")
        if chosen is None:
            raise click.UsageError(f"there is no repo with the alias {repo!r}")
        return chosen.root

    return keep


def _url_of_kept(connection: Connection, server: str, path: str) -> str:
    return f"{(server if '://' in server else f'http://{server}').rstrip('/')}{path}"


def _host_and_show(
    root: Path, address: str, specs: list[SourceSpec], options: ViewOptions, short: bool, save: str, opens: bool
) -> None:
    import json
    import threading

    from fascicle.pipeline.view import state_name
    from fascicle.server.static_host import application, running
    from fascicle.server.viewer import PAGE_PATH

    app = application(root)
    with running(app, address) as base:

        def keep(state: dict[str, Any]) -> str:
            name = state_name(state)
            app.states[name] = json.dumps(state).encode()
            return f"{base}/states/{name}.json"

        if not options.viewer:
            options = replace(options, viewer=base + PAGE_PATH)
        _show(specs, options, _Published(root, base), keep if short else None, False, save, opens)
        click.echo(f"{root} is served at {base}/ until Ctrl-C", err=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            click.echo("", err=True)


def _show(
    specs: list[SourceSpec], options: ViewOptions, published: Any, keep: Any, as_json: bool, save: str, opens: bool
) -> None:
    import json

    from fascicle.pipeline import view as views

    found = views.view(specs, options, published)
    url = found.url
    if save:
        place = views.save_state(save, found.state)
        if views.is_web_address(place):
            url = found.short_url(place)
    if keep is not None:
        url = found.short_url(keep(found.state))
    click.echo(json.dumps(found.state, indent=2) if as_json else url)
    if opens:
        click.launch(url)
