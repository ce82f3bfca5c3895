"""The catalog: other processes follow it, failed transactions leave nothing, its cost does not grow."""

from __future__ import annotations

import threading

import pytest
from catalogs import Workbench

from fascicle.errors import BadRequest
from fascicle.store import Outcome
from fascicle.versions import catalog as catalog_module
from fascicle.versions import consistency, graph
from fascicle.versions.catalog import Catalog, CatalogCache, CatalogEditor


def described(bench: Workbench, catalogs: CatalogCache) -> object:
    """All that a catalog says."""
    with bench.store.read() as txn:
        catalog = catalogs.at(txn)
        return [
            (repo, catalog.nodes(repo.id), catalog.instances(repo.id), catalog.head(repo.id, ""))
            for repo in catalog.repos()
        ]


def test_another_process_follows_by_the_log() -> None:
    bench = Workbench()
    other = CatalogCache(bench.store)
    repo = bench.repo(alias="one")
    node = bench.root(repo)
    for number in range(5):
        instance = bench.instance(node, f"data{number}")
        assert described(bench, other) == described(bench, bench.catalogs)
        node = bench.child(node)
        bench.edit(graph.change_node, node, note=f"note {number}")
        bench.edit(graph.rename_instance, instance, f"renamed{number}")
        assert described(bench, other) == described(bench, bench.catalogs)
    assert described(bench, CatalogCache(bench.store)) == described(bench, bench.catalogs)


def test_one_that_is_far_behind_reads_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_module, "_TRIM_EVERY", 8)
    bench = Workbench()
    other = CatalogCache(bench.store)
    node = bench.root(bench.repo())
    described(bench, other)
    for _ in range(20):
        node = bench.child(node)
    assert described(bench, other) == described(bench, bench.catalogs)


def test_a_transaction_that_fails_leaves_nothing() -> None:
    bench = Workbench()
    repo = bench.repo()
    root = bench.lock(bench.root(repo))
    before = described(bench, bench.catalogs)

    def failing(editor: CatalogEditor) -> None:
        child = graph.new_version(editor, root)
        assert editor.catalog.resolve(child.uuid) == child
        assert editor.catalog.node(root.id).children == (child.id,)
        assert editor.catalog.ancestry(child.id).contains(root.id)
        assert editor.catalog.nodes_with_prefix(child.uuid[:12]) == [child]
        raise BadRequest("no")

    with pytest.raises(BadRequest, match="no"):
        bench.edit(failing)
    assert described(bench, bench.catalogs) == before
    first, second = bench.child(root), None
    second = bench.branch(root, "side")
    assert bench.catalog.ancestry(second.id).contains(root.id)
    assert not bench.catalog.ancestry(second.id).contains(first.id)


def test_changes_of_one_group_see_each_other() -> None:
    bench = Workbench()
    root = bench.lock(bench.root(bench.repo()))
    outcomes: list[Outcome] = []
    queued = threading.Event()
    bench.store.submit(lambda txn: queued.wait(10), outcomes.append)
    for _ in range(4):  # in one group with the first change: none is committed while the next one runs
        bench.store.submit(lambda txn: graph.new_version(CatalogEditor(txn, bench.catalogs), root), outcomes.append)
    queued.set()
    bench.store.write(lambda txn: None)
    assert [outcome.error is None for outcome in outcomes] == [True, True, False, False, False]
    assert len(bench.catalog.node(root.id).children) == 1


def test_deleted_repos_are_gone_everywhere() -> None:
    bench = Workbench()
    other = CatalogCache(bench.store)
    kept, lost = bench.repo(alias="kept"), bench.repo(alias="lost")
    instance = bench.instance(bench.root(lost))
    described(bench, other)
    bench.edit(graph.delete_repo, lost)
    for catalogs in (bench.catalogs, other, CatalogCache(bench.store)):
        with bench.store.read() as txn:
            catalog = catalogs.at(txn)
            assert [repo.alias for repo in catalog.repos()] == ["kept"]
            with pytest.raises(BadRequest, match="could not find"):
                catalog.resolve(lost.root_uuid)
            assert catalog.nodes_with_prefix(lost.root_uuid[:8]) == []
            assert [deleted.id for deleted in catalog.deleted_instances()] == [instance.id]
    assert bench.catalog.repo(kept.id).alias == "kept"


def test_rows_agree_with_each_other() -> None:
    bench = Workbench()
    node = bench.root(bench.repo())
    bench.instance(node)
    bench.child(node)
    with bench.store.read() as txn:
        assert consistency.faults(txn) == []
    bench.store.write(lambda txn: txn.delete(catalog_module.row_key(catalog_module.NODES, node.id)))
    with bench.store.read() as txn:
        assert len(consistency.faults(txn)) == 2


def test_prefixes_and_names() -> None:
    bench = Workbench()
    first = bench.repo(root="aaaa" + "0" * 28)
    bench.repo(root="aaab" + "0" * 28)
    catalog: Catalog = bench.catalog
    assert catalog.resolve("aaaa").id == first.root_version
    assert catalog.resolve("AAAA").id == first.root_version
    with pytest.raises(BadRequest, match="more than one UUID matches aaa"):
        catalog.resolve("aaa")
    with pytest.raises(BadRequest, match="could not find UUID with partial match to b"):
        catalog.resolve("b")
