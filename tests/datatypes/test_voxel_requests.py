from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fascicle.datatypes.voxel_requests import (
    SliceRequest,
    VolumeRequest,
    check_alignment,
    check_body,
    check_payload,
    parse_dims,
    parse_point,
    parse_request,
)
from fascicle.errors import BadRequest


@pytest.mark.parametrize(
    ("text", "plane"),
    [("0_1", "xy"), ("0,1", "xy"), ("XY", "xy"), ("0_2", "xz"), ("1_2", "yz"), ("0,1,2", "xyz"), ("Vol", "xyz")],
)
def test_dims(text: str, plane: str) -> None:
    assert parse_dims(text) == plane


@pytest.mark.parametrize("text", ["1_0", "2_1_0", "abc", "", "0_1_2_3"])
def test_unknown_dims(text: str) -> None:
    with pytest.raises(BadRequest, match="Unknown data shape"):
        parse_dims(text)


def test_volume() -> None:
    request = parse_request("raw", ["0_1_2", "4_3_2", "-1_ 5 _6"])
    assert request == VolumeRequest((4, 3, 2), (-1, 5, 6))
    assert isinstance(request, VolumeRequest)
    assert request.shape_zyx == (2, 3, 4)
    assert request.end_xyz == (2, 7, 7)
    assert request.blocks((2, 2, 2)) == ((-1, 2, 3), (1, 3, 3))
    assert str(request) == "3d volume (4,3,2) at offset (-1,5,6)"


def test_slice() -> None:
    request = parse_request("raw", ["xz", "4_3", "10_20_30", "png"])
    assert request == SliceRequest("xz", 4, 3, (10, 20, 30))
    assert isinstance(request, SliceRequest)
    assert request.volume == VolumeRequest((4, 1, 3), (10, 20, 30))


def test_isotropic_source() -> None:
    request = SliceRequest("xz", 4, 4, (0, 0, 0))
    assert request.isotropic_source((8, 8, 16)) == SliceRequest("xz", 4, 2, (0, 0, 0))
    assert request.isotropic_source((16, 8, 8)) == SliceRequest("xz", 2, 4, (0, 0, 0))
    assert request.isotropic_source((8, 9, 8)) == request
    with pytest.raises(BadRequest, match="Illegal geometry"):
        SliceRequest("xz", 4, 1, (0, 0, 0)).isotropic_source((1, 1, 100))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "must be followed by shape/size/offset"),
        (["0_1_2", "8_8_8"], "must be followed by shape/size/offset"),
        (["0_1_2", "8_8", "0_0_0"], r"Size must be 3 \(not 2\) dimensions"),
        (["0_1_2", "8_8_8", "0_0"], "Offset must be 3d coordinate, not 2-d"),
        (["xy", "8_8_8", "0_0_0"], "into a 2d point"),
        (["xy", "8_8", "0_0"], "Offset must be 3d"),
        (["0_1_2", "8_8_8", "a_0_0"], '"a"'),
        (["0_1_2", "8_8_8.5", "0_0_0"], '"8.5"'),
        (["0_1_2", "8_8_8", "2147483648_0_0"], "32 bits"),
        (["0_1_2", "8_8_8", "2147483647_0_0"], "Illegal geometry"),
        (["0_1_2", "0_8_8", "0_0_0"], "Illegal geometry"),
        (["xy", "8_-8", "0_0_0"], "Illegal geometry"),
    ],
)
def test_refusals(args: list[str], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        parse_request("raw", args)


def test_limits() -> None:
    assert check_payload(VolumeRequest((1024, 1024, 3072), (0, 0, 0)), 1) == 3 << 30
    with pytest.raises(BadRequest, match="exceeds this DVID server's set limit"):
        check_payload(VolumeRequest((1024, 1024, 3073), (0, 0, 0)), 1)
    check_alignment(VolumeRequest((64, 32, 32), (-32, 0, 32)), (32, 32, 32))
    with pytest.raises(BadRequest, match=r"\(1,0,0\) -> \(2,1,1\)"):
        check_alignment(VolumeRequest((2, 2, 2), (1, 0, 0)), (2, 2, 2))
    with pytest.raises(BadRequest, match="was 7 bytes, expected 16 bytes"):
        check_body(VolumeRequest((2, 2, 2), (0, 0, 0)), 2, 7)


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=4))
def test_points_round_trip(values: list[int]) -> None:
    assert parse_point("_".join(map(str, values))) == tuple(values)
