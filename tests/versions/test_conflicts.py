"""Merging versions that disagree."""

from __future__ import annotations

from catalogs import Workbench

from fascicle.versions import conflicts
from fascicle.versions.model import Instance, Node
from fascicle.versions.resolution import VersionedView


def write(bench: Workbench, instance: Instance, node: Node, **values: str | None) -> None:
    def change(txn):  # type: ignore[no-untyped-def]
        view = VersionedView(txn, instance.id, bench.catalog.ancestry(node.id))
        for key, value in values.items():
            if value is None:
                view.delete(1, key.encode())
            else:
                view.put(1, key.encode(), value.encode())

    bench.store.write(change)


def seen(bench: Workbench, instance: Instance, node: Node) -> dict[str, str]:
    with bench.store.read() as txn:
        view = VersionedView(txn, instance.id, bench.catalog.ancestry(node.id))
        return {key.decode(): view.load(handle).decode() for key, _, handle in view.scan(1)}


def test_the_first_parent_wins() -> None:
    bench = Workbench()
    root = bench.root(bench.repo())
    one, two = bench.instance(root, "one"), bench.instance(root, "two")
    write(bench, one, root, inherited="root", both="root", deleted="root")
    left, right = bench.child(root), bench.branch(root, "side")
    write(bench, one, left, both="left", only="left", deleted=None)
    write(bench, one, right, both="right", inherited="right", other="right", zz="right")
    write(bench, two, left, a="left", z="left")
    write(bench, two, right, a="right", z="right")
    bench.lock(left)
    bench.lock(right)
    before = [seen(bench, instance, node) for instance in (one, two) for node in (left, right)]
    merged = bench.edit(conflicts.resolve, [(one, (1,)), (two, (1,))], [left, right], "note")
    assert seen(bench, one, merged) == {
        "inherited": "root",
        "both": "left",
        "only": "left",
        "other": "right",
        "zz": "right",
    }
    assert seen(bench, two, merged) == {"a": "left", "z": "left"}
    assert [seen(bench, instance, node) for instance in (one, two) for node in (left, right)] == before
    extension = bench.catalog.node(merged.parents[1])
    assert merged.parents[0] == left.id
    assert extension.locked
    assert extension.branch == f"conflict-{right.uuid}"
    assert extension.note == conflicts.NOTE
    assert not merged.locked


def test_without_conflicts_nothing_is_hidden() -> None:
    bench = Workbench()
    root = bench.root(bench.repo())
    instance = bench.instance(root)
    write(bench, instance, root, a="root")
    left, right = bench.child(root), bench.branch(root, "side")
    write(bench, instance, right, b="right")
    bench.lock(left)
    bench.lock(right)
    merged = bench.edit(conflicts.resolve, [(instance, (1,))], [left, right])
    assert merged.parents == (left.id, right.id)
    assert seen(bench, instance, merged) == {"a": "root", "b": "right"}
