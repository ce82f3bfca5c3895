"""A web server of files that can be told to misbehave. With names as /bucket/key it speaks enough S3, and Google's."""

from __future__ import annotations

import gzip
import hashlib
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.sax.saxutils import escape


@dataclass
class ObjectServer:
    """Serves the files under `root`. `faults(name, number)` may return what goes wrong with the number-th request of a
    name: a status, "cut" (half of the body, then the connection ends) or "silent" (no answer).
    """

    root: Path
    faults: Callable[[str, int], int | str | None] = lambda name, number: None
    ranges: bool = True
    coding: bool = False
    """Whether whole objects come gzipped, with the header that says so."""
    missing_status: int = 404
    forbidden: bool = False
    query: str = ""
    """What every request must have as its query (S3's own questions aside)."""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, name and range of each request."""

    def __enter__(self) -> ObjectServer:
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()
        self._end = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = 1 << 16

            def do_GET(self) -> None:
                outer.answer(self)

            def do_HEAD(self) -> None:
                outer.answer(self)

            def log_message(self, *_: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Clients that go away are part of the tests."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def names(self) -> list[str]:
        return [name for _, name, _ in self.requests]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = urllib.parse.urlsplit(request.path)
        name = urllib.parse.unquote(parts.path).strip("/")
        wanted = request.headers.get("Range", "")
        with self._lock:
            number = self._counts[name] = self._counts.get(name, 0) + 1
            self.requests.append((request.command, name, wanted))
        query = urllib.parse.parse_qs(parts.query)
        if "list-type" in query:
            self._list(request, name, query.get("prefix", [""])[0])
            return
        fault = self.faults(name, number)
        if fault == "silent":
            self._end.wait(20)
            request.close_connection = True
            return
        path = self.root / name
        if isinstance(fault, int):
            _send(request, fault, b"no luck")
        elif self.forbidden or (self.query and parts.query != self.query):
            _send(request, 403, b"not for you")
        elif not path.is_file():
            _send(request, self.missing_status, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            self._send_file(request, path.read_bytes(), wanted, fault == "cut")

    def _send_file(self, request: BaseHTTPRequestHandler, data: bytes, wanted: str, cut: bool) -> None:
        headers = {"ETag": f'"{hashlib.md5(data).hexdigest()}"', "Last-Modified": "Sat, 01 Jan 2022 00:00:00 GMT"}
        status = 200
        if wanted and self.ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1 if last else len(data), len(data))
            if start >= len(data):
                _send(request, 416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            data, status = data[start:stop], 206
        elif self.coding and not wanted:
            data = gzip.compress(data)
            headers["Content-Encoding"] = "gzip"
        _send(request, status, data, headers, cut)

    def _list(self, request: BaseHTTPRequestHandler, bucket: str, prefix: str) -> None:
        folder = self.root / bucket
        entries = []
        for path in sorted(folder.rglob("*")):
            key = path.relative_to(folder).as_posix()
            if path.is_file() and key.startswith(prefix):
                entries.append(
                    f"<Contents><Key>{escape(key)}</Key><Size>{path.stat().st_size}</Size>"
                    '<LastModified>2022-01-01T00:00:00.000Z</LastModified><ETag>"1"</ETag></Contents>'
                )
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(entries)}</ListBucketResult>"
        _send(request, 200, body.encode(), {"Content-Type": "application/xml"})


def _send(
    request: BaseHTTPRequestHandler,
    status: int,
    data: bytes,
    headers: dict[str, str] | None = None,
    cut: bool = False,
) -> None:
    request.send_response(status)
    for key, value in (headers or {}).items():
        request.send_header(key, value)
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(data[: len(data) // 2] if cut else data)
    request.wfile.flush()
    if cut:
        request.close_connection = True
