"""A bucket store that speaks S3 (moto's server, in a process of its own), and before it a proxy that can misbehave.

`object_bucket` is what tests ask for: an empty bucket of its own, with the environment set so that this process and
those that it starts find it under `s3://<name>/...`.

Example:

    def test_it(object_bucket: ObjectBucket) -> None:
        object_bucket.server.faults = seeded_faults(7, 0.2)
        open_destination(object_bucket.address).put("info", b"{}")
        assert object_bucket.contents() == {"info": b"{}"}
"""

from __future__ import annotations

import hashlib
import http.client
import itertools
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

Fault = int | str | None
"""What goes wrong with a request:

* a status such as 503: the store is not asked, the answer is an error;
* "cut": half of the answer's body, then the connection ends (of requests without such a body: no answer at all);
* "dropped": the request is not passed on, the connection ends after its head;
* "lost": the store does what it was asked to, but the connection ends before it can say so;
* "short": half of the answer's body under a Content-Length that agrees with it;
* "slow": the answer comes after `slow_s`;
* "silent": no answer, and the connection stays open.
"""
Faults = Callable[[str, str, int], Fault]
"""From method, key (without bucket and query) and the number of the request of both, from 1 on, to a fault."""

KEYS = {
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
}
_SIGNED = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=tester/20200101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0"
}
_PROGRAM = """
import logging, sys
logging.disable(logging.CRITICAL)
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server
WSGIRequestHandler.protocol_version = "HTTP/1.1"
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""
_HOP_BY_HOP = ("connection", "transfer-encoding", "keep-alive", "content-length", "date", "server")


def no_faults(method: str, key: str, number: int) -> Fault:
    """Everything goes well."""
    return None


def seeded_faults(
    seed: int, rate: float, kinds: Sequence[int | str] = (500, 503, "cut", "dropped", "lost"), in_a_row: int = 2
) -> Faults:
    """A part of all requests goes wrong, always the same ones whatever the order that threads ask in.

    No request goes wrong more than `in_a_row` times in succession, so those who try again succeed.
    """

    def draw(method: str, key: str, number: int) -> Fault:
        digest = hashlib.sha256(f"{seed} {method} {key} {number}".encode()).digest()
        if int.from_bytes(digest[:4], "little") >= rate * (1 << 32):
            return None
        return kinds[digest[4] % len(kinds)]

    def faults(method: str, key: str, number: int) -> Fault:
        fault = draw(method, key, number)
        before = [draw(method, key, n) for n in range(max(1, number - in_a_row), number)]
        return None if len(before) == in_a_row and None not in before else fault

    return faults


def first_faults(count: int, fault: Fault, part: str = "") -> Faults:
    """The first `count` requests of each method and key go wrong, of keys that contain `part`."""
    return lambda method, key, number: fault if number <= count and part in key else None


@dataclass(frozen=True)
class Request:
    """One that reached the proxy."""

    method: str
    bucket: str
    key: str
    query: str
    range: str
    received: int
    """Bytes of its body."""


@dataclass
class ObjectServer:
    """Moto behind a proxy. A context manager; `url` is the endpoint to use, `plain_url` the one without faults."""

    faults: Faults = no_faults
    slow_s: float = 0.3
    requests: list[Request] = field(default_factory=list)
    sent_bytes: int = 0
    """Bytes of bodies in answers so far."""

    def __enter__(self) -> ObjectServer:
        # `-c`, not a file: the folder of a script would come first in its path
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        if not port:
            raise RuntimeError("moto's server did not start: pip install 'fascicle[dev]'")
        self._port = int(port)
        self.plain_url = f"http://127.0.0.1:{port}"
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], int] = {}
        self._end = threading.Event()
        self._local = threading.local()
        self._proxy = _Proxy(self)
        self.url = f"http://127.0.0.1:{self._proxy.server_port}"
        threading.Thread(target=self._proxy.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._proxy.shutdown()
        self._proxy.server_close()
        self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def environment(self) -> dict[str, str]:
        """What programs need in their environment to use this in place of Amazon's."""
        return KEYS | {"AWS_ENDPOINT_URL": self.url, "AWS_ENDPOINT": self.url, "AWS_ALLOW_HTTP": "true"}

    def make_bucket(self, name: str, public: bool = False) -> ObjectBucket:
        """A new bucket; what is in a public one may be read without keys."""
        acl = {"x-amz-acl": "public-read-write"} if public else {}
        self.ask("PUT", f"/{name}", headers=acl)
        return ObjectBucket(self, name)

    def ask(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
        """A request to the store itself, which must succeed."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        try:
            connection.request(method, path, body, _SIGNED | (headers or {}))
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {data[:200]!r}")
        return data

    def reset(self) -> None:
        """No faults; nothing was asked yet."""
        with self._lock:
            self.faults = no_faults
            self._counts.clear()
            self.requests.clear()
            self.sent_bytes = 0

    # -- the proxy

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """One request to the proxy."""
        parts = urllib.parse.urlsplit(handler.path)
        bucket, _, key = urllib.parse.unquote(parts.path).strip("/").partition("/")
        length = int(handler.headers.get("Content-Length") or 0)
        with self._lock:
            number = self._counts[handler.command, parts.path] = self._counts.get((handler.command, parts.path), 0) + 1
        fault = self.faults(handler.command, key, number)
        if fault == "silent":
            self._end.wait(20)
        if fault in ("dropped", "silent"):
            handler.close_connection = True
            return
        body = _body(handler, length)
        request = Request(handler.command, bucket, key, parts.query, handler.headers.get("Range", ""), len(body))
        with self._lock:
            self.requests.append(request)
        if fault == "slow":
            self._end.wait(self.slow_s)
        if isinstance(fault, int):
            _send(handler, fault, [("Content-Type", "application/xml")], b"<Error><Code>Trouble</Code></Error>")
            return
        status, headers, data = self._forward(handler, body)
        if fault == "lost" or (fault == "cut" and not data):
            handler.close_connection = True
            return
        if fault == "short":
            data = data[: len(data) // 2]
        with self._lock:
            self.sent_bytes += len(data)
        _send(handler, status, headers, data, cut=fault == "cut")

    def _forward(self, handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        headers = {name: value for name, value in handler.headers.items() if name.lower() not in _HOP_BY_HOP}
        headers["Content-Length"] = str(len(body))
        for attempt in (0, 1):
            connection = getattr(self._local, "connection", None)
            if connection is None:
                connection = self._local.connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
            try:
                connection.request(handler.command, handler.path, body, headers)
                answer = connection.getresponse()
                data = answer.read()
            except (http.client.HTTPException, OSError):
                # a connection that was kept and is closed on the other side
                connection.close()
                self._local.connection = None
                if attempt:
                    raise
                continue
            kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in _HOP_BY_HOP]
            if handler.command == "HEAD":
                kept.append(("Content-Length", answer.getheader("Content-Length") or "0"))
            return answer.status, kept, data
        raise AssertionError


@dataclass(frozen=True)
class ObjectBucket:
    """A bucket of an `ObjectServer`. Its methods go past the proxy: they neither fail nor count."""

    server: ObjectServer
    name: str

    @property
    def address(self) -> str:
        return f"s3://{self.name}"

    def names(self, prefix: str = "") -> list[str]:
        """The keys of all objects, sorted."""
        return sorted(entry["path"] for batch in self._list(prefix) for entry in batch)

    def contents(self, prefix: str = "") -> dict[str, bytes]:
        """The bodies of all objects as they are stored (compressed if they were put so), by key."""
        return {name: self.body(name) for name in self.names(prefix)}

    def body(self, key: str) -> bytes:
        """One object."""
        import obstore

        return bytes(obstore.get(self._store(), key).bytes())

    def attributes(self, key: str) -> dict[str, str]:
        """Content-Type, Content-Encoding, Cache-Control of an object."""
        import obstore

        return {str(name): str(value) for name, value in obstore.get(self._store(), key).attributes.items()}

    def put(self, key: str, data: bytes, **attributes: str) -> None:
        """An object; attributes as `Content_Encoding="gzip"`."""
        import obstore

        found: Any = {name.replace("_", "-"): value for name, value in attributes.items()}
        obstore.put(self._store(), key, data, attributes=found)

    def uploads(self) -> int:
        """Multipart uploads that were begun and neither completed nor aborted."""
        return self.server.ask("GET", f"/{self.name}?uploads").count(b"<UploadId>")

    def _list(self, prefix: str) -> Iterator[Any]:
        import obstore

        # stores list by whole parts of a path
        folder = prefix.rpartition("/")[0]
        for batch in obstore.list(self._store(), folder or None):
            yield [entry for entry in batch if entry["path"].startswith(prefix)]

    def _store(self) -> Any:
        from obstore.store import S3Store

        return S3Store(
            self.name,
            endpoint=self.server.plain_url,
            region="us-east-1",
            access_key_id="tester",
            secret_access_key="secret",
            client_options={"allow_http": True},
        )


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, owner: ObjectServer) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = 1 << 16

            def do_GET(self) -> None:
                owner.answer(self)

            do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

            def log_message(self, *_: object) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, *_: object) -> None:
        """Clients that go away are part of the tests."""


def _body(handler: BaseHTTPRequestHandler, length: int) -> bytes:
    if "chunked" not in handler.headers.get("Transfer-Encoding", "").lower():
        return handler.rfile.read(length)
    parts = []
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        parts.append(handler.rfile.read(size))
        handler.rfile.readline()
    handler.rfile.readline()
    return b"".join(parts)


def _send(
    handler: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], data: bytes, cut: bool = False
) -> None:
    handler.send_response(status)
    for name, value in headers:
        handler.send_header(name, value)
    if handler.command != "HEAD":
        handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(data[: len(data) // 2] if cut else data)
    handler.wfile.flush()
    if cut:
        handler.close_connection = True


_numbers = itertools.count()


@pytest.fixture(scope="session")
def object_server() -> Iterator[ObjectServer]:
    """The store, one for all tests of a run."""
    with ObjectServer() as server:
        yield server


@pytest.fixture
def object_bucket(object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectBucket]:
    """An empty bucket; nothing goes wrong yet. Tries that fail are repeated without long pauses in this process."""
    from fascicle.volumes import persistence

    object_server.reset()
    for name, value in object_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(persistence, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(persistence, "LONGEST_PAUSE_S", 0.01)
    yield object_server.make_bucket(f"bucket-{next(_numbers)}-{time.monotonic_ns() % 10**9}")
    object_server.reset()
