"""Running a static server: in the foreground until a signal ends it, or in a thread beside other work."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from fascicle.config import Settings, SettingsError
from fascicle.server.listening import bind, uvicorn_config
from fascicle.server.static_app import HostOptions, StaticApplication
from fascicle.server.static_files import StaticFiles

_START_LIMIT_S = 20.0
_IDLE_S = 75


def application(folder: Path, options: HostOptions | None = None) -> StaticApplication:
    """What serves a folder. Raises SettingsError if there is none."""
    if not folder.is_dir():
        raise SettingsError(f"there is no folder {folder}")
    options = options or HostOptions()
    return StaticApplication(StaticFiles(folder, options.follow_links), options)


def listen(address: str) -> socket.socket:
    """A socket that listens on `HOST:PORT`; port 0 takes any that is free. Raises SettingsError."""
    settings = Settings()
    settings.server.httpAddress = address
    return bind(settings)


def base_url(listening: socket.socket) -> str:
    """The URL under which a browser on this machine finds what listens."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(app: StaticApplication, listening: socket.socket) -> None:
    """Serve until a signal ends it."""
    uvicorn.Server(_config(app)).run(sockets=[listening])


@contextmanager
def running(app: StaticApplication, address: str = "127.0.0.1:0") -> Iterator[str]:
    """Serve in a thread inside of the block; gives the base URL."""
    listening = listen(address)
    server = _Quiet(_config(app))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="host", daemon=True)
    thread.start()
    deadline = time.monotonic() + _START_LIMIT_S
    try:
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise SettingsError(f"the server on {base_url(listening)} did not start")
            time.sleep(0.01)
        yield base_url(listening)
    finally:
        server.should_exit = True
        thread.join(5)
        listening.close()


class _Quiet(uvicorn.Server):
    """A server in a thread, which may not take signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: Any) -> uvicorn.Config:
    return uvicorn_config(app, "httptools", grace_s=2, idle_s=_IDLE_S)


def host_folder(folder: Path, address: str, options: HostOptions) -> None:
    """Serve a folder until a signal ends it, saying where."""
    app = application(folder, options)
    with listen(address) as listening:
        base = base_url(listening)
        print(f"{folder} is at {base}/ (addresses for viewers: precomputed://{base}/...)", flush=True)
        run(app, listening)
