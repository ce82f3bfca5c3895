"""How our servers listen: the socket, and what uvicorn is told. One place for the API's server and the static one."""

from __future__ import annotations

import socket
import sys
from typing import Any

import uvicorn

from fascicle.config import Settings, SettingsError

BACKLOG = 2048
IDLE_S = 600
"""How long a connection may wait for its next request: who prepares a large upload meanwhile expects it open."""


def bind(settings: Settings) -> socket.socket:
    """The socket that all processes accept connections from. Raises SettingsError."""
    host, port = settings.address()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise SettingsError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    listening.listen(BACKLOG)
    listening.setblocking(False)
    return listening


def uvicorn_config(app: Any, http: Any, grace_s: int, idle_s: int = IDLE_S) -> uvicorn.Config:
    """What uvicorn is told: `http` speaks the protocol, running requests may take `grace_s` after a signal to end."""
    return uvicorn.Config(
        app,
        http=http,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=idle_s,
        timeout_graceful_shutdown=grace_s,
    )
