"""Counters of labels: what raises them, what they give out, who may override them."""

from __future__ import annotations

import pytest
from labelmap_instances import Labels

from fascicle.datatypes.labelmap import counters
from fascicle.errors import BadRequest


def test_nothing_known_yet() -> None:
    labels = Labels()
    with pytest.raises(BadRequest, match="No maximum label"):
        labels.get("maxlabel")
    assert labels.get("nextlabel") == b'{"nextlabel": 1}'


def test_labels_of_voxels_count(four: Labels) -> None:
    assert four.get("maxlabel") == b'{"maxlabel": 4}'
    assert four.get("nextlabel") == b'{"nextlabel": 5}'
    answer = four.call("nextlabel/10", "POST")
    assert answer.body == b'{"start": 5, "end": 14}'
    assert four.json("maxlabel") == {"maxlabel": 14}


def test_posted_maximum_only_raises(four: Labels) -> None:
    four.post("maxlabel/1000")
    four.post("maxlabel/10")
    assert four.json("maxlabel") == {"maxlabel": 1000}
    assert four.json("nextlabel") == {"nextlabel": 1001}


def test_next_label_overrides(four: Labels) -> None:
    four.post("set-nextlabel/100?ceiling=110")
    assert four.post("nextlabel/4") == {"start": 101, "end": 104}
    assert four.json("maxlabel") == {"maxlabel": 104}
    four.post("maxlabel/5000")
    assert four.json("nextlabel") == {"nextlabel": 105}
    with pytest.raises(BadRequest, match="ceiling"):
        four.post("nextlabel/7")
    with pytest.raises(BadRequest, match="ceiling"):
        four.post("set-nextlabel/200")
    four.post("set-nextlabel/200?ceiling=0")
    assert four.post("nextlabel/1000")["end"] == 1200
    assert four.json("maxlabel") == {"maxlabel": 5000}


@pytest.mark.parametrize(
    "path",
    [
        "maxlabel/0",
        "maxlabel/x",
        "maxlabel",
        f"maxlabel/{2**48 + 1}",
        "nextlabel/0",
        "nextlabel/-1",
        f"nextlabel/{2**64 - 1}",
        f"nextlabel/{2**64}",
        "set-nextlabel/0",
        f"set-nextlabel/{2**64 - 1}",
        "set-nextlabel/100?ceiling=99",
        "set-nextlabel/100?ceiling=x",
        "set-nextlabel",
    ],
)
def test_refusals_change_nothing(four: Labels, path: str) -> None:
    before = four.everything()
    with pytest.raises(BadRequest):
        four.post(path)
    assert four.everything() == before


def test_overriding_needs_the_token_where_there_is_one(four: Labels) -> None:
    four.settings["admin_configured"] = True
    for path in ("maxlabel/1000", "set-nextlabel/100"):
        with pytest.raises(BadRequest, match="requires admin"):
            four.post(path)
    four.post("nextlabel/3")
    four.admin = True
    four.post("maxlabel/1000")
    four.post("set-nextlabel/2000")
    assert four.json("maxlabel") == {"maxlabel": 1000}


def test_versions_inherit(four: Labels) -> None:
    child, sibling = four.child(four.root), four.child(four.root, "side")
    assert four.json("maxlabel", version=child) == {"maxlabel": 4}
    four.post("maxlabel/50", version=child)
    assert four.json("maxlabel") == {"maxlabel": 4}
    assert four.json("maxlabel", version=sibling) == {"maxlabel": 4}
    assert four.json("nextlabel", version=sibling) == {"nextlabel": 51}
    assert four.post("nextlabel/1", version=sibling) == {"start": 51, "end": 51}
    assert four.json("maxlabel", version=child) == {"maxlabel": 50}


def test_writing_to_an_old_version_reaches_its_descendants(four: Labels) -> None:
    child = four.child(four.root)
    four.post("maxlabel/10", version=child)
    grandchild = four.child(child)
    four.write(lambda change: counters.raise_max_label(change, 70))
    assert [four.json("maxlabel", version=v)["maxlabel"] for v in (four.root, child, grandchild)] == [70, 70, 70]
