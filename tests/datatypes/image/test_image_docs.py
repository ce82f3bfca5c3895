from __future__ import annotations

from pathlib import Path

from fascicle.datatypes.image import ROUTES, Uint8
from fascicle.datatypes.image.settings import VOXEL_TYPES

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "images.md").read_text()


def test_every_route_type_and_setting_is_documented() -> None:
    for route in ROUTES:
        for method in route.handlers:
            if method in ("GET", "POST") and (route.keyword, method) != ("isotropic", "POST"):
                assert f"`{method} {route.keyword}" in PAGE, (method, route.keyword)
    for typename in VOXEL_TYPES:
        assert f"`{typename}`" in PAGE
    for name in Uint8().create({}):
        assert f"`{name}`" in PAGE or name == "GridStore"
