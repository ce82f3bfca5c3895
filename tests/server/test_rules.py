"""Who may change what: the table of locked versions, administrators, full-write and read-only servers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from in_process import TOKEN, InProcess

from fascicle.store.memory import MemoryStore

Serve = Callable[..., InProcess]
ADMIN = f"?admintoken={TOKEN}"


class Scene:
    """A server of some mode over a repo with a locked root `locked` and an open child `open`."""

    def __init__(self, serve: Serve, mode: str, admin: bool) -> None:
        store = MemoryStore()
        before = serve(store=store, token=TOKEN)
        self.locked = before.repo(ADMIN)
        before.instance(self.locked, "kv")
        before.instance(self.locked, "flat", versioned="false")
        self.open = before.child(self.locked)
        self.app = serve(store=store, token=TOKEN, rwmode=mode)
        self.options = ADMIN if admin else ""

    def status(self, method: str, path: str, body: object = b"") -> int:
        return self.app.ask(method, path + self.options, body).status


MODES = [("", False), ("", True), ("fullwrite", False), ("readonly", False), ("readonly", True)]
# For each kind of request: status at the open and at the locked version, in the five modes above.
RULES = {
    "key": ("200 400", "200 200", "200 200", "400 400", "200 200"),
    "flat": ("200 200", "200 200", "200 200", "400 400", "200 200"),
    "blob": ("200 200", "200 200", "200 200", "400 400", "200 200"),
    "tags": ("200 400", "200 200", "200 200", "400 400", "200 200"),
    "note": ("200 400", "200 200", "200 200", "400 400", "200 200"),
    "log": ("200 400", "200 200", "200 200", "400 400", "200 200"),
    "branch": ("400 200", "400 200", "400 200", "400 400", "400 200"),
    "commit": ("200 400", "200 400", "200 400", "400 400", "200 400"),
    "instance": ("200 400", "200 200", "200 200", "400 400", "200 200"),
    "info": ("200 200", "200 200", "200 200", "400 400", "200 200"),
    "read": ("200 200", "200 200", "200 200", "200 200", "200 200"),
}


def attempt(scene: Scene, kind: str, uuid: str) -> int:
    node, repo = f"/api/node/{uuid}", f"/api/repo/{uuid}"
    requests: dict[str, tuple[str, str, object]] = {
        "key": ("POST", f"{node}/kv/key/a", b"1"),
        "flat": ("POST", f"{node}/flat/key/a", b"1"),
        "blob": ("POST", f"{node}/kv/blobstore", b"1"),
        "tags": ("POST", f"{node}/kv/tags", {"a": "b"}),
        "note": ("POST", f"{node}/note", {"note": "n"}),
        "log": ("POST", f"{node}/log", {"log": ["l"]}),
        "branch": ("POST", f"{node}/branch", {"branch": f"b-{uuid[:4]}"}),
        "commit": ("POST", f"{node}/commit", {}),
        "instance": ("POST", f"{repo}/instance", {"typename": "keyvalue", "dataname": f"new{uuid[:4]}"}),
        "info": ("POST", f"{repo}/info", {"alias": "x"}),
        "read": ("GET", f"{node}/kv/keys", b""),
    }
    return scene.status(*requests[kind])


@pytest.mark.parametrize("kind", RULES)
def test_rules_of_locked_versions(serve: Serve, kind: str) -> None:
    for (mode, admin), expected in zip(MODES, RULES[kind], strict=True):
        scene = Scene(serve, mode, admin)
        found = f"{attempt(scene, kind, scene.open)} {attempt(scene, kind, scene.locked)}"
        assert found == expected, f"mode {mode!r}, admin {admin}"


def test_making_repos(serve: Serve) -> None:
    store = MemoryStore()
    expected = {("", False): 400, ("", True): 200, ("fullwrite", False): 400, ("readonly", False): 400}
    for (mode, admin), status in {**expected, ("readonly", True): 400}.items():
        app = serve(store=store, token=TOKEN, rwmode=mode)
        assert app.post(f"/api/repos{ADMIN if admin else ''}").status == status
    assert serve().post("/api/repos").status == 200
    assert serve(token=TOKEN).post("/api/repos?admintoken=wrong").status == 400


def test_texts_of_refusals(serve: Serve) -> None:
    scene = Scene(serve, "", False)
    app, locked = scene.app, scene.locked
    for path, text in [
        (f"/api/node/{locked}/kv/key/a", f'Cannot do POST on endpoint "key" of locked node {locked}'),
        (f"/api/node/{locked}/note", f"Cannot do post on locked node {locked}"),
        (f"/api/node/{scene.open}/newversion", "can't branch an unlocked node"),
    ]:
        assert app.post(path, b'{"note":"x"}').text == f"{text} ({path}).\n"
    full = Scene(serve, "fullwrite", False)
    path = f"/api/node/{full.locked}/commit"
    assert full.app.post(path).text == f"Could not post to locked node ({path}).\n"


def test_deleting(serve: Serve) -> None:
    app = serve(token=TOKEN)
    root = app.repo(ADMIN, passcode="p")
    app.instance(root, "kv")
    app.post(f"/api/node/{root}/kv/key/a", b"1")
    for options in ("", "?imsure=true", f"{ADMIN}", f"{ADMIN}&imsure=true", f"{ADMIN}&imsure=true&passcode=q"):
        assert app.ask("DELETE", f"/api/repo/{root}/kv{options}").status == 400
    assert app.ask("DELETE", f"/api/repo/{root}/kv{ADMIN}&imsure=true&passcode=p").status == 200
    assert app.get(f"/api/node/{root}/kv/keys").status == 400
    app.instance(root, "kv")
    assert app.get(f"/api/node/{root}/kv/keys").json() == []
    assert app.ask("DELETE", f"/api/repo/{root}{ADMIN}&imsure=true&passcode=p").status == 200
    assert app.get("/api/repos/info").json() == {}
    app.app._sweeper.close()
    with app.store.read() as txn:
        assert list(txn.scan_keys(b"\0\0\0\1", b"\xff")) == []


def test_deletion_goes_on_after_a_restart(serve: Serve) -> None:
    from fascicle.server import sweeper
    from fascicle.versions import graph
    from fascicle.versions.catalog import CatalogCache, CatalogEditor

    app = serve()
    root = app.repo()
    app.instance(root, "kv")
    for number in range(5):
        app.post(f"/api/node/{root}/kv/key/{number}", b"1")
    catalogs = CatalogCache(app.store)
    with app.store.read() as txn:
        instance = catalogs.at(txn).instance(1, "kv")
    app.store.write(lambda txn: graph.delete_instance(CatalogEditor(txn, catalogs), instance))
    sweeper.sweep(app.store, CatalogCache(app.store))
    with app.store.read() as txn:
        assert list(txn.scan_keys(instance.id.to_bytes(4, "big"), b"\xff")) == []
        assert CatalogCache(app.store).at(txn).deleted_instances() == []


def test_block_list(serve: Serve, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "blocked.csv"
    path.write_text("# who\nu=mallory,be nice\nip=10.1.2.*\n")
    app = serve(blockListFile=str(path), token=TOKEN)
    assert app.get("/api/repos/info?u=alice").status == 200
    reply = app.get("/api/repos/info?u=mallory")
    assert (reply.status, reply.text) == (429, 'User "mallory" is blocked: be nice (/api/repos/info).\n')
    assert app.get("/api/heartbeat?u=mallory").status == 200
    assert app.ask("GET", "/api/repos/info", headers={"X-Forwarded-For": "10.1.2.9, 1.1.1.1"}).status == 429
    assert app.ask("GET", "/api/repos/info", headers={"Forwarded": 'for="[2001:db8::1]:47"'}).status == 200
    path.write_text("")
    assert app.post(f"/api/server/reload-blocklist{ADMIN}").status == 200
    assert app.get("/api/repos/info?u=mallory").status == 200


def test_throttling(serve: Serve) -> None:
    app = serve(maxThrottledOps=0)
    root = app.repo()
    app.instance(root, "kv")
    path = f"/api/node/{root}/kv/mutations"
    assert app.get(path).status == 200
    reply = app.get(f"{path}?throttle=on")
    assert (reply.status, reply.text[:43]) == (503, "Server already running 0 throttled operatio")
    app.app.throttle.maximum = 1
    assert app.get(f"{path}?throttle=true").status == 200
    assert app.app.throttle.running == 0
