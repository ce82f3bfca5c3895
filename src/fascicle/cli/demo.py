"""`fascicle demo`: a small brain in the browser, from nothing to a viewable, versioned repo.

The process that the user started is the server. A child of it makes or reads the data, and loads it over HTTP as any
other client would, so that generating and serving compile and run on two cores at once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from contextlib import ExitStack
from multiprocessing.context import SpawnProcess
from pathlib import Path

import click


@click.command()
@click.option("--no-browser", is_flag=True, help="Only print the link; open nothing.")
@click.option(
    "--http", "address", default="127.0.0.1:8000", metavar="HOST:PORT", show_default=True, help="Where to listen."
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Keep the data in this folder, and show what an earlier demo left there. [a folder that ends with the demo]",
)
@click.option(
    "--volume",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Show real data instead: a folder with slices in 'grayscale' and a label volume.",
)
def demo(no_browser: bool, address: str, data: Path | None, volume: Path | None) -> None:
    """Generate a small brain, load it into a store of its own and show it in Neuroglancer.

    The link that is printed opens a viewer that this server brings along. Ctrl-C ends the demo.
    """
    from fascicle import config
    from fascicle.server import listening, processes

    settings = config.load()
    settings.server.httpAddress = address
    listening.bind(settings).close()  # a port in use is refused before any work is done
    with ExitStack() as stack:
        if data is None:
            settings.data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fascicle-demo-")))
        else:
            settings.data = data
        loader = multiprocessing.get_context("spawn").Process(
            target=_load, args=(_browsable(*settings.address()), volume, not no_browser), daemon=True
        )
        loader.start()
        stack.callback(loader.join, 5)
        stack.callback(loader.terminate)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        stack.callback(signal.signal, signal.SIGTERM, signal.SIG_IGN)  # nothing may stop the clearing up
        threading.Thread(target=_end_if_it_fails, args=(loader,), daemon=True).start()
        processes.run(settings)
        failed = (loader.exitcode or 0) > 0  # below 0: a signal ended both
    if failed:
        os._exit(1)  # the server may have threads in the compiler, which an ordinary end would wait for


def _end_if_it_fails(loader: SpawnProcess) -> None:
    """Without data there is nothing to show: end this process, too, by the way that ends a server."""
    loader.join()
    if (loader.exitcode or 0) > 0:
        os.kill(os.getpid(), signal.SIGTERM)


def _browsable(host: str, port: int) -> str:
    """The URL under which a browser on this machine finds a server that listens on `host`."""
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _load(base_url: str, volume: Path | None, open_browser: bool) -> None:
    """What the child does."""
    from fascicle.pipeline.demo_repo import show

    show(base_url, volume, open_browser)
