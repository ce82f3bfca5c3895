"""The endpoints of keyvalue, over ASGI."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fascicle.datatypes.keyvalue import messages

sys.path.insert(0, str(Path(__file__).parents[2] / "server"))
from in_process import InProcess


@pytest.fixture
def app() -> Iterator[InProcess]:
    made = InProcess()
    yield made
    made.close()


@pytest.fixture
def kv(app: InProcess) -> str:
    """The path of an instance with the keys a and b."""
    root = app.repo()
    app.instance(root, "kv")
    path = f"/api/node/{root}/kv"
    app.made(f"{path}/key/b", b'{"n":1}')
    app.made(f"{path}/key/a", b"hello")
    return path


def test_worked_examples(app: InProcess, kv: str) -> None:
    assert app.get(f"{kv}/key/a").body == b"hello"
    assert app.ask("HEAD", f"{kv}/key/zz").status == 404
    missing = app.get(f"{kv}/key/zz")
    assert (missing.status, missing.text) == (404, 'Key "zz" not found\n')
    assert app.get(f"{kv}/keys").body == b'["a","b"]'
    assert app.get(f"{kv}/keys/0/z").body == b'["a","b"]'
    assert app.get(f"{kv}/keyrange/a/a").body == b'["a"]'
    assert app.get(f"{kv}/keyrange/b/a").body == b"[]"
    assert app.get(f"{kv}/keyvalues?json=true", ["b", "zz", "b"]).body == b'{"b":{"n":1},"zz":{},"b":{"n":1}}'
    asked = bytes.fromhex("0a027a7a0a0162")
    assert app.get(f"{kv}/keyvalues", asked).body == bytes.fromhex("0a040a027a7a0a0c0a01621207") + b'{"n":1}'
    assert app.get(f"{kv}/keyrangevalues/a/z?json=true").body == b'{"a":hello,"b":{"n":1}}'


@pytest.mark.parametrize(
    ("given", "status", "shown", "body"),
    [
        ("bytes=1-2", 206, "bytes 1-2/5", b"el"),
        ("bytes=3-", 206, "bytes 3-4/5", b"lo"),
        ("bytes=-2", 206, "bytes 3-4/5", b"lo"),
        ("bytes=-9", 206, "bytes 0-4/5", b"hello"),
        ("bytes=1-99", 206, "bytes 1-4/5", b"ello"),
        ("bytes=9-", 416, "bytes */5", None),
        ("bytes=-0", 416, "bytes */5", None),
        ("bytes=3-1", 200, None, b"hello"),
        ("bytes=0-1,3-4", 200, None, b"hello"),
        ("items=0-1", 200, None, b"hello"),
        ("bytes=-", 200, None, b"hello"),
    ],
)
def test_the_range_header(app: InProcess, kv: str, given: str, status: int, shown: str | None, body: bytes) -> None:
    reply = app.ask("GET", f"{kv}/key/a", headers={"Range": given})
    assert (reply.status, reply.headers.get("content-range")) == (status, shown)
    if body is not None:
        assert reply.body == body
    assert app.ask("GET", f"{kv}/key/zz", headers={"Range": given}).status == 404


def test_byte_options(app: InProcess, kv: str) -> None:
    path = f"{kv}/key/a"
    assert app.get(f"{path}?byte_start=1&byte_end=2").body == b"el"
    for wrong in (
        "byte_start=1",
        "byte_end=1",
        "byte_start=1&byte_end=9",
        "byte_start=2&byte_end=1",
        "byte_start=x&byte_end=1",
    ):
        assert app.get(f"{path}?{wrong}").status == 400
    assert app.ask("GET", f"{path}?byte_start=1&byte_end=2", headers={"Range": "bytes=0-1"}).status == 400
    wanted = [{"key": "a", "byte_start": 1, "byte_end": 3}, {"key": "zz", "byte_start": 1, "byte_end": 3}, {"key": "b"}]
    tarred = app.get(f"{kv}/keyvalues?tar=true", wanted)
    assert b"ell" in tarred.body
    assert app.get(f"{kv}/keyvalues?json=true", wanted).status == 400  # ell is not JSON
    assert app.get(f"{kv}/keyvalues?tar=true", [{"key": "a", "byte_start": 1}]).status == 400
    assert app.get(f"{kv}/keyvalues?tar=true", [{"key": "a", "byte_start": 1, "byte_end": 5}]).status == 400


def test_empty_values_are_values(app: InProcess, kv: str) -> None:
    app.made(f"{kv}/key/e", b"")
    assert (app.get(f"{kv}/key/e").status, app.get(f"{kv}/key/e").body) == (200, b"")
    assert app.ask("HEAD", f"{kv}/key/e").status == 200
    assert app.get(f"{kv}/keyrangevalues/e/e?json=true").body == b'{"e":{}}'
    assert messages.decode_key_values(app.get(f"{kv}/keyrangevalues/e/e").body) == [(b"e", b"")]
    assert app.ask("GET", f"{kv}/key/e", headers={"Range": "bytes=0-0"}).status == 416


def test_batches(app: InProcess, kv: str) -> None:
    pairs = [(b"k%d" % number, b"v" * number) for number in range(50)]
    app.made(f"{kv}/keyvalues", messages.key_values(pairs))
    assert dict(messages.decode_key_values(app.get(f"{kv}/keyrangevalues/k/k~").body)) == dict(pairs)
    assert app.post(f"{kv}/keyvalues", messages.key_values([(b"new", b"1")]) + b"\x0a\xff").status == 400
    assert app.post(f"{kv}/keyvalues", messages.key_values([(b"new", b"1"), (b"", b"2")])).status == 400
    assert app.get(f"{kv}/key/new").status == 404
    assert app.post(f"{kv}/keyvalues", b"").status == 200
    for method in ("HEAD", "PUT", "DELETE"):
        assert app.ask(method, f"{kv}/keyvalues").status == 400
    for wrong in (b"", b"{}", b'"a"', b"[1]", b"[null]", b"[{}]", b'["a", {"key": "b"}]'):
        assert app.get(f"{kv}/keyvalues?json=true", wrong).status == 400
    assert app.get(f"{kv}/keyvalues?json=true&tar=true", ["a"]).status == 400


def test_checked_json_breaks_off(app: InProcess, kv: str) -> None:
    good = app.get(f"{kv}/keyrangevalues/b/b?json=true&check=true")
    assert good.json() == {"b": {"n": 1}}
    assert b"not valid JSON" in app.get(f"{kv}/keyrangevalues/a/b?json=true&check=true").body


def test_odd_keys(app: InProcess, kv: str) -> None:
    names = [
        "%00",
        "%01a",
        "quote%22",
        "%FF",
        "%E2%82%AC",
        "a%20b",
        "a+b",
        "%C3%A9" * 100,
        "x" * 3000,
        "x" * 2999 + "y",
    ]
    for number, name in enumerate(names):
        app.made(f"{kv}/key/{name}", b"%d" % number)
    for number, name in enumerate(names):
        assert app.get(f"{kv}/key/{name}").body == b"%d" % number
    listed = app.get(f"{kv}/keys").json()
    assert listed[:2] == ["\x00", "\x01a"]
    assert "a b" in listed
    assert "a+b" in listed
    assert listed[-1] == "\ufffd"  # the byte 0xff sorts behind everything
    assert listed.index("x" * 2999 + "y") == listed.index("x" * 3000) + 1
    assert app.get(f"{kv}/keyrange/%20/%FF").status == 200
    app.made(f"{kv}/key/cut%2Foff", b"1")
    assert app.get(f"{kv}/key/cut").body == b"1"
    assert app.get(f"{kv}/key").status == 400
    assert app.ask("PUT", f"{kv}/key/a", b"1").text.startswith('key endpoint does not support "put" HTTP verb')


def test_records_of_mutations(app: InProcess, kv: str) -> None:
    root = kv.split("/")[3]
    app.post(f"{kv}/key/c?u=alice&app=tests", b"123")
    app.ask("DELETE", f"{kv}/key/c?u=bob")
    records = app.get(f"{kv}/mutations").json()
    assert [(record["Action"], record["Key"]) for record in records[-2:]] == [("postkv", "c"), ("delete", "c")]
    assert (records[-2]["Bytes"], records[-2]["User"], records[-2]["App"]) == (3, "alice", "tests")
    assert records[-1]["UUID"] == root
    assert records[-1]["Timestamp"].split(" ")[2] == "+0000"
    assert app.get(f"{kv}/mutations?userid=bob").json() == records[-1:]
    child = app.child(root)
    other = f"/api/node/{child}/kv"
    app.post(f"{other}/keyvalues", messages.key_values([(b"x", b"1"), (b"y", b"2")]))
    assert [record["Key"] for record in app.get(f"{other}/mutations").json()] == ["x", "y"]
    ranged = app.get(f"{other}/mutations-range/{root}/{child}").json()
    assert ranged == app.get(f"{other}/mutations").json() + app.get(f"{kv}/mutations").json()
    assert app.get(f"{other}/mutations-range/{root}").status == 400
    assert app.get(f"{other}/mutations-range/zzz/{child}").status == 400
    assert app.post(f"{other}/mutations").status == 400


def test_unversioned_instances_have_one_set_of_values(app: InProcess) -> None:
    root = app.repo()
    app.instance(root, "kv", versioned="0")
    child = app.child(root)
    app.made(f"/api/node/{child}/kv/key/a", b"1")
    assert app.get(f"/api/node/{root}/kv/key/a").body == b"1"
    app.ask("DELETE", f"/api/node/{root}/kv/key/a")
    assert app.get(f"/api/node/{child}/kv/keys").json() == []
    assert len(app.get(f"/api/node/{root}/kv/mutations").json()) == 2


class Keys(RuleBasedStateMachine):
    """Any order of writes, deletions and ranges against a dictionary, with long keys among them."""

    names = st.builds(str.__add__, st.sampled_from(["", "k" * 399, "k" * 500]), st.sampled_from(["a", "b", "aa", "c"]))

    @initialize()
    def start(self) -> None:
        self.app = InProcess()
        root = self.app.repo()
        self.app.instance(root, "kv")
        self.path = f"/api/node/{root}/kv"
        self.model: dict[str, bytes] = {}

    def teardown(self) -> None:
        if hasattr(self, "app"):
            self.app.close()

    @rule(name=names, value=st.binary(max_size=4))
    def put(self, name: str, value: bytes) -> None:
        self.app.made(f"{self.path}/key/{name}", value)
        self.model[name] = value

    @rule(name=names)
    def delete(self, name: str) -> None:
        assert self.app.ask("DELETE", f"{self.path}/key/{name}").status == 200
        self.model.pop(name, None)

    @rule(first=names, last=names)
    def ranges(self, first: str, last: str) -> None:
        expected = sorted(name for name in self.model if first <= name <= last)
        assert self.app.get(f"{self.path}/keyrange/{first}/{last}").json() == expected
        pairs = messages.decode_key_values(self.app.get(f"{self.path}/keyrangevalues/{first}/{last}").body)
        assert pairs == [(name.encode(), self.model[name]) for name in expected]

    @invariant()
    def all_keys(self) -> None:
        if hasattr(self, "app"):
            assert self.app.get(f"{self.path}/keys").json() == sorted(self.model)


TestKeys = Keys.TestCase
TestKeys.settings = settings(
    max_examples=15, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
