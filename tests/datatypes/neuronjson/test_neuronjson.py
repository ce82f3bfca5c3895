"""The endpoints of neuronjson, over ASGI."""

from __future__ import annotations

import gzip
import io
import re
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fascicle.datatypes.keyvalue import messages
from fascicle.datatypes.neuronjson.neuronjson import local_time

sys.path.insert(0, str(Path(__file__).parents[2] / "server"))
from in_process import TOKEN, InProcess


@pytest.fixture
def app() -> Iterator[InProcess]:
    made = InProcess(token=TOKEN)
    yield made
    made.close()


@pytest.fixture
def root(app: InProcess) -> str:
    return app.repo(f"?admintoken={TOKEN}")


@pytest.fixture
def n(app: InProcess, root: str) -> str:
    """The path of an instance."""
    app.instance(root, "segmentation_annotations", "neuronjson")
    return f"/api/node/{root}/segmentation_annotations"


def posted(app: InProcess, n: str, body: int, options: str = "u=ann", **members: Any) -> None:
    app.made(f"{n}/key/{body}?{options}", {"bodyid": body, **members})


def test_the_worked_examples(app: InProcess, n: str) -> None:
    posted(app, n, 1000, type="KC", status="Traced")
    assert app.get(f"{n}/key/1000").body == b'{"bodyid":1000,"status":"Traced","type":"KC"}'
    assert app.get(f"{n}/key/1000?show=user").body == (
        b'{"bodyid":1000,"status":"Traced","status_user":"ann","type":"KC","type_user":"ann"}'
    )
    assert app.post(f"{n}/key/1000", {"bodyid": 1000}).status == 400
    posted(app, n, 1000, "u=bob", type="KC", status="Anchor")
    posted(app, n, 1000, "u=cy&conditional=status", status="Leaves", instance="KC_L")
    posted(app, n, 1000, "u=dee", status=None)
    assert app.get(f"{n}/key/1000?show=user").body == (
        b'{"bodyid":1000,"instance":"KC_L","instance_user":"cy","status_user":"dee","type":"KC","type_user":"ann"}'
    )
    posted(app, n, 1000, "u=eve&replace=true", type="KC")
    shown = app.get(f"{n}/key/1000?show=all").json()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)", shown.pop("type_time"))
    assert shown == {"bodyid": 1000, "type": "KC", "type_user": "ann"}


def test_worked_examples_of_queries(app: InProcess, n: str) -> None:
    posted(app, n, 1000, type="KC", pos=[1, 2, 3])
    posted(app, n, 2000, type="MBON01")
    posted(app, n, 3000, type="")
    one, two, three = (app.get(f"{n}/key/{body}").json() for body in (1000, 2000, 3000))
    assert app.get(f"{n}/query", {"type": ["KC", "re/^MBON"]}).json() == [one, two]
    assert app.get(f"{n}/query?onlyid=true", {"pos": [3, 9]}).body == b"[1000]"
    assert app.post(f"{n}/query", [{"type": "exists/0"}, {"type": ""}]).json() == [three]
    assert app.get(f"{n}/query?onlyid=true", {"bodyid": [2000, 1000, 7, 2000]}).json() == [two, one, two]
    assert app.get(f"{n}/query?fields=pos", {"bodyid": 1000}).json() == [{"bodyid": 1000, "pos": [1, 2, 3]}]
    assert app.get(f"{n}/keyvalues?json=true", [2000, 7]).body == b'{"2000":{"bodyid":2000,"type":"MBON01"}}'
    assert app.get(f"{n}/keyrange/0/2500").body == b'["1000","2000"]'
    listed = app.get(f"{n}/all?fields=type&show=user").json()
    assert [sorted(document) for document in listed] == [["bodyid", "type", "type_user"]] * 3
    assert app.get(f"{n}/query", {}).body == b"[]"
    assert app.get(f"{n}/query?onlyid=true", [{}, {"type": "KC"}]).json() == [1000, 2000, 3000]
    for path, body in ((5, {"bodyid": 6}), (5, {"type": "A"}), (0, {"bodyid": 0}), ("x", {"bodyid": 5})):
        assert app.post(f"{n}/key/{path}?u=x", body).status == 400
    for wrong in (b"", b"{", b"[]", b"null", b'"x"', b"5", b"[5]", b"\xff"):
        assert app.get(f"{n}/query", wrong).status == 400


def test_nothing_is_there(app: InProcess, n: str) -> None:
    for path, shown in (
        ("keys", b"[]"),
        ("all", b"[]"),
        ("fields", b"[]"),
        ("fields?counts=true", b"{}"),
        ("fieldtimes", b"{}"),
        ("keyrange/0/z", b"[]"),
        ("keyrange/9/3", b"[]"),
        ("keyrangevalues/0/z?json=true", b"{}"),
        ("keyrangevalues/0/z?json=true&show=all", b"{}"),
        ("keyrangevalues/0/z", b""),
    ):
        assert app.get(f"{n}/{path}").body == shown, path
    assert app.get(f"{n}/query", {"type": "exists/0"}).body == b"[]"
    missing = app.get(f"{n}/key/7")
    assert (missing.status, missing.text) == (404, 'Key "7" not found\n')
    assert app.ask("DELETE", f"{n}/key/7").status == 200
    assert app.get(f"{n}/keyvalues?json=true", [7]).body == b"{}"


def test_ranges_and_batches(app: InProcess, n: str) -> None:
    bodies = [9, 10, 99, 100, 300, 2000, 1 << 40, (1 << 64) - 1]
    pairs = [(b"%d" % body, b'{"bodyid":%d,"t":"b%d"}' % (body, body)) for body in bodies]
    assert app.post(f"{n}/keyvalues", messages.key_values(pairs)).status == 400  # by nobody
    app.made(f"{n}/keyvalues?u=ann", messages.key_values(pairs))
    for _ in range(2):
        assert app.get(f"{n}/keys").json() == [str(body) for body in bodies]
        assert app.get(f"{n}/keyrange/100/2000").json() == ["100", "300", "2000"]
        assert app.get(f"{n}/keyrange/ /zz").json() == [str(body) for body in bodies]
        app.get(f"{n}/all")  # from now on from the table
    shown = app.get(f"{n}/keyrangevalues/0/z?json=true").json()
    assert shown == {str(body): {"bodyid": body, "t": f"b{body}"} for body in bodies}
    assert messages.decode_key_values(app.get(f"{n}/keyrangevalues/10/99").body) == pairs[1:3]
    assert messages.decode_key_values(app.get(f"{n}/keyrangevalues/0/{{").body) == pairs
    asked = b"".join(b"\x0a" + bytes([len(key)]) + key for key in (b"99", b"7", b"10"))
    found = messages.decode_key_values(app.get(f"{n}/keyvalues", asked).body)
    assert found == [pairs[2], (b"7", b""), pairs[1]]
    with tarfile.open(fileobj=io.BytesIO(app.get(f"{n}/keyvalues?jsontar=true", ["10", "7"]).body)) as archive:
        entries = [(entry.name, entry.size, entry.mode, entry.mtime) for entry in archive]
    assert entries == [("10", len(pairs[1][1]), 0o755, 0), ("7", 0, 0o755, 0)]
    assert app.get(f"{n}/keyvalues?json=true", ["10", "7"]).json() == {"10": {"bodyid": 10, "t": "b10"}}
    for wrong in (b"", b"{", b"{}", b"[5.5]", b'[5,"5"]', b'["x"]', b"[-1]"):
        assert app.get(f"{n}/keyvalues?json=true", wrong).status == 400
    assert app.get(f"{n}/keyvalues?tar=true", [10]).status == 400
    assert app.get(f"{n}/keyvalues", b"\x0a\x01x").status == 400
    assert app.get(f"{n}/keyvalues?json=true&tar=true", ["10"]).status == 400
    for path in ("keyrange/1", "keyrange", "keyrange/10a/z", "keyrangevalues/0/9?json=true&jsontar=true"):
        assert app.get(f"{n}/{path}").status == 400
    bad = messages.key_values([(b"5", b'{"bodyid":5}'), (b"6", b'{"bodyid":7}')])
    assert app.post(f"{n}/keyvalues?u=ann", bad).status == 400
    assert app.get(f"{n}/key/5").status == 404
    twice = messages.key_values([(b"5", b'{"bodyid":5,"a":1}'), (b"5", b'{"bodyid":5,"b":2}')])
    app.made(f"{n}/keyvalues?u=ann", twice)
    assert app.get(f"{n}/key/5").json() == {"bodyid": 5, "a": 1, "b": 2}


def test_everything_compressed(app: InProcess, n: str) -> None:
    posted(app, n, 1, type="KC")
    plain = app.get(f"{n}/all")
    packed = app.ask("GET", f"{n}/all", headers={"Accept-Encoding": "br, gzip;q=0.5"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert gzip.decompress(packed.body) == plain.body
    assert app.get(f"{n}/all?fields=absent").body == b"[]"
    assert app.get(f"{n}/all?fields=bodyid").body == b'[{"bodyid":1}]'


def test_schemas_are_versioned_documents(app: InProcess, root: str, n: str) -> None:
    for name in ("json_schema", "schema", "schema_batch"):
        assert app.get(f"{n}/{name}").status == app.ask("HEAD", f"{n}/{name}").status == 404
        assert app.post(f"{n}/{name}", b'{"as" :"posted"}').status == 200
        assert app.get(f"{n}/{name}").body == b'{"as" :"posted"}'
        assert app.ask("HEAD", f"{n}/{name}").status == 200
        assert app.ask("PUT", f"{n}/{name}").status == 400
    assert app.get(f"{n}/key/schema").body == b'{"as" :"posted"}'
    assert app.ask("HEAD", f"{n}/key/schema_batch").status == 200
    assert app.post(f"{n}/key/schema", b"{}").status == 400
    app.made(f"{n}/key/schema?u=ann", b'{"by":"key"}')
    assert app.get(f"{n}/keyvalues?json=true", ["schema"]).body == b'{"schema":{"by":"key"}}'
    assert app.get(f"{n}/keys").body == b"[]"
    child = app.child(root)
    below = f"/api/node/{child}/segmentation_annotations"
    assert app.ask("DELETE", f"{below}/key/schema").status == 200
    assert app.get(f"{below}/schema").status == 404
    assert app.get(f"{n}/schema").status == 200


SCHEMA = {
    "type": "object",
    "required": ["bodyid", "status"],
    "properties": {
        "status": {"type": ["string", "null"], "maxLength": 6},
        "group": {"type": "integer"},
        "pos": {"type": "array", "items": {"type": "integer"}},
    },
}


def test_a_schema_in_force(app: InProcess, root: str, n: str) -> None:
    app.made(f"{n}/json_schema", SCHEMA)
    posted(app, n, 1, status="Traced", group="130911")
    assert app.get(f"{n}/key/1").json()["group"] == 130911
    for wrong in (
        {"type": "KC"},
        {"status": "too long"},
        {"status": "x", "group": "x12"},
        {"status": "x", "group": 1.5},
        {"status": "x", "group": "9" * 30},
        {"status": "x", "pos": ["5"]},
        {"status": "x", "group": None},
    ):
        before = app.get(f"{n}/key/1?show=all").body
        assert app.post(f"{n}/key/1?u=ann", {"bodyid": 1, **wrong}).status == 400
        assert app.get(f"{n}/key/1?show=all").body == before
    child = f"/api/node/{app.child(root)}/segmentation_annotations"
    assert app.post(f"{child}/key/1?u=ann", {"bodyid": 1}).status == 400
    assert app.ask("DELETE", f"{child}/json_schema").status == 200
    posted(app, child, 1, note="free")
    app.made(f"{child}/json_schema", {"$ref": "http://127.0.0.1:9/elsewhere.json"})
    posted(app, child, 1, note="what cannot be used checks nothing")


def test_locked_versions(app: InProcess, root: str, n: str) -> None:
    posted(app, n, 1, type="KC")
    child = f"/api/node/{app.child(root)}/segmentation_annotations"
    assert app.post(f"{n}/key/1?u=ann", {"bodyid": 1}).status == 400
    assert app.ask("DELETE", f"{n}/key/1").status == 400
    assert app.post(f"{n}/all").status == 400
    assert app.post(f"{n}/query", {"type": "KC"}).json() == [{"bodyid": 1, "type": "KC"}]
    posted(app, child, 1, type="MB")
    assert app.get(f"{n}/key/1").json()["type"] == "KC"
    assert app.post(f"{child}/query?onlyid=true", {"type": "KC"}).body == b"[]"
    app.made(f"{n}/key/1?u=ann&admintoken={TOKEN}", {"bodyid": 1, "late": 1})
    assert app.post(f"{child}/query?onlyid=true", {"late": 1}).body == b"[]"
    assert app.post(f"{n}/query?onlyid=true", {"late": 1}).body == b"[1]"


def test_methods(app: InProcess, n: str) -> None:
    posted(app, n, 1, type="KC")
    for keyword in ("all", "keys", "fields", "fieldtimes", "keyrange/0/9", "keyrangevalues/0/9"):
        expected = app.get(f"{n}/{keyword}").body
        for method in ("POST", "PUT", "DELETE"):
            assert app.ask(method, f"{n}/{keyword}").body == expected
        assert app.ask("HEAD", f"{n}/{keyword}").status == 200
    for method, path in (
        ("PUT", "key/1"),
        ("HEAD", "keyvalues"),
        ("PUT", "keyvalues"),
        ("DELETE", "keyvalues"),
        ("HEAD", "query"),
        ("PUT", "query"),
        ("DELETE", "query"),
        ("HEAD", "key/x"),
        ("GET", "key/x"),
        ("GET", "key"),
        ("GET", "key/-1"),
        ("GET", "key/18446744073709551616"),
        ("GET", "mutations"),
        ("POST", "sync"),
    ):
        assert app.ask(method, f"{n}/{path}").status == 400, path
    assert app.ask("HEAD", f"{n}/key/1").status == 200
    assert app.ask("HEAD", f"{n}/key/2").status == 404


def test_an_unversioned_instance(app: InProcess, root: str) -> None:
    app.instance(root, "flat", "neuronjson", versioned="false")
    child = app.child(root)
    posted(app, f"/api/node/{root}/flat", 1, type="KC")
    posted(app, f"/api/node/{child}/flat", 1, status="x")
    for uuid in (root, child):
        assert app.get(f"/api/node/{uuid}/flat/query", {"type": "KC"}).json() == [
            {"bodyid": 1, "status": "x", "type": "KC"}
        ]


def test_times_have_the_offset_of_this_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for zone, shown in (
        ("UTC0", "1970-01-01T00:00:05Z"),
        ("EAST-5:30", "1970-01-01T05:30:05+05:30"),
        ("WEST4", "1969-12-31T20:00:05-04:00"),
    ):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert local_time(5_999_999_999) == shown
    monkeypatch.undo()
    time.tzset()
