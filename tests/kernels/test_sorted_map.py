"""Sorted maps against dictionaries."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fascicle.kernels import sorted_map

keys_u64 = st.one_of(st.integers(0, 50), st.integers(0, 2**64 - 1), st.integers(2**64 - 40, 2**64 - 1))
pairs = st.lists(st.tuples(keys_u64, st.integers(0, 2**64 - 1)), max_size=80)


def columns(items: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([k for k, _ in items], np.uint64), np.array([v for _, v in items], np.uint64)


@settings(deadline=None)
@given(pairs, st.lists(keys_u64, max_size=30))
def test_lookup_agrees_with_a_dictionary(items: list[tuple[int, int]], extra: list[int]) -> None:
    keys, values = sorted_map.sort_unique_last(*columns(items))
    model = dict(items)
    assert keys.tolist() == sorted(model)
    assert values.tolist() == [model[k] for k in sorted(model)]
    shift, starts = sorted_map.bucket_index(keys)
    queries = np.array([k for k, _ in items] + extra, np.uint64)
    out = queries.copy()
    found = np.zeros(len(queries), bool)
    sorted_map.lookup(queries, keys, values, shift, starts, out, found)
    assert out.tolist() == [model.get(q, q) for q in queries.tolist()]
    assert found.tolist() == [q in model for q in queries.tolist()]


@settings(deadline=None)
@given(pairs, pairs)
def test_merge_prefers_the_second_map(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> None:
    merged = sorted_map.merge_sorted(
        *sorted_map.sort_unique_last(*columns(a)), *sorted_map.sort_unique_last(*columns(b))
    )
    model = dict(a) | dict(b)
    assert dict(zip(merged[0].tolist(), merged[1].tolist(), strict=True)) == model
    assert merged[0].tolist() == sorted(model)


def test_sort_is_stable_and_large_inputs_work() -> None:
    rng = np.random.default_rng(1)
    keys = rng.integers(0, 5000, 20000).astype(np.uint64) << np.uint64(30)
    values = np.arange(20000, dtype=np.uint64)
    order = np.argsort(keys, kind="stable")
    sorted_keys, sorted_values = sorted_map.sort_pairs(keys, values)
    assert np.array_equal(sorted_keys, keys[order])
    assert np.array_equal(sorted_values, values[order])


def test_read_only_inputs_are_welcome() -> None:
    keys = np.frombuffer(np.arange(1, 100, 3, dtype=np.uint64).tobytes(), np.uint64)
    shift, starts = sorted_map.bucket_index(keys)
    out = np.zeros(3, np.uint64)
    found = np.zeros(3, bool)
    sorted_map.lookup(np.array([1, 2, 97], np.uint64), keys, keys, shift, starts, out, found)
    assert out.tolist() == [1, 0, 97]
    assert found.tolist() == [True, False, True]


@settings(deadline=None)
@given(st.lists(keys_u64, max_size=80), st.lists(keys_u64, max_size=10))
def test_places_of_values_agree_with_looking_at_all(values: list[int], extra: list[int]) -> None:
    column = np.array(values, np.uint64)
    index = sorted_map.value_index(column)
    for value in {*values, *extra}:
        wanted = np.flatnonzero(column == np.uint64(value)).tolist()
        assert sorted_map.places_of(value, column, *index).tolist() == wanted
