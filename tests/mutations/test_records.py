"""Mutation ids and records."""

from __future__ import annotations

import json
import re

from fascicle.mutations import records
from fascicle.store.memory import MemoryStore
from fascicle.versions import times


def test_ids_grow_and_start_high() -> None:
    store = MemoryStore()
    given = [store.write(lambda txn: records.take_mutation_id(txn, 1)) for _ in range(3)]
    assert given == [1_000_000_000, 1_000_000_001, 1_000_000_002]
    assert store.write(lambda txn: records.take_mutation_id(txn, 2)) == 1_000_000_000
    assert store.write(lambda txn: records.take_mutation_id(txn, 2, 7_000_000_000)) == 7_000_000_000
    assert store.write(lambda txn: records.take_mutation_id(txn, 2)) == 7_000_000_001
    with store.read() as txn:
        assert records.next_mutation_id(txn, 1) == 1_000_000_003


def test_records_come_back_in_order_by_version() -> None:
    store = MemoryStore()
    for number in range(100):
        store.write(lambda txn, number=number: records.append(txn, 5, 1 + number % 2, {"n": number}))  # type: ignore[misc]
    store.write(lambda txn: records.append_all(txn, 5, 1, [{"n": 100 + 2 * number} for number in range(600)]))
    store.write(lambda txn: records.append(txn, 5, 1, {"n": 1300}))
    with store.read() as txn:
        first = [json.loads(line)["n"] for line in records.stored(txn, 5, 1)]
        second = [json.loads(line)["n"] for line in records.stored(txn, 5, 2)]
        assert list(records.stored(txn, 6, 1)) == []
    assert first == list(range(0, 1302, 2))
    assert second == list(range(1, 100, 2))


def test_times_have_the_form_that_clients_look_for() -> None:
    text = times.record_text(1_700_000_000_000_000_007)
    assert re.fullmatch(r"2023-11-14 22:13:20\.000000007 \+0000 UTC m=\+?-?[\d.]+", text)
    assert times.rfc3339(1_700_000_000_000_000_007) == "2023-11-14T22:13:20.000000007Z"
    assert times.rfc3339_seconds(1_700_000_000_999_999_999) == "2023-11-14T22:13:20Z"
