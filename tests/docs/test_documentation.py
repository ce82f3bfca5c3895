"""The documentation says what there is, all of it, and its commands do what it says."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import textwrap
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from fascicle.config import LoggingSettings, ServerSettings
from serving import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
PAGES = sorted([*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md"), *(REPOSITORY / "bench").glob("*.md")])


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = spec_from_file_location("make_reference", DOCS / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["api.md", "commands.md"])
def test_generated_page_is_current(reference: ModuleType, name: str) -> None:
    written = (DOCS / name).read_text()
    assert written == reference.PAGES[name](), f"docs/{name} is out of date: run python docs/make_reference.py"


def test_every_route_is_on_the_page(reference: ModuleType) -> None:
    from fascicle.datatypes import registry
    from fascicle.server import instance_routes, server_routes

    page = (DOCS / "api.md").read_text()
    for typename in registry.typenames():
        assert f"`{typename}`" in page
        for route in instance_routes.routes(typename):
            assert f"/api/node/<UUID>/<name>/{route.keyword}" in page
            assert route.summary.strip(), f"{typename} {route.keyword} has no summary"
    for path in server_routes._TABLE:
        assert reference.SERVER[path]


def test_every_option_has_a_help_text(reference: ModuleType) -> None:
    import click

    for words, command in reference.commands():
        assert command.help, f"{words} has no help text"
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{words} {parameter.opts} has no help text"


@pytest.mark.parametrize("kind", [ServerSettings, LoggingSettings])
def test_every_setting_is_documented_with_its_default(kind: type[msgspec.Struct]) -> None:
    page = (DOCS / "server.md").read_text()
    for member in msgspec.structs.fields(kind):
        assert re.search(rf"^\| `{member.name}` \|", page, re.MULTILINE), f"{member.name} is not in docs/server.md"


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "index.md").read_text()
    for page in DOCS.glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in index, f"docs/index.md does not link {page.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith(("http:", "https:", "#", "mailto:")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name} links {target}"


def test_pictures_are_small() -> None:
    pictures = list((DOCS / "images").glob("*.png"))
    assert len(pictures) >= 3
    assert all(picture.stat().st_size < 400_000 for picture in pictures)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_python_in_the_text_parses(page: Path) -> None:
    for block in re.findall(r"^ *```python\n(.*?)```", page.read_text(), re.DOTALL | re.MULTILINE):
        ast.parse(textwrap.dedent(block))


def test_readme_starts_with_what_it_is_a_picture_and_two_commands() -> None:
    first_screen = "\n".join((REPOSITORY / "README.md").read_text().splitlines()[:20])
    assert "![" in first_screen
    assert "pip install . && fascicle demo" in first_screen
    assert "pip install '.[dev]' && pytest" in first_screen


@pytest.mark.slow
def test_first_steps_can_be_taken(tmp_path: Path) -> None:
    page = (DOCS / "quickstart.md").read_text()
    port = free_port()
    script = "set -e\n" + "\n".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL))
    script = script.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    script = script.replace("fascicle serve", f"fascicle serve --http 127.0.0.1:{port}", 1)
    script = script.replace("curl -s ", "curl -sS --fail-with-body ")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("FASCICLE_ADMIN_TOKEN", None)
    running = subprocess.Popen(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        status = running.wait(240)
    finally:
        os.killpg(running.pid, signal.SIGTERM)
    assert running.stdout is not None
    said = running.stdout.read()
    assert status == 0, said
    order = ['{"Label": 3}', '{"voxels": 257344}', '{"Label": 1}', '{"Label": 3}', "[1,3]", "CleavedLabel", "no faults"]
    rest = said
    for answer in order:
        assert answer in rest, f"{answer} is missing, or not in its place:\n{said}"
        rest = rest.partition(answer)[2]
    assert (tmp_path / "slice.png").read_bytes().startswith(b"\x89PNG")
