"""Annotations: worked examples, forms of answers, posted lists, blocks and reloads, input that makes no sense."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from annotation_repo import EDGE, Repo, element, without_relations
from isal import igzip

from fascicle.datatypes.annotation import reloading
from fascicle.errors import BadRequest
from fascicle.formats import label_block

FIRST = (
    b'[{"Pos":[10,10,10],"Kind":"PreSyn","Tags":["t1"],"Prop":{"conf":"0.9"},"Rels":[{"Rel":"PreSynTo",'
    b'"To":[70,10,10]}]},{"Pos":[70,10,10],"Kind":"PostSyn","Rels":[{"Rel":"PostSynTo","To":[10,10,10]}]}]'
)


@pytest.fixture
def repo() -> Repo:
    """Blocks of 64; bodies 5, 7 and 7 in the first three blocks along x."""
    repo = Repo(64)
    dense = np.full((64, 64, 192), 7, np.uint64)
    dense[:, :, :64] = 5
    repo.write_voxels(dense)
    return repo


def test_worked_examples(repo: Repo) -> None:
    assert repo.call("elements", "POST", FIRST) == b""
    assert repo.call("all-elements") == (
        b'{"0,0,0":[{"Pos":[10,10,10],"Kind":"PreSyn","Tags":["t1"],"Prop":{"conf":"0.9"},"Rels":[{"Rel":"PreSynTo",'
        b'"To":[70,10,10]}]}],"1,0,0":[{"Pos":[70,10,10],"Kind":"PostSyn","Tags":[],"Prop":{},"Rels":[{"Rel":'
        b'"PostSynTo","To":[10,10,10]}]}]}'
    )
    assert repo.call("elements/64_64_64/64_0_0") == (
        b'[{"Pos":[70,10,10],"Kind":"PostSyn","Tags":[],"Prop":{},"Rels":[{"Rel":"PostSynTo","To":[10,10,10]}]}]'
    )
    assert repo.call("elements/5_5_5/500_0_0") == b"null"
    of_five = b'[{"Pos":[10,10,10],"Kind":"PreSyn","Tags":["t1"],"Prop":{"conf":"0.9"}'
    assert repo.call("label/5") == of_five + b"}]"
    assert repo.call("label/5?relationships=false") == of_five + b"}]"
    assert repo.call("label/5?relationships=verbose") == (
        of_five + b',"Rels":[{"Rel":"PreSynTo","To":[70,10,10],"Kind":"PostSyn"}]}]'
    )
    assert repo.call("label/9") == b"[]"
    with pytest.raises(BadRequest, match="Label 0 is protected background"):
        repo.call("label/0")
    repo.post("move/70_10_10/130_10_10")
    moved = repo.get("all-elements")
    assert moved["0,0,0"][0]["Rels"] == [{"Rel": "PreSynTo", "To": [130, 10, 10]}]
    assert moved["1,0,0"] == []
    assert moved["2,0,0"][0]["Pos"] == [130, 10, 10]
    assert [e["Pos"] for e in repo.get("label/7")] == [[130, 10, 10]]
    repo.edit("merge", [5, 7])
    assert [e["Pos"] for e in repo.get("label/5")] == [[10, 10, 10], [130, 10, 10]]
    assert repo.call("label/7") == b"[]"
    repo.call("element/130_10_10", "DELETE")
    assert repo.call("tag/t1?relationships=true") == of_five + b',"Rels":[]}]'
    with pytest.raises(BadRequest, match=r"Did not find element \(130,10,10\) in datastore"):
        repo.call("element/130_10_10", "DELETE")
    repo.post("elements", [{"Pos": [10, 10, 10], "Kind": "PreSyn", "Tags": ["t2"]}])
    assert repo.call("tag/t1") == b"[]"
    assert repo.get("tag/t2") == [{"Pos": [10, 10, 10], "Kind": "PreSyn", "Tags": ["t2"], "Prop": {}}]
    with pytest.raises(BadRequest, match="Synapse"):
        repo.post("elements", [{"Pos": [1, 2, 3], "Kind": "Synapse"}])


def test_tags_may_come_and_go_in_one_request(repo: Repo) -> None:
    repo.post("elements", [element((1, 1, 1), Tags=["t"]), element((2, 2, 2))])
    repo.post("elements", [element((1, 1, 1)), element((2, 2, 2), Tags=["t"])])
    assert [e["Pos"] for e in repo.get("tag/t")] == [[2, 2, 2]]


def test_long_tags_are_tags(repo: Repo) -> None:
    long, longer = "x" * 1000, "x" * 1001
    repo.post("elements", [element((1, 1, 1), Tags=[long]), element((2, 2, 2), Tags=[longer, "a/b", "\0"])])
    assert [e["Pos"] for e in repo.get(f"tag/{long}")] == [[1, 1, 1]]
    assert [e["Pos"] for e in repo.get(f"tag/{longer}")] == [[2, 2, 2]]


def test_of_two_elements_at_one_position_the_last_one_counts(repo: Repo) -> None:
    repo.post("elements", [element((1, 1, 1), "Gap"), element((1, 1, 1), "PreSyn")])
    assert repo.get("label/5") == [without_relations(element((1, 1, 1), "PreSyn"))]
    assert repo.get("count/5/PreSyn", name="counts") == {"Label": 5, "PreSyn": 1}
    assert repo.get("count/5/Gap", name="counts") == {"Label": 5, "Gap": 0}


def test_members_in_any_case_unknown_ones_and_positions_of_any_length(repo: Repo) -> None:
    repo.call("elements", "POST", b'[{"pos":[1,2],"KIND":"Gap","extra":{},"rels":[{"rel":"PreSynTo","TO":[3,4,5,6]}]}]')
    wanted = element((1, 2, 0), "Gap", Rels=[{"Rel": "PreSynTo", "To": [3, 4, 5]}])
    assert repo.get("elements/9_9_9/0_0_0") == [wanted]
    repo.call("elements", "POST", b'[{"Pos":[1,2,0],"Tags":null,"Prop":null,"Rels":null}]')
    assert repo.get("elements/9_9_9/0_0_0") == [element((1, 2, 0), "Unknown")]


@pytest.mark.parametrize("body", [b"[]", b"null"])
def test_nothing_posted_changes_nothing(repo: Repo, body: bytes) -> None:
    before = repo.rows()
    repo.call("elements", "POST", body)
    assert repo.rows() == before


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("elements", b""),
        ("elements", b"{"),
        ("elements", b"[5]"),
        ("elements", b"[null]"),
        ("elements", b"[" * 5000),
        ("elements", b'[{"Pos":[1,2,3],"Kind":null}]'),
        ("elements", b'[{"Pos":[1.0,2,3]}]'),
        ("elements", b'[{"Pos":[2147483648,2,3]}]'),
        ("elements", b'[{"Pos":[1,2,3],"Prop":{"a":1}}]'),
        ("elements", b'[{"Pos":[1,2,3],"Tags":[""]}]'),
        ("elements", b'[{"Pos":[1,2,3],"Tags":["\xff"]}]'),
        ("elements", b'[{"Pos":[1,2,3],"Rels":[{"Rel":"Near"}]}]'),
        ("elements", b'[{"Pos":[7,7,7]},{"Pos":[1,2,3],"Kind":"Synapse"}]'),
        ("blocks", b'{"1,2":[]}'),
        ("blocks", b'{"a,b,c":[]}'),
        ("blocks", b'{"1_2_3":[]}'),
        ("blocks", b'{"0,0,99999999999":[]}'),
        ("blocks", b"[]"),
        ("blocks", b'{"0,0,0":{}}'),
        ("labels", b"[]"),
        ("labels", b'{"1":[]}'),
        ("labels", b'{"abc":"[]"}'),
        ("labels", b'{"99999999999999999999":"[]"}'),
        ("labels/extra", b"{}"),
        ("move/1_1_1/2_2", b""),
        ("move/9_9_9/2_2_2", b""),
        ("label/1", b""),
        ("all-elements", b""),
    ],
)
def test_bad_posts_change_nothing(repo: Repo, path: str, body: bytes) -> None:
    repo.call("elements", "POST", FIRST)
    before = repo.rows()
    with pytest.raises(BadRequest):
        repo.call(path, "POST", body)
    assert repo.rows() == before


@pytest.mark.parametrize(
    "path",
    [
        "elements",
        "elements/1_1_1",
        "elements/1_1/0_0_0",
        "elements/1.5_1_1/0_0_0",
        "elements/1_1_1/99999999999_0_0",
        "blocks/a_b_c/0_0_0",
        "all-elements/extra",
        "scan/extra",
        "label",
        "label/x",
        "label/-1",
        "label/18446744073709551616",
        "tag",
        "roi",
        "roi/absent",
        "roi/segmentation",
        "roi/a,b,c",
        "reload",
    ],
)
def test_bad_questions(repo: Repo, path: str) -> None:
    with pytest.raises(BadRequest):
        repo.call(path)


def test_boxes_at_the_ends_of_space() -> None:
    repo = Repo()
    far = [(2147483647, -2147483648, 0), (-2147483648, 2147483647, 2147483647), (-1, -1, -1), (0, 0, 0)]
    repo.post("elements", [element(place) for place in far])
    found = repo.get("elements/2147483647_2147483647_2147483647/-1_-1_-1")
    assert [e["Pos"] for e in found] == [[-1, -1, -1], [0, 0, 0]]
    assert [e["Pos"] for e in repo.get("elements/9_9_9/2147483640_-2147483648_0")] == [list(far[0])]
    assert repo.get("elements/0_9_9/0_0_0") is None
    assert repo.get("elements/-5_9_9/0_0_0") is None
    assert len(repo.get("blocks/100_100_100/-50_-50_-50")) == 2
    assert repo.get("blocks/0_1_1/0_0_0") == {}
    assert repo.get("scan") == {"num kv pairs": 4, "num empty blocks": 0}


def test_negative_positions_belong_to_bodies() -> None:
    repo = Repo()
    repo.write_voxels(np.full((EDGE, EDGE, EDGE), 3, np.uint64), (-EDGE, -EDGE, -EDGE))
    repo.post("elements", [element((-1, -5, -16), "PreSyn")])
    assert [e["Pos"] for e in repo.get("label/3")] == [[-1, -5, -16]]
    assert repo.get("count/3/PreSyn", name="counts")["PreSyn"] == 1


def test_a_move_inside_of_a_body_leaves_no_ghost(repo: Repo) -> None:
    repo.post("elements", [element((70, 1, 1), "PreSyn")])
    repo.post("move/70_1_1/71_2_3")
    assert [e["Pos"] for e in repo.get("label/7?relationships=true")] == [[71, 2, 3]]
    repo.call("element/71_2_3", "DELETE")
    assert repo.get("label/7") == []
    assert repo.get("count/7/PreSyn", name="counts")["PreSyn"] == 0


def test_relations_to_itself_follow_a_moved_element(repo: Repo) -> None:
    """Relations to the old place follow in the old block and in partners' blocks, elsewhere they stay as they are."""
    to_old_place = [{"Rel": "GroupedWith", "To": [70, 1, 1]}]
    repo.post("elements", [element((70, 1, 1), Rels=to_old_place), element((130, 9, 9), Rels=to_old_place)])
    repo.post("move/70_1_1/130_1_1")
    moved = {tuple(one["Pos"]): one["Rels"] for one in repo.get("all-elements")["2,0,0"]}
    assert moved == {(130, 1, 1): [{"Rel": "GroupedWith", "To": [130, 1, 1]}], (130, 9, 9): to_old_place}


def test_posted_blocks_reach_the_indexes_with_a_reload(repo: Repo) -> None:
    repo.post("elements", [element((1, 1, 1), "Gap", Tags=["old"]), element((70, 1, 1), "PreSyn")])
    new = [element((2, 2, 2), "PreSyn", Tags=["new"]), element((3, 3, 3))]
    repo.post("blocks", {"0,0,0": new, "1,0,0": [], "4,4,4": []})
    assert repo.get("all-elements") == {"0,0,0": new, "1,0,0": [], "4,4,4": []}
    assert [e["Pos"] for e in repo.get("label/5")] == [[1, 1, 1]]
    assert repo.get("label/5?relationships=true") == []
    assert [e["Pos"] for e in repo.get("tag/old")] == [[1, 1, 1]]
    repo.post("reload")
    assert repo.get("label/5?relationships=true") == new
    assert repo.get("label/7") == []
    assert repo.get("tag/old") == []
    assert repo.get("tag/new") == [without_relations(new[0])]
    assert [repo.get(f"count/{label}/PreSyn", name="counts")["PreSyn"] for label in (5, 7)] == [1, 0]


def test_a_checking_reload_leaves_lists_that_nothing_belongs_to(repo: Repo) -> None:
    repo.post("elements", [element((1, 1, 1), Tags=["both"]), element((70, 1, 1), Tags=["lone", "both"])])
    repo.post("blocks", {"0,0,0": [element((2, 1, 1), Tags=["both"])], "1,0,0": []})
    repo.post("reload?check=true")
    assert [e["Pos"] for e in repo.get("label/5")] == [[2, 1, 1]]
    assert [e["Pos"] for e in repo.get("label/7")] == [[70, 1, 1]], "no element is in 7 any more"
    assert [e["Pos"] for e in repo.get("tag/both")] == [[2, 1, 1]]
    assert [e["Pos"] for e in repo.get("tag/lone")] == [[70, 1, 1]]
    repo.post("reload")
    assert repo.get("label/7") == repo.get("tag/lone") == []


def test_elements_in_a_block_of_another_name(repo: Repo) -> None:
    """They are given back as they were posted, and belong to no index."""
    stray, home = element((70, 1, 1), Tags=["s"]), element((1, 1, 1))
    repo.post("blocks", {"0,0,0": [home, stray]})
    repo.post("reload")
    assert repo.get("all-elements") == {"0,0,0": [home, stray]}
    assert repo.get("label/7") == repo.get("tag/s") == []
    repo.post("reload?inmemory=false")
    assert repo.get("all-elements") == {"0,0,0": [home]}
    assert [e["Pos"] for e in repo.get("label/5")] == [[1, 1, 1]]


def test_a_reload_keeps_posts_out_and_goes_on_after_its_process_ended(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloading, "STEP_ROWS", 2)
    repo.post("blocks", {"0,0,0": [element((x, 1, 1), Tags=["t"]) for x in range(9)]})
    with monkeypatch.context() as ended:
        ended.setattr(reloading, "start", lambda *_: None)
        repo.post("reload")
        with pytest.raises(BadRequest, match="undergoing bulk update"):
            repo.post("elements", [element((1, 1, 1))])
        repo.call("element/0_1_1", "DELETE")
    state = {"after": 0}

    def wait(*_: object) -> None:
        reloading.run(repo.store, instance, node)
        state["after"] += 1

    with repo.store.read() as txn:
        catalog = repo.cache.at(txn)
        node = catalog.node(repo.root)
        instance = catalog.instance(node.repo_id, "synapses")
    monkeypatch.setattr(reloading, "start", wait)
    repo.get("label/5")
    assert state["after"] == 1
    assert len(repo.get("label/5")) == len(repo.get("tag/t")) == 8
    repo.post("elements", [element((1, 1, 1))])


def test_posted_lists_stand_for_labels_until_a_reload(repo: Repo) -> None:
    repo.post("elements", [element((1, 1, 1)), element((70, 1, 1))])
    verbatim = '[ {"Pos":[9,9,9],"Kind":"Gap","Tags":[],"Prop":{}} ]'
    repo.post("labels", {"5": verbatim, "0": "[]", "23": "whatever"})
    assert repo.call("label/5") == verbatim.encode()
    assert repo.call("label/23") == b"whatever"
    assert repo.get("label/5?relationships=true") == []
    assert repo.get("label/5?relationships=verbose")[0]["Rels"] == []
    repo.post("elements", [element((2, 2, 2)), element((9, 9, 9), "PreSyn")])
    assert [(e["Pos"], e["Kind"]) for e in repo.get("label/5")] == [([9, 9, 9], "PreSyn"), ([2, 2, 2], "Note")]
    repo.call("element/2_2_2", "DELETE")
    assert [e["Pos"] for e in repo.get("label/5")] == [[9, 9, 9]]
    repo.edit("merge", [7, 5])
    assert repo.get("label/5") == []
    assert [e["Pos"] for e in repo.get("label/7")] == [[70, 1, 1], [9, 9, 9]]
    repo.edit("cleave/7", [5])
    new = next(label for label in range(8, 30) if repo.get(f"label/{label}") and label != 23)
    assert [e["Pos"] for e in repo.get(f"label/{new}")] == [[9, 9, 9]]
    repo.post("reload?check=true")
    assert repo.call("label/23") == b"whatever"
    assert [e["Pos"] for e in repo.get("label/7")] == [[70, 1, 1]]
    repo.post("reload")
    assert repo.call("label/23") == b"[]"
    assert [e["Pos"] for e in repo.get(f"label/{new}")] == [[1, 1, 1], [9, 9, 9]]


def test_merged_versions_that_emptied_the_same_block(repo: Repo) -> None:
    repo.post("elements", [element((1, 1, 1)), element((2, 1, 1)), element((3, 1, 1)), element((70, 1, 1))])
    left, right = repo.child(repo.root, "left"), repo.child(repo.root, "right")
    for version in (left, right):
        repo.call("element/70_1_1", "DELETE", version=version)
    repo.call("element/1_1_1", "DELETE", version=left)
    repo.call("element/2_1_1", "DELETE", version=right)
    merged = repo.merged(left, right)
    assert repo.get("all-elements", merged) == {"0,0,0": [element((3, 1, 1))], "1,0,0": []}
    assert repo.get("blocks/200_200_200/0_0_0", merged) == {"0,0,0": [element((3, 1, 1))], "1,0,0": []}
    assert [e["Pos"] for e in repo.get("label/5", merged)] == [[3, 1, 1]]
    assert repo.get("scan", merged)["num kv pairs"] == 2


def test_syncs(repo: Repo) -> None:
    """What a new sync does not know comes with a reload; what the last one knew stays readable without any."""
    alone = Repo(64, synced=False)
    alone.write_voxels(np.full((64, 64, 64), 2, np.uint64))
    alone.post("elements", [element((1, 1, 1), "Gap")])
    assert alone.get("label/2") == []
    alone.sync("segmentation")
    assert alone.get("label/2") == []
    alone.post("reload")
    assert [e["Pos"] for e in alone.get("label/2")] == [[1, 1, 1]]
    assert alone.get("count/2/Gap", name="counts")["Gap"] == 1
    alone.sync(replaced=True)
    alone.post("elements", [element((2, 2, 2))])
    assert [e["Pos"] for e in alone.get("label/2")] == [[1, 1, 1]]
    alone.post("reload")
    assert alone.get("label/2") == []


def test_blocks_keep_their_size_once_there_are_elements() -> None:
    repo = Repo(32, synced=False)
    repo.post("elements", [element((40, 1, 1))])
    assert list(repo.get("all-elements")) == ["0,0,0"]
    repo.sync("segmentation")
    repo.post("elements", [element((70, 1, 1)), element((41, 1, 1))])
    assert {name: len(listed) for name, listed in repo.get("all-elements").items()} == {"0,0,0": 2, "1,0,0": 1}
    repo.write_voxels(np.full((32, 32, 64), 4, np.uint64), (32, 0, 0))
    assert [e["Pos"] for e in repo.get("label/4")] == [[40, 1, 1], [41, 1, 1], [70, 1, 1]]


def test_posted_mappings_move_points_and_counts(repo: Repo) -> None:
    repo.post("elements", [element((1, 1, 1), "PreSyn"), element((70, 1, 1), "PreSyn")])
    # MappingOps { mappings { mapped: 7, original: [5] } }
    repo.call("mappings", "POST", b"\x0a\x07\x08\x01\x10\x07\x1a\x01\x05", name="segmentation")
    counted = [repo.get(f"count/{label}/PreSyn", name="counts")["PreSyn"] for label in (5, 7)]
    assert counted == [0, 2]


def test_ingested_supervoxels_carry_points(repo: Repo) -> None:
    """Also writes that leave the index of bodies alone move the points in their blocks."""
    repo.post("elements", [element((1, 1, 1)), element((70, 1, 1))])
    block = igzip.compress(bytes(label_block.encode(np.full((64, 64, 64), 99, np.uint64))))
    stream = struct.pack("<iiiI", 0, 0, 0, len(block)) + block
    repo.call("ingest-supervoxels", "POST", stream, name="segmentation")
    assert [e["Pos"] for e in repo.get("label/99")] == [[1, 1, 1]]
    assert repo.get("label/5") == []
    assert [e["Pos"] for e in repo.get("label/7")] == [[70, 1, 1]]


def test_bodies_of_many_supervoxels() -> None:
    """Rows are found whether a body's supervoxels are looked up one by one or picked out of a long scan."""
    repo = Repo(32, counted=False)
    rng = np.random.default_rng(3)
    labels = rng.permutation(2 * 4096)[:4096].astype(np.uint64).reshape(16, 16, 16) + np.uint64(1)
    repo.write_voxels(labels.repeat(2, 0).repeat(2, 1).repeat(2, 2))
    places = np.unique(rng.integers(0, 32, (1500, 3)), axis=0)
    repo.post("elements", [element(tuple(place)) for place in places.tolist()])
    chosen = sorted(labels.reshape(-1).tolist())[::3]
    for begin, end in ((1, 10), (10, 1300)):
        repo.edit("merge", [chosen[0], *chosen[begin:end]])
        body = set(chosen[:end])
        wanted = sorted([x, y, z] for x, y, z in places.tolist() if int(labels[z // 2, y // 2, x // 2]) in body)
        assert sorted(e["Pos"] for e in repo.get(f"label/{chosen[0]}")) == wanted
        assert sorted(e["Pos"] for e in repo.get(f"label/{chosen[0]}?relationships=true")) == wanted
