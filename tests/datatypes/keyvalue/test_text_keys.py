"""Keys of any length keep their order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fascicle.datatypes.keyvalue import text_keys
from fascicle.datatypes.keyvalue.text_keys import LONGEST, all_short, first_after, first_from, group, is_long, type_key
from fascicle.store import MAX_KEY_BYTES
from fascicle.versions import keys

PREFIXES = [b"", b"a" * (LONGEST - 1), b"a" * LONGEST, b"a" * (LONGEST - 2) + b"\x00", b"b" * 398 + b"\x00\x00"]
ANY = st.builds(bytes.__add__, st.sampled_from(PREFIXES), st.binary(max_size=6)).filter(bool)


@given(ANY, st.binary())
def test_what_is_stored_gives_key_and_value_back(key: bytes, value: bytes) -> None:
    found = type_key(key)
    assert len(keys.with_version(keys.prefix(1, 1) + found, 1)) <= MAX_KEY_BYTES
    assert text_keys.unwrapped(found, text_keys.wrapped(key, found, value)) == (key, value)


@given(ANY, ANY)
def test_order(one: bytes, two: bytes) -> None:
    first, second = type_key(one), type_key(two)
    if is_long(first) and is_long(second) and group(first) == group(second):
        assert (first == second) == (one == two)
    else:
        assert (first < second) == (one < two)
        assert (first == second) == (one == two)
    assert not first.startswith(second) or one == two


@given(ANY, ANY)
def test_bounds(bound: bytes, key: bytes) -> None:
    if key >= bound:
        assert type_key(key) >= first_from(bound)
    if key <= bound:
        assert type_key(key) < first_after(bound)


@given(st.lists(st.one_of(st.binary(max_size=8), st.sampled_from([b"a" * LONGEST, b"a" * (LONGEST + 1)])), max_size=4))
def test_many_keys_at_once(names: list[bytes]) -> None:
    found = all_short(names)
    if found is not None:
        assert found == [type_key(name) for name in names]
    assert (found is None) == any(b"\x00" in name or len(name) > LONGEST for name in names)
