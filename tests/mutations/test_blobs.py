"""References of blobs."""

from __future__ import annotations

import pytest

from fascicle.errors import BadRequest
from fascicle.mutations import blobs
from fascicle.store.memory import MemoryStore


@pytest.mark.parametrize(
    ("data", "reference"),
    [(b"", "bGInLge7AUJiuCF1YpXFjQ=="), (b"a", "0ijLaRAajK94kStwTkoUHg=="), (b"hello", "8UtYSGSD2U9wgDh5jClpfw==")],
)
def test_documented_references(data: bytes, reference: str) -> None:
    store = MemoryStore()
    assert store.write(lambda txn: blobs.put(txn, data)) == reference
    assert store.write(lambda txn: blobs.put(txn, data)) == reference
    with store.read() as txn:
        assert blobs.get(txn, reference) == data


@pytest.mark.parametrize("reference", ["", "abc", "é", "8UtYSGSD2U9wgDh5jClpfw", "AAAA"])
def test_bad_references(reference: str) -> None:
    with MemoryStore().read() as txn, pytest.raises(BadRequest):
        blobs.get(txn, reference)
