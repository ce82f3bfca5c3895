"""What a browser gets outside of /api."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from fascicle.server.viewer import PAGE_PATH, respond, state_url, viewer_url


def _body(path: str) -> bytes:
    answer = respond(path)
    assert answer is not None
    assert answer.status == 200
    assert isinstance(answer.body, bytes)
    return answer.body


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str | None] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "script":
            self.scripts.append(found.get("src"))
        elif tag == "link":
            self.links.append(found.get("href") or "")


def _links(page: bytes) -> _Links:
    parser = _Links()
    parser.feed(page.decode())
    return parser


def test_page_runs_our_script_before_the_unmodified_client() -> None:
    page = _links(_body(PAGE_PATH))
    assert page.scripts[0] is None
    assert len(page.scripts) > 2
    assert all(page.scripts[1:])
    for name in [*page.scripts[1:], *page.links]:
        assert _body(f"{PAGE_PATH}{name}")


def test_client_files_are_those_of_the_package() -> None:
    from importlib.util import find_spec
    from pathlib import Path

    spec = find_spec("neuroglancer")
    assert spec is not None
    folder = Path(spec.submodule_search_locations[0]) / "static" / "client"  # type: ignore[index]
    for entry in folder.iterdir():
        if entry.name != "index.html":
            assert _body(PAGE_PATH + entry.name) == entry.read_bytes()


@pytest.mark.parametrize(
    ("pattern", "kind"),
    [(r"main\..*\.js$", "text/javascript"), (r"main\..*\.css$", "text/css"), (r".*\.wasm$", "application/wasm")],
)
def test_types_and_caching(pattern: str, kind: str) -> None:
    from fascicle.server.viewer import _client_names

    names = [name for name in _client_names() if re.match(pattern, name)]
    assert names
    for name in names:
        answer = respond(PAGE_PATH + name)
        assert answer is not None
        assert (answer.content_type or "").startswith(kind)
        assert dict(answer.headers)["Cache-Control"].endswith("immutable")
    page = respond(PAGE_PATH)
    assert page is not None
    assert dict(page.headers)["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(
    ("path", "to"),
    [
        ("/neuroglancer", PAGE_PATH),
        ("/neuroglancer/", PAGE_PATH),
        ("/neuroglancer/v/here", PAGE_PATH),
        ("/neuroglancer/v/a b", "/neuroglancer/v/a%20b/"),
    ],
)
def test_redirects(path: str, to: str) -> None:
    answer = respond(path)
    assert answer is not None
    assert answer.status == 302
    assert dict(answer.headers)["Location"] == to


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/neuroglancerx",
        "/neuroglancer/v/",
        "/neuroglancer/x/here/",
        PAGE_PATH + "nothing.js",
        PAGE_PATH + "..",
        PAGE_PATH + "../__init__.py",
        "/neuroglancer/v/here/../../__init__.py",
        PAGE_PATH + "/etc/passwd",
    ],
)
def test_nothing_else_is_there(path: str) -> None:
    assert respond(path) is None


def test_console_needs_nothing_from_elsewhere() -> None:
    page = _body("/").decode()
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert "<title>Fascicle</title>" in page
    assert b"<svg" in _body("/favicon.ico")


def test_link_holds_the_state() -> None:
    url = viewer_url(
        "http://127.0.0.1:8000/",
        "3f2:master",
        "grayscale",
        "segmentation",
        resolution_nm=(8, 8, 40),
        position_xyz=(1.5, 2.5, 3.5),
        cross_section_scale=0.5,
        segments=[2**63 + 1],
        showScaleBar=False,
    )
    start, state = url.split("#!")
    assert start == "http://127.0.0.1:8000" + PAGE_PATH
    found = json.loads(unquote(state))
    assert [layer["source"] for layer in found["layers"]] == [
        "dvid://http://127.0.0.1:8000/3f2:master/grayscale",
        "dvid://http://127.0.0.1:8000/3f2:master/segmentation",
    ]
    assert found["layers"][1]["segments"] == ["9223372036854775809"]
    assert found["dimensions"]["z"] == [pytest.approx(4e-8), "m"]
    assert found["position"] == [1.5, 2.5, 3.5]
    assert found["showScaleBar"] is False


def test_link_of_any_state_is_safe_in_a_shell_and_a_page() -> None:
    url = state_url("http://h:1", {"title": 'it\'s <b>"x"</b> & more #!'})
    assert re.fullmatch(r"[A-Za-z0-9:/._#!%~-]+", url)


def test_the_package_itself_is_not_imported() -> None:
    code = (
        "import sys; from fascicle.server.viewer import respond; respond('/neuroglancer/v/here/');"
        "sys.exit('neuroglancer' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
