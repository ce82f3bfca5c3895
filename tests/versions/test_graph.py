"""What may be done with repos, versions and instances, and what is refused."""

from __future__ import annotations

import pytest
from catalogs import Workbench

from fascicle.errors import BadRequest
from fascicle.versions import graph


@pytest.fixture
def bench() -> Workbench:
    return Workbench()


def uuids(bench: Workbench, branch: str, repo_id: int) -> list[str]:
    return [node.uuid for node in bench.catalog.branch_versions(repo_id, branch)]


def test_only_locked_versions_have_children(bench: Workbench) -> None:
    root = bench.root(bench.repo())
    for change in (
        lambda: bench.edit(graph.new_version, root),
        lambda: bench.edit(graph.new_branch, root, "side"),
        lambda: bench.edit(graph.tag, root, "v1"),
    ):
        with pytest.raises(BadRequest, match="can't branch an unlocked node"):
            change()
    bench.lock(root)
    with pytest.raises(BadRequest, match="Could not post to locked node"):
        bench.edit(graph.commit, root)


def test_branches_are_introduced_once(bench: Workbench) -> None:
    repo = bench.repo()
    root = bench.root(repo)
    child = bench.child(root)
    with pytest.raises(BadRequest, match="branch already exists with given name"):
        bench.edit(graph.new_version, root)
    side = bench.branch(root, "side")
    with pytest.raises(BadRequest, match="branch already exists with given name"):
        bench.branch(child, "side")
    with pytest.raises(BadRequest, match="Cannot create a master branch"):
        bench.edit(graph.new_branch, root, "master")
    again = bench.edit(graph.new_branch, bench.lock(side), "side")
    assert uuids(bench, "side", repo.id) == [again.uuid, side.uuid, root.uuid]


def test_given_uuids(bench: Workbench) -> None:
    root = bench.lock(bench.root(bench.repo()))
    child = bench.edit(graph.new_version, root, None, "", "ABCDEF" + "0" * 26)
    assert child.uuid == "abcdef" + "0" * 26
    for uuid, message in [(child.uuid, "already exists"), ("12", "32 character"), ("z" * 32, "invalid hexadecimal")]:
        with pytest.raises(BadRequest, match=message):
            bench.edit(graph.new_branch, root, "other", "", uuid)


def test_heads_and_steps_back(bench: Workbench) -> None:
    repo = bench.repo()
    root = bench.root(repo)
    second = bench.child(root)
    side = bench.branch(second, "side")
    bench.edit(graph.tag, bench.lock(second), "v1.0")
    bench.edit(graph.tag, second, "v1")
    resolve = bench.catalog.resolve
    assert resolve(f"{root.uuid[:6]}:master").id == second.id  # tags and branches do not move the head
    assert resolve(":side").id == side.id
    assert resolve(":side~1").id == second.id
    assert resolve(f"{side.uuid}:side~2").id == root.id
    assert resolve(f"{root.uuid}:").id == root.id
    assert resolve("v1").uuid == "v1"  # the whole name, although v1.0 starts with it
    assert resolve("v1").locked
    assert resolve("v1").note == f'Tag of version {second.uuid} with "v1"'
    for reference, message in [
        (":side~3", "out of range"),
        (":side~x", "can't parse parent"),
        (":other", "not found in repo"),
        ("a:b:c", "bad UUID specification"),
    ]:
        with pytest.raises(BadRequest, match=message):
            resolve(reference)
    bench.repo()
    with pytest.raises(BadRequest, match="more than one repo"):
        bench.catalog.resolve(":master")


@pytest.mark.parametrize("name", ["", "a/b", "a b", "a:b", "a~1", "0" * 32])
def test_tags_that_could_not_be_used(bench: Workbench, name: str) -> None:
    root = bench.lock(bench.root(bench.repo()))
    with pytest.raises(BadRequest):
        bench.edit(graph.tag, root, name)


def test_merged_versions_stay_on_the_branch_of_the_first_parent(bench: Workbench) -> None:
    repo = bench.repo()
    root = bench.root(repo)
    left, right = bench.child(root), bench.branch(root, "side")
    with pytest.raises(BadRequest, match="unlocked"):
        bench.edit(graph.merge, [left, right])
    assert len(bench.catalog.nodes(repo.id)) == 3
    merged = bench.merge(left, right)
    assert merged.parents == (left.id, right.id)
    assert bench.catalog.resolve(":master").id == merged.id
    assert uuids(bench, "", repo.id) == [merged.uuid, left.uuid, right.uuid, root.uuid]
    with pytest.raises(BadRequest, match="branch already exists"):
        bench.merge(left, right)
    with pytest.raises(BadRequest, match="twice"):
        bench.merge(right, right)
    assert bench.merge(right, left).branch == "side"


def test_version_sequences_go_over_first_parents(bench: Workbench) -> None:
    root = bench.root(bench.repo())
    left, right = bench.child(root), bench.branch(root, "side")
    merged = bench.merge(left, right)
    last = bench.child(merged)
    sequence = bench.catalog.version_sequence
    assert [node.id for node in sequence(last.id, left.id)] == [last.id, merged.id, left.id]
    assert [node.id for node in sequence(last.id, right.id)] == [last.id, merged.id, left.id, root.id]


def test_instance_names(bench: Workbench) -> None:
    root = bench.root(bench.repo())
    made = bench.instance(root, "data")
    for name in ("data", "log", "tag", "", "a/b", "a b", "a\n", "a?"):
        with pytest.raises(BadRequest):
            bench.instance(root, name)
    bench.edit(graph.rename_instance, made, "other")
    assert bench.catalog.instance(made.repo_id, "other").id == made.id
    with pytest.raises(BadRequest, match="invalid data instance name"):
        bench.catalog.instance(made.repo_id, "data")
    again = bench.instance(root, "data")
    bench.edit(graph.delete_instance, again)
    assert not bench.catalog.has_instance(made.repo_id, "data")
    third = bench.instance(root, "data")
    assert third.id != again.id
    log = bench.catalog.repo(made.repo_id).log
    assert log[0].endswith('Renamed data instance "data" to "other"')
    assert log[1].endswith("Delete data instance 'data' of type 'keyvalue'")


def test_following(bench: Workbench) -> None:
    root = bench.root(bench.repo())
    one, two, three = (bench.instance(root, name) for name in ("one", "two", "three"))
    bench.edit(graph.follow, three, ["one"], False)
    assert bench.edit(graph.follow, three, ["two", "one"], False).syncs == (one.data_uuid, two.data_uuid)
    assert bench.edit(graph.follow, three, ["two"], True).syncs == (two.data_uuid,)
    with pytest.raises(BadRequest, match='issue with requested sync name "four": invalid data instance name'):
        bench.edit(graph.follow, three, ["four"], False)
