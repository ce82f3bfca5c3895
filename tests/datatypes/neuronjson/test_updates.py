"""Merging, conditionals, deletion by null, and who set what and when: the worked examples, and more."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fascicle.datatypes.neuronjson import documents, updates
from fascicle.datatypes.neuronjson.updates import Posting
from fascicle.errors import BadRequest


def post(
    old: dict[str, Any] | None, new: dict[str, Any], user: str, time: str, conditional: str = "", replace: bool = False
) -> dict[str, Any]:
    stored = None if old is None else documents.stored_members(json.dumps(old, separators=(",", ":")).encode())
    posted = documents.members({"bodyid": 1000, **new})
    updates.check(posted, 1000)
    names = frozenset(conditional.split(",")) if conditional else frozenset()
    made: dict[str, Any] = json.loads(
        documents.document_of(updates.updated(stored, posted, Posting(user, time, names, replace)))
    )
    return made


def test_the_worked_examples() -> None:
    one = post(None, {"type": "KC", "status": "Traced"}, "ann", "T1")
    signed = {"status_user": "ann", "status_time": "T1", "type_user": "ann", "type_time": "T1"}
    assert one == {"bodyid": 1000, "type": "KC", "status": "Traced", **signed}
    two = post(one, {"type": "KC", "status": "Anchor"}, "bob", "T2")
    assert two == {**one, "status": "Anchor", "status_user": "bob", "status_time": "T2"}
    three = post(two, {"status": "Leaves", "instance": "KC_L"}, "cy", "T3", "status")
    assert three == {**two, "instance": "KC_L", "instance_user": "cy", "instance_time": "T3"}
    four = post(three, {"status": None}, "dee", "T4")
    expected = {**three, "status_user": "dee", "status_time": "T4"}
    del expected["status"]
    assert four == expected
    five = post(four, {"type": "KC"}, "eve", "T5", replace=True)
    assert five == {"bodyid": 1000, "type": "KC", "type_user": "ann", "type_time": "T1"}


def test_given_users_and_times() -> None:
    old = post(None, {"type": "KC"}, "ann", "T1")
    assert post(old, {"type": "KC", "type_user": "given"}, "bob", "T2") == {**old, "type_user": "given"}
    changed = post(old, {"type": "MB", "type_time": "given"}, "bob", "T2")
    assert changed == {"bodyid": 1000, "type": "MB", "type_user": "bob", "type_time": "given"}
    first = post(None, {"type_user": "given"}, "ann", "T1")
    assert first == {"bodyid": 1000, "type_user": "given", "type_time": "T1"}
    silent = post(old, {"type": None, "type_user": None, "type_time": None}, "bob", "T2")
    assert silent == {"bodyid": 1000}
    never = post(old, {"other": None}, "bob", "T2")
    assert never == {**old, "other_user": "bob", "other_time": "T2"}
    assert post(old, {"user": "x"}, "bob", "T2") == {**old, "user": "x"}


def test_kinds_of_numbers_differ() -> None:
    old = post(None, {"n": 5, "inner": {"a": 5}}, "ann", "T1")
    assert post(old, {"n": 5, "inner": {"a": 5.0}}, "bob", "T2") == old
    assert post(old, {"n": 5.0}, "bob", "T2")["n_user"] == "bob"


def test_replacing() -> None:
    old = post(None, {"type": "KC", "note": ""}, "ann", "T1")
    assert post(old, {"note": "x"}, "bob", "T2", "note", True) == {
        "bodyid": 1000,
        "note": "x",
        "note_user": "bob",
        "note_time": "T2",
    }
    assert post(old, {}, "bob", "T2", replace=True) == {"bodyid": 1000}
    assert post(old, {"note": "x"}, "bob", "T2", "note") == old  # without replace an empty text is kept, too


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"bodyid": None},
        {"bodyid": "1000"},
        {"bodyid": -1000},
        {"bodyid": 1000.0},
        {"bodyid": 1001},
        {"bodyid": 1000, "bodyid_user": "x"},
        {"bodyid": 1000, "bodyid_time": "x"},
        {"bodyid": 1000, "type_time": 5},
        {"bodyid": 1000, "type_time": ["x"]},
    ],
)
def test_what_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        updates.check(documents.members(wrong), 1000)


names = st.sampled_from(["a", "b", "c", "user"])
posted_values = st.none() | st.integers(0, 2) | st.sampled_from(["", "x", 1.5])


@given(st.lists(st.dictionaries(names, posted_values, max_size=3), min_size=1, max_size=5), st.booleans())
def test_posting_again_changes_nothing(posts: list[dict[str, Any]], replace: bool) -> None:
    state: dict[str, Any] | None = None
    for number, new in enumerate(posts):
        state = post(state, new, f"u{number}", f"T{number}", replace=replace)
        if None not in new.values():
            assert post(state, new, "again", "later", replace=replace) == state
        for name, value in new.items():
            assert state.get(name) == value
            if name != "user":
                assert {f"{name}_user", f"{name}_time"} <= state.keys()
        if replace:
            assert {name for name in state if not name.endswith(("_user", "_time"))} <= new.keys() | {"bodyid"}
