"""`fascicle demo` from the outside."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from fascicle.pipeline.demo_repo import Server
from serving import command, free_port

LIMIT_S = 120.0
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.endswith("_ADMIN_TOKEN")}


def _run(*options: str) -> subprocess.CompletedProcess[str]:
    words = [*command(), "demo", *options]
    return subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, env=ENVIRONMENT, check=False)


@contextmanager
def _demo(temporary: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A running demo and the link that it printed."""
    address = f"127.0.0.1:{free_port()}"
    running = subprocess.Popen(
        [*command(), "demo", "--no-browser", "--http", address, *options],
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT | {"TMPDIR": str(temporary)},
        start_new_session=True,
    )
    try:
        assert running.stdout is not None
        link = next((line.strip() for line in running.stdout if line.startswith("http")), "")
        assert link.startswith(f"http://{address}/neuroglancer/")
        yield link, running
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def _state(link: str) -> dict[str, Any]:
    """The state that the part of the link after `#!` names."""
    base, _, path = link.partition("#!")[2].partition("/api/")
    found: dict[str, Any] = Server(base).json("GET", f"/api/{path}")
    return found


def test_port_in_use_is_one_line_and_exit_2() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = _run("--no-browser", "--http", f"127.0.0.1:{taken.getsockname()[1]}")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert "in use" in ended.stderr


@pytest.mark.parametrize("options", [("--http", "nonsense"), ("--volume", "/does/not/exist"), ("--unknown",)])
def test_bad_options_are_exit_2(options: tuple[str, ...]) -> None:
    ended = _run("--no-browser", *options)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr


def test_folder_without_labels_ends_with_one_reason(tmp_path: Path) -> None:
    ended = _run("--no-browser", "--http", f"127.0.0.1:{free_port()}", "--volume", str(tmp_path))
    assert ended.returncode == 1
    assert "holds no label volume" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_demo_shows_a_segmented_brain_and_leaves_nothing_behind(tmp_path: Path) -> None:
    began = time.monotonic()
    with _demo(tmp_path) as (link, running):
        assert time.monotonic() - began < LIMIT_S
        state = _state(link)
        assert [layer["name"] for layer in state["layers"][2:]] == ["regions", "synapses", "bookmarks", "to do"]
        sources = [layer["source"] for layer in state["layers"][:2]]
        repo, version, name = sources[1].rsplit("/", 3)[-3:]
        server = Server(link.partition("/neuroglancer")[0])
        node = f"/api/node/{repo}:{version}"
        assert all(source.startswith(f"precomputed://{server.base_url}/precomputed/") for source in sources)
        assert [source.rsplit("/", 1)[-1] for source in sources] == ["grayscale", name] == ["grayscale", "segmentation"]
        info = server.json("GET", f"{node}/{name}/info")["Extended"]
        assert info["MaxPoint"] == [255, 255, 255]
        assert info["MaxDownresLevel"] >= 2
        bodies = server.json("GET", f"{node}/{name}/sizes", [int(body) for body in state["layers"][1]["segments"]])
        assert len(bodies) >= 10
        assert min(bodies) > 10_000
        supervoxels = server.json("GET", f"{node}/{name}/supervoxels/{state['layers'][1]['segments'][0]}")
        assert len(supervoxels) > 1
        _check_annotations(server, node, state)
        for scale in range(info["MaxDownresLevel"] + 1):
            query = f"?compression=googlegzip&scale={scale}"
            assert server.request("GET", f"{node}/{name}/raw/0_1_2/64_64_64/0_0_0{query}")
        assert server.request("GET", "/neuroglancer/v/here/")
        versions = server.json("GET", "/api/repos/info")
        (repo,) = versions.values()
        assert sorted(version["Locked"] for version in repo["DAG"]["Nodes"].values()) == [False, True]
        os.killpg(running.pid, signal.SIGTERM)
        assert running.wait(30) == 0
    assert list(tmp_path.iterdir()) == []


def _check_annotations(server: Server, node: str, state: dict[str, Any]) -> None:
    """Synapses, counts, regions, bodies and notes are there and agree with each other."""
    blocks = server.json("GET", f"{node}/synapses/all-elements")
    kinds = [element["Kind"] for block in blocks.values() for element in block]
    assert kinds.count("PreSyn") > 300
    lines = state["layers"][3]["source"].partition("://")[2].partition("/precomputed")[2]
    info = server.json("GET", f"/precomputed{lines}/info")
    assert [relation["id"] for relation in info["relationships"]] == ["presynaptic", "postsynaptic"]
    assert kinds.count("PostSyn") > 1000
    (most,) = server.json("GET", f"{node}/synapses_labelsz/top/1/PreSyn")
    of_body = server.json("GET", f"{node}/synapses/label/{most['Label']}")
    assert [element["Kind"] for element in of_body].count("PreSyn") == most["Size"] > 1
    assert len(server.json("GET", f"{node}/a'L(R)/roi")) > 1
    assert {"AB(L)", "a'L(R)"} <= set(server.json("GET", f"{node}/rois/keys"))
    known = server.json("GET", f"{node}/segmentation_annotations/key/{most['Label']}")
    assert known["bodyid"] == most["Label"]
    assert len(server.json("GET", f"{node}/segmentation_annotations/keys")) > 100
    assert server.json("GET", f"{node}/bookmark_annotations/tag/user:demo")
    assert server.json("GET", f"{node}/segmentation_todo/all-elements")
    assert server.request("GET", f"{node}/segmentation_skeletons/key/{most['Label']}_swc").startswith(b"#")


@pytest.mark.slow
def test_data_are_kept_with_their_edits(tmp_path: Path) -> None:
    data = tmp_path / "kept"
    with _demo(tmp_path, "--data", str(data)) as (link, running):
        server = Server(link.partition("/neuroglancer")[0])
        repo, version = _state(link)["layers"][1]["source"].rsplit("/", 3)[-3:-1]
        first, second = _state(link)["layers"][1]["segments"][:2]
        server.json("POST", f"/api/node/{repo}:{version}/segmentation/merge", [int(first), int(second)])
        os.killpg(running.pid, signal.SIGINT)
        assert running.wait(30) == 0
    began = time.monotonic()
    with _demo(tmp_path, "--data", str(data)) as (link, _):
        assert time.monotonic() - began < 15
        server = Server(link.partition("/neuroglancer")[0])
        assert len(server.json("GET", "/api/repos/info")) == 1
        sizes = server.json("GET", f"/api/node/{repo}:{version}/segmentation/sizes", [int(first), int(second)])
        assert sizes[0] > sizes[1] == 0
