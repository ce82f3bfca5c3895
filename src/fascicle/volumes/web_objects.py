"""Objects behind a web server."""

from __future__ import annotations

import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from functools import cache
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError, IncompleteRead, LocationValueError, ProtocolError

from fascicle.volumes.base import VolumeError
from fascicle.volumes.objects import Access, Forbidden, ObjectFolder, Piece, Span, TooShort, gunzipped, unzstd
from fascicle.volumes.persistence import Passing, RefusalJudge, Refused, persistently

CONNECTIONS = 32
REDIRECTS = 5
CONNECT_TIMEOUT_S = 10.0
SLOWEST = 10
"""One answer may take so many times the longest silence."""
_PIECE_BYTES = 1 << 20
_ABSENT = (404, 410)
_PASSING = (408, 425, 429)
_RETRIES = urllib3.Retry(
    total=None, connect=0, read=0, status=0, other=0, redirect=REDIRECTS, respect_retry_after_header=False
)


class WebFolder(ObjectFolder):
    """Objects under a URL. A query (`?token=...`) is sent with every request."""

    lists = False

    def __init__(self, address: str, access: Access) -> None:
        parts = urllib.parse.urlsplit(address)
        if not parts.hostname:
            raise VolumeError(f"{address} names no server")
        self.address = urllib.parse.urlunsplit(parts._replace(path=parts.path.rstrip("/"), query="", fragment=""))
        self._query = f"?{parts.query}" if parts.query else ""
        self._access = access
        self._judge = RefusalJudge()
        self._headers: dict[str, str] = {}
        self._base = self.address
        if parts.username:
            secret = f"{parts.username}:{parts.password or ''}"
            self._headers = urllib3.make_headers(basic_auth=urllib.parse.unquote(secret))
            host = parts.netloc.rpartition("@")[2]
            self.address = self._base = urllib.parse.urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))

    def fetch(self, name: str, span: Span | None = None) -> Piece | None:
        try:
            piece = persistently(self._access.attempts, self.path(name), lambda: self._try(name, span))
        except Refused as refusal:
            if self._judge.is_absent(self._can_read):
                return None
            raise Forbidden(f"{self.path(name)} cannot be read: {refusal}") from None
        if piece is not None:
            self._judge.saw(name)
        return piece

    def exists(self, name: str) -> bool:
        def head() -> bool | None:
            with self._answer("HEAD", name, {}) as answer:
                if answer.status in (405, 501):
                    return None
                return self._is_there(answer, name)

        try:
            found = persistently(self._access.attempts, self.path(name), head)
        except Refused as refusal:
            if self._judge.is_absent(self._can_read):
                return False
            raise Forbidden(f"{self.path(name)} cannot be read: {refusal}") from None
        return self.fetch(name) is not None if found is None else found

    def measure(self, name: str) -> tuple[int, str] | None:
        def head() -> tuple[int, str] | None:
            with self._answer("HEAD", name, {"Accept-Encoding": "identity"}) as answer:
                if answer.status in (405, 501):
                    return -1, ""
                if not self._is_there(answer, name):
                    return None
                length = answer.headers.get("Content-Length", "")
                coding = answer.headers.get("Content-Encoding", "identity").lower()
                if not length.isdigit() or coding != "identity":
                    return -1, ""
                return int(length), answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""

        try:
            found = persistently(self._access.attempts, self.path(name), head)
        except Refused as refusal:
            if self._judge.is_absent(self._can_read):
                return None
            raise Forbidden(f"{self.path(name)} cannot be read: {refusal}") from None
        return super().measure(name) if found is not None and found[0] < 0 else found

    def names(self, prefix: str = "") -> Iterator[str]:
        raise VolumeError(f"{self.address} is on a web server, which cannot list what it has")

    def _can_read(self, name: str) -> bool:
        try:
            return self._try(name, None) is not None
        except (Passing, Refused, VolumeError):
            return False

    def _url(self, name: str) -> str:
        parts = urllib.parse.urlsplit(f"{self._base}/{urllib.parse.quote(name, safe='/:~!$&()*+,;=')}")
        return urllib.parse.urlunsplit(parts._replace(path=_climbed(parts.path))) + self._query

    def _answer(self, method: str, name: str, headers: dict[str, str]) -> Any:
        timeout = urllib3.Timeout(connect=min(CONNECT_TIMEOUT_S, self._access.timeout_s), read=self._access.timeout_s)
        url = self._url(name)
        try:
            return _pool(_proxy(url)).request(
                method,
                url,
                headers=self._headers | headers,
                timeout=timeout,
                retries=_RETRIES,
                preload_content=False,
                decode_content=False,
            )
        except LocationValueError as error:
            raise VolumeError(f"{self.path(name)} cannot be read: {error}") from None
        except HTTPError as error:
            raise Passing(_reason(error)) from None

    def _is_there(self, answer: Any, name: str) -> bool:
        """Whether an answer has an object. Raises for answers that say neither yes nor no."""
        status = answer.status
        if status in _ABSENT:
            return False
        if status in (200, 206):
            # a server that sends us to `name/` shows the list of a folder
            return name.endswith("/") or not urllib.parse.urlsplit(answer.geturl() or "").path.endswith("/")
        text = f"the server answered {status} {answer.reason or ''}".rstrip()
        if status in (401, 403):
            raise Refused(text)
        if status in _PASSING or status >= 500:
            raise Passing(text, _pause_s(answer.headers.get("Retry-After", "")))
        raise VolumeError(f"{self.path(name)} cannot be read: {text}")

    def _try(self, name: str, span: Span | None) -> Piece | None:
        headers = {"Accept-Encoding": "gzip"}
        if span is not None:
            headers = {"Accept-Encoding": "identity", "Range": f"bytes={span[0]}-{span[1] - 1}"}
            if span[0] >= span[1]:
                raise VolumeError(f"bytes {span[0]} to {span[1]} of {self.path(name)} are none")
        with self._answer("GET", name, headers) as answer:
            if answer.status == 416 and span is not None:
                raise TooShort(f"{self.path(name)} ends before byte {span[1]}")
            if not self._is_there(answer, name):
                return None
            coding = answer.headers.get("Content-Encoding", "").lower()
            stamp = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
            if span is None:
                return Piece(self._decoded(self._body(answer), coding, name), stamp)
            if answer.status == 206:
                self._check_range(answer.headers.get("Content-Range", ""), span, name)
                data = self._body(answer)
            elif coding in ("", "identity"):
                # no ranges here: the object is passed over up to where the span ends, and the rest is never read
                data = self._body(answer, span)
            else:
                data = self._decoded(self._body(answer), coding, name)[slice(*span)]
            if len(data) != span[1] - span[0]:
                raise TooShort(f"{self.path(name)} ends before byte {span[1]}")
            return Piece(data, stamp)

    def _check_range(self, said: str, span: Span, name: str) -> None:
        """Some servers hide the header; one that says another range has sent something else."""
        unit, _, rest = said.partition(" ")
        if not said or unit != "bytes":
            return
        first, _, last = rest.partition("/")[0].partition("-")
        if first.isdigit() and int(first) != span[0]:
            raise VolumeError(f"{self.path(name)}: asked for bytes from {span[0]} on, the server sent {said!r}")
        if last.isdigit() and int(last) < span[1] - 1:
            raise TooShort(f"{self.path(name)} ends before byte {span[1]}")

    def _body(self, answer: Any, span: Span | None = None) -> bytes:
        """The bytes of an answer, or a span of them. Raises Passing if they stop early or do not come."""
        deadline = time.monotonic() + SLOWEST * self._access.timeout_s
        parts: list[bytes] = []
        at = 0
        try:
            while span is None or at < span[1]:
                part = answer.read1(_PIECE_BYTES, decode_content=False)
                if not part:
                    break
                keep = part if span is None else part[max(0, span[0] - at) : span[1] - at]
                at += len(part)
                parts.append(keep)
                if time.monotonic() > deadline:
                    raise Passing("the server is too slow")
            if span is not None and at >= span[1]:
                answer.close()  # else the connection would be used again, with the rest in it
            elif answer.length_remaining:
                raise Passing(f"the answer was cut {answer.length_remaining} bytes before its end")
        except HTTPError as error:
            raise Passing(_reason(error)) from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _decoded(self, data: bytes, coding: str, name: str) -> bytes:
        """Without Content-Encoding. Some proxies unpack a body and leave the header."""
        try:
            if coding in ("gzip", "x-gzip"):
                return gunzipped(data) if data[:2] == b"\x1f\x8b" else data
            if coding == "zstd":
                return unzstd(data)
        except Exception as error:
            raise Passing(f"the answer is damaged: {error}") from None
        if coding not in ("", "identity"):
            raise VolumeError(f"{self.path(name)} comes with the Content-Encoding {coding!r}, which cannot be read")
        return data


@cache
def _pool(proxy: str) -> Any:
    sizes = {"num_pools": 16, "maxsize": CONNECTIONS}
    return urllib3.ProxyManager(proxy, **sizes) if proxy else urllib3.PoolManager(**sizes)  # type: ignore[arg-type]


def _proxy(url: str) -> str:
    """The proxy that the environment names for a URL."""
    parts = urllib.parse.urlsplit(url)
    proxy = _proxies().get(parts.scheme, "")
    return "" if not proxy or urllib.request.proxy_bypass(parts.netloc) else proxy


@cache
def _proxies() -> dict[str, str]:
    return urllib.request.getproxies()


def _climbed(path: str) -> str:
    """A URL's path without `.` and `..`."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if len(parts) > 1:
                parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _pause_s(retry_after: str) -> float:
    return float(retry_after) if retry_after.isdigit() else 0.0


def _reason(error: Exception) -> str:
    if isinstance(error, IncompleteRead):
        return "the answer was cut before its end"
    if isinstance(error, ProtocolError):
        return f"the connection broke: {error.args[0]}"
    return str(getattr(error, "reason", None) or error) or type(error).__name__
