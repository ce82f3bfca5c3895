"""Block codes against the published examples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fascicle.errors import BadRequest
from fascicle.formats import block_code

coordinate = st.integers(-block_code.LIMIT, block_code.LIMIT)
points = st.lists(st.tuples(coordinate, coordinate, coordinate), max_size=20)


@pytest.mark.parametrize(
    ("xyz", "wire"),
    [((1, 2, 3), 13194143727617), ((-1, 0, 0), 1048577), ((-1, -2, -3), 4611701411595419649)],
)
def test_wire_code_examples(xyz: tuple[int, int, int], wire: int) -> None:
    assert block_code.block_to_wire([xyz]).tolist() == [wire]
    assert block_code.block_from_wire([wire]).tolist() == [list(xyz)]


@given(points)
def test_codes_round_trip_and_sort_by_z_y_x(xyz: list[tuple[int, int, int]]) -> None:
    codes = block_code.block_codes(np.array(xyz, np.int64).reshape(-1, 3))
    assert block_code.block_xyz(codes).tolist() == [list(p) for p in xyz]
    assert [block_code.xyz_of_code(code) for code in codes.tolist()] == xyz
    assert codes.tolist() == [block_code.block_code(*p) for p in xyz]
    assert block_code.wire_to_codes(block_code.codes_to_wire(codes)).tolist() == codes.tolist()
    by_code = [p for _, p in sorted(zip(codes.tolist(), xyz, strict=True))]
    assert by_code == sorted(xyz, key=lambda p: p[::-1])


def test_far_blocks_are_refused() -> None:
    with pytest.raises(BadRequest, match="out of range"):
        block_code.block_codes([(0, 0, 1 << 20)])
    with pytest.raises(BadRequest, match="out of range"):
        block_code.block_code(-(1 << 20), 0, 0)
