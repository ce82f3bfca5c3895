"""The endpoints of labelsz over HTTP, with annotations of a labelmap."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from serving import Client, RunningServer, new_instance, new_repo

Place = tuple[int, int, int]
SYNAPSES = [
    *[((x, 1, 1), "PreSyn") for x in (3, 4)],
    ((5, 1, 1), "Note"),
    ((70, 1, 1), "PreSyn"),
    *[((x, 2, 2), "PostSyn") for x in (71, 72, 73)],
    ((130, 9, 9), "PreSyn"),
]


def element(place: Place, kind: str) -> dict[str, Any]:
    return {"Pos": list(place), "Kind": kind, "Tags": [], "Prop": {}, "Rels": []}


@pytest.fixture
def uuid(client: Client) -> str:
    """A repo with bodies 5, 7 and 9, 64 voxels wide each, and an annotation instance without elements."""
    root = new_repo(client)
    labels = new_instance(client, root, "labelmap", "segmentation")
    voxels = np.repeat(np.array([5, 7, 9], "<u8"), 64)[None, None].repeat(64, 0).repeat(64, 1)
    client.post(f"{labels}/raw/0_1_2/192_64_64/0_0_0", voxels.tobytes()).expect()
    synapses = new_instance(client, root, "annotation", "synapses")
    client.post(f"{synapses}/sync", {"sync": "segmentation"}).expect()
    return root


def post(client: Client, uuid: str, elements: list[tuple[Place, str]]) -> None:
    client.post(f"/api/node/{uuid}/synapses/elements", [element(*row) for row in elements]).expect()


def sizes_of(client: Client, uuid: str, name: str = "sizes", **settings: str) -> str:
    path = new_instance(client, uuid, "labelsz", name, **settings)
    client.post(f"{path}/sync", {"sync": "synapses"}).expect()
    return path


def top(client: Client, path: str, index: str) -> list[tuple[int, int]]:
    return [(row["Label"], row["Size"]) for row in client.get(f"{path}/top/99/{index}").expect().json()]


def test_worked_examples(client: Client, uuid: str) -> None:
    sizes = sizes_of(client, uuid)
    post(client, uuid, SYNAPSES)
    for request, body, answer in [
        ("count/5/PreSyn", b"", b'{"Label":5,"PreSyn":2}'),
        ("count/123/Gap", b"", b'{"Label":123,"Gap":0}'),
        ("count/0/AllSyn", b"", b'{"Label":0,"AllSyn":0}'),
        ("counts/PostSyn", b"[9,7]", b'[{"Label":9,"PostSyn":0},{"Label":7,"PostSyn":3}]'),
        ("counts/PreSyn", b"[5,9,5]", b'[{"Label":5,"PreSyn":2},{"Label":9,"PreSyn":1},{"Label":5,"PreSyn":2}]'),
        ("counts/PreSyn", b"[]", b"[]"),
        ("counts/PreSyn", b"null", b"[]"),
        ("counts/Voxels", b"[5]", b'[{"Label":5,"Voxels":0}]'),
        ("top/2/PreSyn", b"", b'[{"Label":5,"Size":2},{"Label":7,"Size":1}]'),
        ("top/0/PreSyn", b"", b"[]"),
        ("top/4294967295/Gap", b"", b"[]"),
        ("top/3/Voxels", b"", b"[]"),
        ("threshold/1/PreSyn?offset=1&n=5", b"", b'[{"Label":7,"Size":1},{"Label":9,"Size":1}]'),
        ("threshold/1/PreSyn/?offset=2&n=0", b"", b'[{"Label":9,"Size":1}]'),
        ("threshold/0/PreSyn?offset=-3&n=1", b"", b'[{"Label":5,"Size":2}]'),
        ("threshold/3/PreSyn", b"", b"[]"),
        ("threshold/4294967295/PreSyn", b"", b"[]"),
        ("threshold/1/PreSyn?offset=3", b"", b"[]"),
        ("top/5/AllSyn", b"", b'[{"Label":7,"Size":4},{"Label":5,"Size":2},{"Label":9,"Size":1}]'),
        ("top/5/Note", b"", b'[{"Label":5,"Size":1}]'),
    ]:
        reply = client.get(f"{sizes}/{request}", body).expect()
        assert (request, reply.body, reply.headers["content-type"]) == (request, answer, "application/json")
    client.post(f"/api/node/{uuid}/segmentation/merge", [5, 9]).expect()
    assert client.get(f"{sizes}/count/5/PreSyn").json() == {"Label": 5, "PreSyn": 3}
    assert client.get(f"{sizes}/count/9/PreSyn").json() == {"Label": 9, "PreSyn": 0}
    assert top(client, sizes, "PreSyn") == [(5, 3), (7, 1)]
    assert b'unknown index type specified ("presyn") (' in client.get(f"{sizes}/top/3/presyn").expect(400).body


def test_edits_of_elements(client: Client, uuid: str) -> None:
    sizes = sizes_of(client, uuid)
    synapses = f"/api/node/{uuid}/synapses"
    post(client, uuid, SYNAPSES)
    post(client, uuid, [((3, 1, 1), "Gap"), ((4, 1, 1), "PreSyn"), ((6, 6, 6), "Unknown")])
    assert (top(client, sizes, "PreSyn"), top(client, sizes, "Gap")) == ([(5, 1), (7, 1), (9, 1)], [(5, 1)])
    client.post(f"{synapses}/move/4_1_1/100_1_1").expect()
    assert top(client, sizes, "PreSyn") == [(7, 2), (9, 1)]
    client.delete(f"{synapses}/element/130_9_9").expect()
    assert top(client, sizes, "PreSyn") == [(7, 2)]
    cleaved = client.post(f"/api/node/{uuid}/segmentation/merge", [7, 5]).expect()
    assert cleaved.status == 200
    assert top(client, sizes, "AllSyn") == [(7, 6)]
    new = client.post(f"/api/node/{uuid}/segmentation/cleave/7", [5]).expect().json()["CleavedLabel"]
    assert top(client, sizes, "AllSyn") == [(7, 5), (new, 1)]
    client.post(f"/api/node/{uuid}/segmentation/renumber", [77, 7]).expect()
    assert top(client, sizes, "AllSyn") == [(77, 5), (new, 1)]


def test_versions(client: Client, uuid: str) -> None:
    sizes = sizes_of(client, uuid)
    post(client, uuid, SYNAPSES)
    client.post(f"/api/node/{uuid}/commit", {}).expect()
    child = client.post(f"/api/node/{uuid}/newversion", {}).expect().json()["child"]
    client.post(f"/api/node/{child}/synapses/elements", [element((4, 4, 4), "PreSyn")]).expect()
    assert top(client, sizes.replace(uuid, child), "PreSyn") == [(5, 3), (7, 1), (9, 1)]
    assert top(client, sizes, "PreSyn") == [(5, 2), (7, 1), (9, 1)]
    client.post(f"{sizes}/reload").expect(400)


def test_a_reload_counts_what_was_there_before(client: Client, uuid: str) -> None:
    post(client, uuid, SYNAPSES)
    sizes = new_instance(client, uuid, "labelsz", "sizes")
    client.post(f"{sizes}/reload").expect()
    client.post(f"{sizes}/sync", {"sync": "synapses"}).expect()
    assert top(client, sizes, "AllSyn") == []
    for _ in range(2):
        assert client.post(f"{sizes}/reload").expect().body == b""
        assert top(client, sizes, "AllSyn") == [(7, 4), (5, 2), (9, 1)]
        assert top(client, sizes, "Note") == [(5, 1)]


def test_only_elements_in_a_region_are_counted(client: Client, uuid: str) -> None:
    region = new_instance(client, uuid, "roi", "half")
    client.post(f"{region}/roi", [[0, 0, 2, 2]]).expect()
    inside = sizes_of(client, uuid, "inside", ROI=f"half,{uuid}")
    nowhere = sizes_of(client, uuid, "nowhere", ROI=f"absent,{uuid}")
    assert client.get(f"{inside}/info").json()["Extended"] == {"StaticROI": f"half,{uuid}"}
    post(client, uuid, SYNAPSES)
    for _ in range(2):
        assert top(client, inside, "AllSyn") == [(7, 4)]
        assert top(client, nowhere, "AllSyn") == []
        client.post(f"{inside}/reload").expect()
        client.post(f"{nowhere}/reload").expect()
    client.post(f"/api/node/{uuid}/synapses/move/70_1_1/100_1_1").expect()
    assert (top(client, inside, "PreSyn"), top(client, inside, "PostSyn")) == ([], [(7, 3)])
    client.post(f"/api/node/{uuid}/synapses/move/3_1_1/65_1_1").expect()
    assert top(client, inside, "PreSyn") == [(7, 1)]
    for wrong in ("half", f"half,{uuid},x", ","):
        settings = {"typename": "labelsz", "dataname": "bad", "ROI": wrong}
        assert client.post(f"/api/repo/{uuid}/instance", settings).status == (200 if wrong == "," else 400)


def test_branches_that_changed_the_same_body(client: Client, uuid: str) -> None:
    sizes = sizes_of(client, uuid)
    post(client, uuid, SYNAPSES)
    client.post(f"/api/node/{uuid}/commit", {}).expect()
    left = client.post(f"/api/node/{uuid}/newversion", {}).expect().json()["child"]
    right = client.post(f"/api/node/{uuid}/branch", {"branch": "side"}).expect().json()["child"]
    client.post(f"/api/node/{left}/segmentation/merge", [5, 7]).expect()
    client.post(f"/api/node/{right}/segmentation/merge", [5, 9]).expect()
    post_at = [element((71, 2, 2), "Gap"), element((80, 3, 3), "Gap")]
    client.post(f"/api/node/{right}/synapses/elements", post_at).expect()
    for version in (left, right):
        client.post(f"/api/node/{version}/commit", {}).expect()
    merged = client.post(
        f"/api/repo/{uuid}/merge", {"mergeType": "conflict-free", "parents": [left, right]}
    ).expect().json()["child"]
    sizes = sizes.replace(uuid, merged)
    assert top(client, sizes, "PreSyn") == [(5, 4)]
    assert (top(client, sizes, "PostSyn"), top(client, sizes, "Gap")) == ([(5, 2)], [(5, 2)])
    assert len(client.get(f"/api/node/{merged}/synapses/label/5").expect().json()) == 9
    client.post(f"/api/node/{merged}/synapses/elements", [element((3, 1, 1), "Gap")]).expect()
    assert (top(client, sizes, "PreSyn"), top(client, sizes, "Gap")) == ([(5, 3)], [(5, 3)])


@pytest.mark.parametrize(
    "request_",
    [
        "count",
        "count/1",
        "count/x/PreSyn",
        "count/-1/PreSyn",
        "count/18446744073709551616/PreSyn",
        "count/1/Synapse",
        "counts",
        "counts/PreSyn",
        "top",
        "top/3",
        "top/x/PreSyn",
        "top/4294967296/PreSyn",
        "threshold/1",
        "threshold/-1/PreSyn",
        "threshold/1/PreSyn?n=-1",
        "threshold/1/PreSyn?n=x",
        "threshold/1/PreSyn?offset=x",
        "reload",
        "sync",
    ],
)
def test_bad_requests(client: Client, request_: str) -> None:
    path = new_instance(client, new_repo(client), "labelsz", "sizes")
    client.get(f"{path}/{request_}").expect(400)


def test_bad_bodies_and_methods(client: Client) -> None:
    path = new_instance(client, new_repo(client), "labelsz", "sizes")
    for body in (b'["1"]', b"[-1]", b"[18446744073709551616]", b"[1.5]", b"{}", b"[1", b"\xff"):
        client.get(f"{path}/counts/PreSyn", body).expect(400)
    for keyword in ("count/1/PreSyn", "counts/PreSyn", "top/1/PreSyn", "threshold/1/PreSyn"):
        for method in ("HEAD", "POST", "PUT", "DELETE"):
            client.request(method, f"{path}/{keyword}", b"[]").expect(400)
    for method in ("GET", "PUT", "DELETE"):
        client.request(method, f"{path}/reload").expect(400)


def many_bodies(client: Client, uuid: str, count: int) -> np.ndarray:
    """A labelmap `many` of bodies 1, 2, 3, ... along x, annotated in `points`; how many synapses each shall have."""
    side = -(-count // 64) * 64
    labels = new_instance(client, uuid, "labelmap", "many")
    voxels = np.zeros((64, 64, side), "<u8")
    voxels[:, :, :count] = np.arange(1, count + 1)
    client.post(f"{labels}/raw/0_1_2/{side}_64_64/0_0_0", voxels.tobytes()).expect()
    synapses = new_instance(client, uuid, "annotation", "points")
    client.post(f"{synapses}/sync", {"sync": "many"}).expect()
    return np.random.default_rng(1).integers(1, 6, count)


def test_pages_of_a_long_ranking(client: Client) -> None:
    uuid = new_repo(client)
    numbers = many_bodies(client, uuid, 1500)
    sizes = new_instance(client, uuid, "labelsz", "sizes")
    client.post(f"{sizes}/sync", {"sync": "points"}).expect()
    elements = [element((x, y, 0), "PostSyn") for x, count in enumerate(numbers.tolist()) for y in range(count)]
    client.post(f"/api/node/{uuid}/points/elements", elements).expect()
    wanted = sorted(((label, count) for label, count in enumerate(numbers.tolist(), 1)), key=lambda p: (-p[1], p[0]))

    def page(offset: int, n: int, least: int = 1) -> list[tuple[int, int]]:
        rows = client.get(f"{sizes}/threshold/{least}/PostSyn?offset={offset}&n={n}").expect().json()
        return [(row["Label"], row["Size"]) for row in rows]

    for n in (1, 100, 257, 700, 10_000):
        pages, offset = [], 0
        while (rows := page(offset, n)) and offset < 1500:
            pages += rows
            offset += n if n > 1 else 500
        assert pages == (wanted if n > 1 else wanted[::500])
    assert page(0, 0, 4) == [pair for pair in wanted if pair[1] >= 4]
    assert page(700, 100, 3) == [pair for pair in wanted if pair[1] >= 3][700:800]
    page(0, 700)
    label, count = wanted[-1]
    more = [element((label - 1, y, 1), "PostSyn") for y in range(30)]
    client.post(f"/api/node/{uuid}/points/elements", more).expect()
    assert page(700, 100) == [(label, count + 30), *wanted[:-1]][700:800]


def test_reloads_and_edits_at_the_same_time(server: RunningServer, client: Client) -> None:
    uuid = new_repo(client)
    numbers = many_bodies(client, uuid, 400)
    elements = [element((x, y, 0), "PostSyn") for x, count in enumerate(numbers.tolist()) for y in range(count)]
    client.post(f"/api/node/{uuid}/points/elements", elements).expect()
    sizes = new_instance(client, uuid, "labelsz", "sizes")
    client.post(f"{sizes}/sync", {"sync": "points"}).expect()

    def reload_often() -> None:
        with server.client() as other:
            for _ in range(6):
                other.post(f"{sizes}/reload").expect()

    threads = [threading.Thread(target=reload_often) for _ in range(2)]
    for thread in threads:
        thread.start()
    generator = np.random.default_rng(2)
    for step in range(40):
        x = int(generator.integers(400))
        if step % 2:
            client.post(f"/api/node/{uuid}/points/elements", [element((x, step, 9), "PostSyn")]).expect()
            numbers[x] += 1
        elif numbers[x]:
            reply = client.get(f"/api/node/{uuid}/points/label/{x + 1}").expect().json()
            x_, y, z = reply[0]["Pos"]
            client.delete(f"/api/node/{uuid}/points/element/{x_}_{y}_{z}").expect()
            numbers[x] -= 1
    for thread in threads:
        thread.join()
    client.post(f"{sizes}/reload").expect()
    rows = client.get(f"{sizes}/counts/PostSyn", list(range(1, 401))).expect().json()
    assert [row["PostSyn"] for row in rows] == numbers.tolist()
