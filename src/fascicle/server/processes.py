"""Running the server: one process, or several that share the port and the store."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import gc
import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from fascicle.config import Settings, SettingsError
from fascicle.server.admission import yield_to_others
from fascicle.server.listening import bind, uvicorn_config

if TYPE_CHECKING:
    from fascicle.server.app import Application

log = logging.getLogger("fascicle")

GRACE_S = 30
"""How long running requests may take after a signal to end."""

COLLECTOR_THRESHOLDS = 20_000, 20, 50
"""How many new lists, dictionaries and the like the garbage collector waits for, and the rounds of its generations."""


def _set_up_logging(settings: Settings) -> None:
    handler: logging.Handler
    if settings.logging.logfile:
        handler = logging.FileHandler(settings.logging.logfile)
    else:
        handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


@contextlib.contextmanager
def _pid_file(path: str) -> Iterator[None]:
    """Hold a file with our process id. Raises SettingsError if the process in it is alive."""
    if not path:
        yield
        return
    file = Path(path)
    with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
        running = int(file.read_text())
        os.kill(running, 0)
        raise SettingsError(f"process {running} of pid file {file} is still running")
    file.write_text(f"{os.getpid()}\n")
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def run(settings: Settings) -> None:
    """Serve until a signal ends it."""
    _set_up_logging(settings)
    for name in settings.unused:
        log.warning("setting %s is not used", name)
    with _pid_file(settings.server.pidFile), bind(settings) as listening:
        if settings.server.workers > 1:
            _run_workers(settings, listening)
        else:
            _serve(settings, listening)


def _serve(settings: Settings, listening: socket.socket, parent: int = 0) -> None:
    """Serve in this process."""
    from fascicle.server.app import Application
    from fascicle.server.connection import Connection
    from fascicle.store import open_store

    store = open_store(settings.data)
    try:
        app = Application(store, settings)
        config = uvicorn_config(app, Connection, GRACE_S)
        server = uvicorn.Server(config)
        if parent:
            threading.Thread(target=_end_with, args=(parent, server), daemon=True).start()
        else:
            host, port = listening.getsockname()[:2]
            log.info("fascicle serves %s on http://%s:%d", store.description, host, port)
        app.kernels_ready = False
        warming = threading.Thread(target=_warm_up, args=(server, app), name="warm-up", daemon=True)
        warming.start()
        _run_server(server, listening)
    finally:
        store.close()
    if warming.is_alive():  # it may be inside of the compiler, which does not like to be taken down around it
        atexit.register(_end_at_once)


def _end_at_once() -> None:
    """End the process, once its callers have cleared up, without taking down what still runs in threads."""
    logging.shutdown()
    os._exit(0)


def _warm_up(server: uvicorn.Server, app: Application) -> None:
    """Load compiled kernels in the background, once the server answers, so that no request waits for the compiler."""
    waiting = threading.Event()
    while not server.started:
        if server.should_exit:
            return
        waiting.wait(0.05)
    yield_to_others()
    try:
        from fascicle.kernels import warmup

        took_s = warmup.warm_up_beside(lambda: server.should_exit)
        log.debug("kernels are ready after %.1f s", took_s)
    except Exception:
        log.exception("loading compiled kernels failed")
    app.kernels_ready = True
    _spare_collector()


def _spare_collector() -> None:
    """Let the garbage collector pass over modules and kernels, which stay, and look less often at what is new.

    A request for a thousand things makes thousands of lists and tuples, none of them in a circle; by its usual settings
    the collector would look at all of them, and now and then for a tenth of a second at everything there is.
    """
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


def _run_server(server: uvicorn.Server, listening: socket.socket) -> None:
    """Run the loop. uvicorn raises a signal again behind its end; for us it is an ordinary end."""

    def end(number: int, frame: Any) -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    with contextlib.suppress(asyncio.CancelledError):
        server.run(sockets=[listening])


def _end_with(parent: int, server: uvicorn.Server) -> None:
    """Stop a worker whose parent is gone."""
    waiting = threading.Event()
    while os.getppid() == parent:
        waiting.wait(1.0)
    server.should_exit = True


def _worker(settings: Settings, listening: socket.socket, parent: int) -> None:
    """The main function of a worker process."""
    _set_up_logging(settings)
    _serve(settings, listening, parent)


def _run_workers(settings: Settings, listening: socket.socket) -> None:
    """Start worker processes, start again those that end by themselves, and end them with this one."""
    context = multiprocessing.get_context("spawn")
    ending = threading.Event()

    def end(number: int, frame: Any) -> None:
        ending.set()

    def start() -> Any:
        process = context.Process(target=_worker, args=(settings, listening, os.getpid()))
        process.start()
        return process

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    workers = [start() for _ in range(settings.server.workers)]
    host, port = listening.getsockname()[:2]
    log.info("fascicle serves %s with %d workers on http://%s:%d", settings.data, len(workers), host, port)
    while not ending.wait(0.2):
        for at, process in enumerate(workers):
            if not process.is_alive() and not ending.is_set():
                log.error("worker %d ended with exit code %s; starting another one", process.pid, process.exitcode)
                ending.wait(1.0)
                workers[at] = start()
    for process in workers:
        process.terminate()
    for process in workers:
        process.join(GRACE_S + 5)
        if process.is_alive():
            process.kill()
