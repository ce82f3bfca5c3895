"""Colours are fixed for ever: clients compare pictures."""

from __future__ import annotations

import numpy as np
import pytest

from fascicle.formats import pseudocolor


@pytest.mark.parametrize(("label", "rgb"), [(0, "63852a"), (1, "53075d"), (2, "c61fa2"), (12345, "146c33")])
def test_golden_colours(label: int, rgb: str) -> None:
    image = pseudocolor.colours(np.full((2, 3), label, np.uint64))
    assert image.shape == (2, 3, 4)
    assert {bytes(pixel) for pixel in image.reshape(-1, 4)} == {bytes.fromhex(rgb) + b"\xff"}


def test_labels_keep_their_places() -> None:
    labels = np.array([[3, 2**64 - 1], [3, 7]], np.uint64)
    image = pseudocolor.colours(labels)
    assert np.array_equal(image[0, 0], image[1, 0])
    assert not np.array_equal(image[0, 0], image[1, 1])
    assert not np.array_equal(image[0, 1], image[1, 1])
