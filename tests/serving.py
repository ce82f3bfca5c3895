"""Real server processes for tests, and a small HTTP client that may send bodies with GET.

`server` (session) is one server shared by all tests that need no server of their own; `launch` starts servers on
folders of the test's choice. Nothing here knows of datatypes.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

TOKEN = "test-token"
START_LIMIT_S = 90.0
STOP_LIMIT_S = 20.0


@dataclass(slots=True)
class Reply:
    """What a server answered. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def expect(self, status: int = 200) -> Reply:
        """Itself, or an AssertionError that shows what was answered instead."""
        assert self.status == status, f"answered {self.status} instead of {status}: {self.body[:500]!r}"
        return self


class Client:
    """Requests over one connection that is kept open. One thread at a time."""

    def __init__(self, url: str, timeout_s: float = 60.0) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self.connection = http.client.HTTPConnection(host, int(port), timeout=timeout_s)

    def request(
        self, method: str, path: str, body: bytes | str | Any = b"", headers: dict[str, str] | None = None
    ) -> Reply:
        """Send `body` (bytes, text, or anything that JSON can say) and read the whole answer.

        Raises OSError or http.client.HTTPException if there is none. A read is tried again once where the server had
        closed the idle connection.
        """
        if isinstance(body, str):
            body = body.encode()
        elif not isinstance(body, bytes | bytearray | memoryview):
            body = json.dumps(body, separators=(",", ":")).encode()
        was_open = self.connection.sock is not None
        try:
            return self._exchange(method, path, bytes(body), headers or {})
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            self.connection.close()
            if not was_open or method not in ("GET", "HEAD"):
                raise
            return self._exchange(method, path, bytes(body), headers or {})
        except BaseException:
            self.connection.close()
            raise

    def _exchange(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Reply:
        connection = self.connection
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        if body or method not in ("GET", "HEAD"):
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body or None)
        response = connection.getresponse()
        data = response.read()
        return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, data)

    def get(self, path: str, body: Any = b"") -> Reply:
        return self.request("GET", path, body)

    def post(self, path: str, body: Any = b"") -> Reply:
        return self.request("POST", path, body)

    def head(self, path: str) -> Reply:
        return self.request("HEAD", path)

    def delete(self, path: str) -> Reply:
        return self.request("DELETE", path)

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def command() -> list[str]:
    """The installed program of this interpreter's environment."""
    program = Path(sys.executable).with_name("fascicle")
    return [str(program)] if program.exists() else [sys.executable, "-c", "from fascicle.cli import main; main()"]


@dataclass(slots=True)
class _ProcessStat:
    pid: int
    session: int
    resident_bytes: int
    anonymous_bytes: int


def _processes_of(session: int) -> list[_ProcessStat]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) != session or fields[0] in "ZX":
                continue
            figures = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
            sizes = [int(figures.get(name, "0 kB").split()[0]) * 1024 for name in ("VmRSS", "RssAnon")]
            found.append(_ProcessStat(int(folder.name), session, sizes[0], sizes[1]))
    return found


class MemoryWatch:
    """Peak memory of a server's processes inside of the block, all and without mapped files."""

    def __init__(self, server: RunningServer, interval_s: float = 0.01) -> None:
        self.peak_bytes = 0
        self.peak_anonymous_bytes = 0
        self._server = server
        self._interval_s = interval_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while True:
            processes = _processes_of(self._server.pid)
            self.peak_bytes = max(self.peak_bytes, sum(process.resident_bytes for process in processes))
            self.peak_anonymous_bytes = max(
                self.peak_anonymous_bytes, sum(process.anonymous_bytes for process in processes)
            )
            if self._ended.wait(self._interval_s):
                return

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


@dataclass
class RunningServer:
    """A server process on a data folder; it can be stopped or killed and started again on the same folder."""

    folder: Path
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    program: list[str] = field(default_factory=command)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    start_s: float = 0.0
    """How long the last start took until the first answer."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None, "the server is not running"
        return self.process.pid

    @property
    def log_path(self) -> Path:
        return self.folder.with_name(self.folder.name + ".log")

    def start(self) -> RunningServer:
        assert self.process is None, "the server is running"
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        words = [
            *self.program,
            "serve",
            "--http",
            f"127.0.0.1:{self.port}",
            "--data",
            str(self.folder),
            "--allow-labelmap-split",
        ]
        began = time.monotonic()
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*words, *self.options],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | {"FASCICLE_ADMIN_TOKEN": TOKEN} | self.environment,
            )
        while time.monotonic() < began + START_LIMIT_S:
            if self.process.poll() is not None:
                break
            with suppress(OSError, http.client.HTTPException), self.client(timeout_s=10) as client:
                status = client.get("/api/server/info").status
                if status == 503:
                    continue
                if status != 200:
                    break
                self.start_s = time.monotonic() - began
                return self
            time.sleep(0.02)
        self.kill9()
        raise AssertionError(f"the server did not start; the end of its output:\n{self.log_text()[-2000:]}")

    def log_text(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def client(self, timeout_s: float = 60.0) -> Client:
        return Client(self.url, timeout_s)

    def stop(self) -> int:
        """End the server politely; its exit status. AssertionError if it has to be killed."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise AssertionError(f"the server did not stop within {STOP_LIMIT_S:g} s") from None
        self._end_session()
        self.process = None
        return status

    def kill9(self) -> None:
        """End all processes of the server at once, without any warning."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self._end_session()
            self.process = None

    def _end_session(self) -> None:
        """Wait for the session's other processes, killing what is left."""
        assert self.process is not None
        deadline = time.monotonic() + 5
        while left := _processes_of(self.process.pid):
            if time.monotonic() > deadline:
                for process in left:
                    with suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.005)

    def restart(self) -> RunningServer:
        self.stop()
        return self.start()

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def watch_memory(self) -> MemoryWatch:
        return MemoryWatch(self)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., RunningServer]]:
    """Start servers: `launch("--workers", "2")`, on a new folder or `launch(folder=...)`. They end with the test."""
    started: list[RunningServer] = []

    def start(*options: str, folder: Path | None = None, **environment: str) -> RunningServer:
        server = RunningServer(folder or tmp_path / f"data-{len(started)}", options, environment)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.kill9()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server that many tests use, each in repos of its own."""
    running = RunningServer(tmp_path_factory.mktemp("serving") / "data").start()
    yield running
    running.kill9()


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with server.client() as connection:
        yield connection


def new_repo(client: Client, alias: str = "test") -> str:
    """A new repo; the UUID of its root."""
    root: str = (
        client.post(f"/api/repos?admintoken={TOKEN}", {"alias": alias, "description": "made by a test"})
        .expect()
        .json()["root"]
    )
    return root


def new_instance(client: Client, uuid: str, typename: str, name: str, **settings: str) -> str:
    """A new data instance; the path of its endpoints at that version, without a slash at the end."""
    client.post(f"/api/repo/{uuid}/instance", {"typename": typename, "dataname": name, **settings}).expect()
    return f"/api/node/{uuid}/{name}"
