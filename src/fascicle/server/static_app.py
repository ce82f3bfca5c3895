"""An ASGI application that serves a folder to viewers: no store, no versions, files as they are.

What viewers and their libraries need of a web server: https://github.com/google/neuroglancer/blob/master/README.md
("Supported data sources") and RFC 9110 (ranges, validators, content negotiation). Every answer, errors too, may be read
by pages of any origin. Parts of files are never compressed. A folder's name without `/` is not redirected: viewers take
that for a missing file.
"""

from __future__ import annotations

import asyncio
import html
import io
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

from isal import igzip

from fascicle.datatypes.base import Answer
from fascicle.datatypes.keyvalue import byte_ranges
from fascicle.errors import FascicleError, NotFound
from fascicle.server import answers, viewer
from fascicle.server.requests import Request
from fascicle.server.static_files import FoundFile, StaticFiles

log = logging.getLogger(__name__)

PIECE_BYTES = 1 << 20
"""Larger files are sent in pieces of this size."""
_COMPRESSED_FROM = 1 << 10
_COMPRESSED_UP_TO = 64 << 20
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"\xff\x0a", b"\x00\x00\x00\x0cJXL")
"""How chunks begin that would not get smaller."""
_ALLOWED = ("Allow", "GET, HEAD, OPTIONS")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOptions:
    """How a folder is served."""

    origins: tuple[str, ...] = ("*",)
    """Whose pages may read it: whole origins, patterns with `*`, or names of hosts."""
    listing: bool = False
    """Whether folders (`X/`) are shown as lists of links."""
    compress: bool = False
    """Whether files are compressed on the way."""
    follow_links: bool = False
    """Whether links may lead out of the folder."""
    max_age_s: int = 0
    """How long files may be taken from a cache without asking again; `info` never."""


class StaticApplication:
    """Serves one folder."""

    def __init__(self, files: StaticFiles, options: HostOptions | None = None) -> None:
        self.files = files
        self.options = options or HostOptions()
        self.headers = answers.CommonHeaders(self.options.origins, timing=True)
        self.states: dict[str, bytes] = {}
        """States of the viewer that links name: `/states/<name>.json`."""
        self._pool = ThreadPoolExecutor(16, "host")

    async def __call__(self, scope: Any, receive: Any, send: answers.Send) -> None:
        """Answer one request, or start and end with the server."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, send)

    async def _lifespan(self, receive: Any, send: answers.Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                self._pool.shutdown(wait=False, cancel_futures=True)
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _http(self, scope: Any, send: answers.Send) -> None:
        request = Request.of_scope(scope)
        sending = answers.Sending(send, request, self.headers)
        try:
            if request.method == "OPTIONS":
                await sending.options()
            elif not request.reads:
                text = f"{request.method} is not supported here, only GET and HEAD\n"
                await sending.answer(Answer(text.encode(), "text/plain; charset=utf-8", 405, [_ALLOWED]))
            else:
                await self._read(request, sending)
        except FascicleError as error:
            await sending.error(error)
        except asyncio.CancelledError:
            raise
        except ConnectionAbortedError:
            raise
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            await sending.failure()

    async def _read(self, request: Request, sending: answers.Sending) -> None:
        found = await self._in_pool(partial(self.files.find, request.segments))
        if found is None:
            await sending.answer(await self._in_pool(partial(self._page, request)))
            return
        answer = await self._in_pool(partial(self._whole, request, found))
        if isinstance(answer, Answer):
            await sending.answer(answer)
        else:
            await self._send_pieces(sending, found, answer)

    async def _in_pool(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def _send_pieces(self, sending: answers.Sending, found: FoundFile, part: Part) -> None:
        """Send a large file, or a large part of one."""
        await sending.start(part.head)
        if sending.headless:
            await sending.end()
            return
        file = await self._in_pool(partial(io.FileIO, found.path))
        try:
            file.seek(part.first)
            left = part.size
            while left > 0:
                piece = await self._in_pool(partial(file.read, min(left, PIECE_BYTES)))
                if not piece:  # it was cut meanwhile; the client learns it by the missing bytes
                    raise ConnectionAbortedError(f"{found.path} ends too soon")
                left -= len(piece)
                await sending.piece(piece)
        finally:
            file.close()
        await sending.end()

    # -- in a thread of the pool

    def _whole(self, request: Request, found: FoundFile) -> Answer | Part:
        """The answer that has a file, or the head of one that is sent in pieces."""
        range_header = request.headers.get("range")
        accepted = request.headers.get("accept-encoding", "")
        packing, coding = found.packing, ""
        if packing is not None and found.whole and range_header is None and takes(accepted, packing.coding):
            coding = packing.coding
        compresses = (
            self.options.compress
            and packing is None
            and found.whole
            and range_header is None
            and _COMPRESSED_FROM <= found.size <= _COMPRESSED_UP_TO
            and takes(accepted, "gzip")
        )
        tag = f"{found.changed_ns:x}-{found.size:x}"
        headers = [
            ("Last-Modified", formatdate(found.changed_ns // 1_000_000_000, usegmt=True)),
            ("Cache-Control", self._caching(request)),
        ]
        if found.whole and (packing is not None or self.options.compress):
            headers.append(("Vary", "Accept-Encoding"))
        if coding or compresses:
            tag += f"-{coding or 'gzip'}"
        headers.insert(0, ("ETag", f'"{tag}"'))
        if _is_known(request, f'"{tag}"', found.changed_ns // 1_000_000_000):
            return Answer(b"", None, 304, headers)
        if coding:
            return Answer(found.path.read_bytes(), found.kind, 200, [*headers, ("Content-Encoding", coding)])
        if compresses:
            data = found.path.read_bytes()
            if data.startswith(_PICTURES):
                return Answer(data, found.kind, 200, [*headers, ("Accept-Ranges", "bytes")])
            packed = igzip.compress(data, 1, mtime=0)
            return Answer(packed, found.kind, 200, [*headers, ("Content-Encoding", "gzip")])
        headers.append(("Accept-Ranges", "bytes"))
        content = None if packing is None else found.content()
        size = found.size if content is None else len(content)
        part = None
        if range_header is not None and _may_be_part(request, f'"{tag}"', found.changed_ns // 1_000_000_000):
            part = byte_ranges.from_header(range_header, size)
        status, first, length = 200, 0, size
        if part is not None:
            status, first, length = 206, part.first, part.last + 1 - part.first
            headers.append(("Content-Range", f"bytes {part.first}-{part.last}/{size}"))
        if content is not None:
            return Answer(content[first : first + length], found.kind, status, headers)
        if length > PIECE_BYTES or request.method == "HEAD":
            return Part(Answer(b"", found.kind, status, [*headers, ("Content-Length", str(length))]), first, length)
        with found.path.open("rb", buffering=0) as file:
            file.seek(first)
            data = file.read(length)
        if data is None or len(data) != length:
            raise ConnectionAbortedError(f"{found.path} ends too soon")
        return Answer(data, found.kind, status, headers)

    def _caching(self, request: Request) -> str:
        if self.options.max_age_s == 0 or request.segments[-1] in ("info", "provenance"):
            return "no-cache"
        return f"public, max-age={self.options.max_age_s}"

    def _page(self, request: Request) -> Answer:
        """What is no file: the viewer, states that links name, lists of folders."""
        path, segments = request.path, request.segments
        if not segments:
            return _html(self._front())
        if len(segments) == 2 and segments[0] == "states" and segments[1].removesuffix(".json") in self.states:
            return Answer(self.states[segments[1].removesuffix(".json")], "application/json")
        if segments[0] == "neuroglancer" or path == "/favicon.ico":
            found = viewer.respond(path)
            if found is not None:
                return found
        if path.endswith("/") and self.options.listing and self.files.is_folder(segments):
            return _html(_listing(path, self.files.names(segments)))
        raise NotFound(f"there is no file {path}")

    def _front(self) -> str:
        """A page that links each volume to the viewer."""
        rows = []
        for parts in self.files.infos():
            name = html.escape("/".join(parts) or ".")
            target = html.escape(quote("/".join(parts)))
            view = f'<a class="view" data-path="{target}" href="#">view</a>'
            info = f'<a href="/{target}{"/" if target else ""}info">info</a>'
            rows.append(f"<li><code>{name}</code> {view} {info}</li>")
        found = "\n".join(rows) or "<li>no folder with a file <code>info</code> was found here</li>"
        return _FRONT.replace("@NAME@", html.escape(self.files.root.name)).replace("@ROWS@", found)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a file that is sent in pieces."""

    head: Answer
    first: int
    size: int


def takes(accepted: str, coding: str) -> bool:
    """Whether a header Accept-Encoding takes a coding.

    >>> takes("deflate, gzip;q=0.5", "gzip"), takes("gzip;q=0", "gzip"), takes("*", "br"), takes("", "gzip")
    (True, False, True, False)
    """
    if not coding:
        return False
    weights = {}
    for part in accepted.lower().replace(" ", "").split(","):
        name, _, weight = part.partition(";")
        weights[name] = weight
    weight = weights.get(coding, weights.get("*", "q=0"))
    return weight.rstrip("0").rstrip(".") not in ("q=", "q")


def _is_known(request: Request, tag: str, changed_s: int) -> bool:
    """Whether the client has it already. If-None-Match goes before If-Modified-Since (RFC 9110, 13.2.2)."""
    names = request.headers.get("if-none-match")
    if names is not None:
        given = [part.strip().removeprefix("W/") for part in names.split(",")]
        return tag in given or given == ["*"]
    since = _seconds(request.headers.get("if-modified-since", ""))
    return since is not None and changed_s <= since


def _may_be_part(request: Request, tag: str, changed_s: int) -> bool:
    """Whether a part may be sent: If-Range names the file as it is."""
    condition = request.headers.get("if-range")
    if condition is None:
        return True
    if condition.startswith(('"', "W/")):
        return bool(condition == tag)
    return _seconds(condition) == changed_s


def _seconds(date: str) -> int | None:
    """A date of HTTP in seconds of Unix time."""
    try:
        return int(parsedate_to_datetime(date).timestamp()) if date else None
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _html(text: str) -> Answer:
    return Answer(text.encode("utf-8", "replace"), "text/html; charset=utf-8", headers=[("Cache-Control", "no-cache")])


def _listing(path: str, names: list[str]) -> str:
    """A folder as links, in the form from which viewers complete paths."""
    rows = "\n".join(f'<li><a href="{quote(name, safe="/")}">{html.escape(name)}</a></li>' for name in names)
    title = html.escape(path)
    return f"<!doctype html><title>{title}</title><h1>{title}</h1><ul>\n{rows}\n</ul>\n"


_FRONT = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>@NAME@</title>
<style>body { font: 15px system-ui, sans-serif; margin: 3em auto; max-width: 46em } li { margin: .4em 0 }</style>
<h1>@NAME@</h1>
<ul>
@ROWS@
</ul>
<p>Addresses for viewers are those of the folders: <code>precomputed://<span id="base"></span>/...</code></p>
<script>
const base = location.origin;
document.getElementById("base").textContent = base;
for (const link of document.querySelectorAll("a.view")) {
  const place = base + "/" + link.dataset.path;
  const name = decodeURIComponent(link.dataset.path.split("/").pop()) || "volume";
  const state = { layers: [{ type: "auto", name, source: "precomputed://" + place }], layout: "4panel" };
  link.href = "/neuroglancer/v/here/#!" + encodeURIComponent(JSON.stringify(state));
}
</script>
</html>
"""
