"""The protocol of a connection, over real sockets."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from serving import Client


@pytest.fixture
def instance(server: Any) -> tuple[str, int, str]:
    """Host, port and path of a fresh keyvalue instance."""
    with Client(server.url) as client:
        root = client.post("/api/repos?admintoken=test-token", {}).expect().json()["root"]
        client.post(f"/api/repo/{root}/instance", {"typename": "keyvalue", "dataname": "kv"}).expect()
    host, _, port = server.url.removeprefix("http://").partition(":")
    return host, int(port), f"/api/node/{root}/kv"


class Wire:
    """Bytes sent and answers read."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), timeout=20)
        self.rest = b""

    def send(self, *pieces: bytes, pause_s: float = 0.0) -> None:
        for piece in pieces:
            self.socket.sendall(piece)
            time.sleep(pause_s)

    def answer(self, headless: bool = False) -> tuple[int, dict[str, str], bytes]:
        while b"\r\n\r\n" not in self.rest:
            self.rest += self._more()
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        body = b""
        if "transfer-encoding" in headers:
            while True:
                while b"\r\n" not in self.rest:
                    self.rest += self._more()
                size, _, self.rest = self.rest.partition(b"\r\n")
                length = int(size, 16)
                while len(self.rest) < length + 2:
                    self.rest += self._more()
                body, self.rest = body + self.rest[:length], self.rest[length + 2 :]
                if not length:
                    break
        elif not headless:
            length = int(headers["content-length"])
            while len(self.rest) < length:
                self.rest += self._more()
            body, self.rest = self.rest[:length], self.rest[length:]
        return int(lines[0].split()[1]), headers, body

    def _more(self) -> bytes:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError
        return data


def request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def test_requests_sent_ahead_are_answered_in_order(instance: tuple[str, int, str]) -> None:
    host, port, path = instance
    wire = Wire(host, port)
    sent = []
    for number in range(20):
        sent.append(request("POST", f"{path}/key/{number}", b"value %d" % number))
        sent.append(request("GET", f"{path}/key/{number}"))
        sent.append(request("GET", f"{path}/keys"))
        sent.append(request("HEAD", f"{path}/key/{number}"))
        sent.append(request("GET", f"{path}/key/missing"))
    wire.send(b"".join(sent))
    for number in range(20):
        assert wire.answer()[0] == 200
        assert wire.answer()[2] == b"value %d" % number
        assert len(wire.answer()[2].split(b",")) == number + 1
        assert wire.answer(headless=True)[0] == 200
        assert wire.answer()[0] == 404


def test_bytes_that_arrive_one_by_one(instance: tuple[str, int, str]) -> None:
    host, port, path = instance
    wire = Wire(host, port)
    data = request("POST", f"{path}/key/slow", b"a value")
    wire.send(*(data[at : at + 1] for at in range(len(data))))
    assert wire.answer()[0] == 200
    wire.send(request("GET", f"{path}/key/slow"))
    assert wire.answer()[2] == b"a value"


def test_chunked_bodies_and_continue(instance: tuple[str, int, str]) -> None:
    host, port, path = instance
    wire = Wire(host, port)
    wire.send(
        request("POST", f"{path}/key/c", b"", "Transfer-Encoding: chunked"), b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n"
    )
    assert wire.answer()[0] == 200
    wire.send(f"POST {path}/key/e HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n".encode())
    assert wire.answer(headless=True)[0] == 100
    wire.send(b"more")
    assert wire.answer()[0] == 200
    for key, value in (("c", b"abcde"), ("e", b"more")):
        wire.send(request("GET", f"{path}/key/{key}"))
        assert wire.answer()[2] == value


def test_large_bodies_both_ways(instance: tuple[str, int, str]) -> None:
    host, port, path = instance
    wire = Wire(host, port)
    value = bytes(range(256)) * 4096 * 20
    wire.send(request("POST", f"{path}/key/large", value))
    assert wire.answer()[0] == 200
    wire.send(request("GET", f"{path}/key/large"), request("GET", f"{path}/keyrangevalues/a/z?tar=true"))
    assert wire.answer()[2] == value
    status, headers, body = wire.answer()
    assert (status, headers["transfer-encoding"]) == (200, "chunked")
    assert value in body


def test_an_answer_before_the_body_is_complete(instance: tuple[str, int, str]) -> None:
    host, port, path = instance
    wire = Wire(host, port)
    body = bytes(4 << 20)
    wire.send(request("POST", f"{path}/nothing/x", body), request("GET", f"{path}/key/none"))
    assert wire.answer()[0] == 400
    assert wire.answer()[0] == 404


def test_connections_that_end(instance: tuple[str, int, str]) -> None:
    host, port, path = instance
    for data in (
        request("GET", f"{path}/keys", b"", "Connection: close"),
        f"GET {path}/keys HTTP/1.0\r\n\r\n".encode(),
    ):
        wire = Wire(host, port)
        wire.send(data)
        status, headers, _ = wire.answer()
        assert (status, headers["connection"]) == (200, "close")
        with pytest.raises(EOFError):
            wire._more()
    wire = Wire(host, port)
    wire.send(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
    assert wire.answer()[0] == 400
    broken = Wire(host, port)
    broken.send(request("POST", f"{path}/key/x", bytes(3 << 20))[: 1 << 20])
    broken.socket.close()
    wire = Wire(host, port)
    wire.send(request("GET", f"{path}/key/x"))
    assert wire.answer()[0] == 404


def test_heads_without_end(instance: tuple[str, int, str]) -> None:
    host, port, _ = instance
    wire = Wire(host, port)
    with contextlib.suppress(ConnectionError):
        wire.send(b"GET /", *[b"x" * (1 << 20)] * 40)
    with contextlib.suppress(ConnectionError):
        assert wire.answer()[0] == 431


def test_an_idle_server_ends_at_once(launch: Callable[..., Any]) -> None:
    running = launch()
    with running.client() as client:
        client.get("/api/repos/info").expect()
        started = time.monotonic()
        assert running.stop() == 0
    assert time.monotonic() - started < 2.0
