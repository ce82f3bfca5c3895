"""Requests of any content get an answer or a refusal, never a defect, and refused changes change nothing."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_instances import Images

from fascicle.datatypes.image import ROUTES
from fascicle.errors import FascicleError

NUMBERS = st.integers(-9, 40) | st.sampled_from([2**31 - 1, -(2**31), 2**31, 2**63, 10**30])
TRIPLES = st.lists(NUMBERS, min_size=1, max_size=4).map(lambda values: "_".join(map(str, values)))
REALS = st.lists(st.floats(-50, 400) | st.just(1e300), min_size=2, max_size=3).map(
    lambda values: "_".join(f"{value:.3g}" for value in values)
)
WORDS = st.text(st.characters(exclude_characters="/?&=", exclude_categories=["Cs"]), max_size=8)
NAMES = st.sampled_from(["0_1_2", "xy", "xz", "1_2", "jpeg", "jpg:50", "png", "tiff", "bmp", "2", "0.5"])
ARGUMENTS = st.lists(TRIPLES | NAMES | REALS | WORDS, max_size=5)
OPTIONS = st.sampled_from(
    ["", "?compression=lz4", "?compression=jpeg", "?compression=x", "?roi=r", "?blocks=0,0,0,1", "?blocks=0,0,0,-1,0,0"]
)
BODIES = st.binary(max_size=40) | st.integers(0, 5).map(lambda n: bytes(8 * n)) | st.just(b"[1, 2, 3]")


@given(
    st.sampled_from([route.keyword for route in ROUTES]), ARGUMENTS, OPTIONS, st.sampled_from(["GET", "POST"]), BODIES
)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_request(keyword: str, arguments: list[str], option: str, method: str, body: bytes) -> None:
    images = Images(BlockSize="2,2,2")
    images.post("raw/0_1_2/4_2_2/0_0_0", bytes(range(16)))
    route = next(route for route in ROUTES if route.keyword == keyword)
    if method not in route.handlers and "*" not in route.handlers:
        return
    path = "/".join([keyword, *arguments]) + option
    refused = 0
    try:
        images.call(path, method, body)
    except FascicleError as error:
        refused = error.status
    if refused:
        assert refused == 400
        assert images.get("raw/0_1_2/4_2_2/0_0_0") == bytes(range(16))
        assert images.extended()["MaxPoint"] == [3, 1, 1]
