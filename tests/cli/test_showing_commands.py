"""`fascicle host`, `view` and `shot` on the command line."""

from __future__ import annotations

import gzip
import io
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from fascicle.cli import main
from serving import free_port
from static_samples import gray_zyx, labels_zyx, write_volume

CODE = "from fascicle.cli import main; main()"


@dataclass
class Done:
    stdout: str
    stderr: str


def run(*arguments: str, status: int = 0) -> Done:
    """A command in this process."""
    out, errors = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["fascicle", *arguments]
    try:
        with redirect_stdout(out), redirect_stderr(errors), pytest.raises(SystemExit) as ended:
            main()
    finally:
        sys.argv = before
    assert (ended.value.code or 0) == status, errors.getvalue()
    return Done(out.getvalue(), errors.getvalue())


@contextmanager
def started(*arguments: str) -> Iterator[str]:
    """A command that goes on until it is interrupted; gives its first line."""
    process = subprocess.Popen([sys.executable, "-c", CODE, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) in (0, -signal.SIGINT, 130)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shown") / "data"
    folder.mkdir()
    write_volume(folder / "gray", gray_zyx())
    write_volume(folder / "seg", labels_zyx(), "compressed_segmentation")
    return folder


def test_host(root: Path) -> None:
    port = free_port()
    with started("host", str(root), "--http", f"127.0.0.1:{port}", "--listing") as line:
        assert f"http://127.0.0.1:{port}/" in line
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/gray/info") as answer:
            assert json.load(answer)["data_type"] == "uint8"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/gray/") as answer:
            assert b'href="info"' in answer.read()


def test_settings_of_other_servers(root: Path) -> None:
    assert f'root "{root}";' in run("host", str(root), "--nginx").stdout
    assert "listen 0.0.0.0:81;" in run("host", str(root), "--nginx", "--http", "0.0.0.0:81").stdout
    assert json.loads(run("host", "--s3-cors").stdout)["CORSRules"]
    assert json.loads(run("host", "--gcs-cors", "--origin", "https://a.org").stdout)[0]["origin"] == ["https://a.org"]
    assert json.loads(run("host", "--s3-policy", "bucket/x").stdout)["Statement"]
    assert "my-bucket/*" in run("host", "--s3-policy").stdout
    assert "theirs/em/*" in run("host", "s3://theirs/em", "--s3-policy").stdout


def test_fixing_names(tmp_path: Path) -> None:
    (tmp_path / "info.gz").write_bytes(gzip.compress(b"{}"))
    assert "info.gz -> info" in run("host", str(tmp_path), "--fix-names", "--dry-run").stdout
    assert (tmp_path / "info.gz").exists()
    run("host", str(tmp_path), "--fix-names")
    assert (tmp_path / "info").read_bytes() == b"{}"
    (tmp_path / "info.gz").write_bytes(gzip.compress(b"{}"))
    assert "left alone" in run("host", str(tmp_path), "--fix-names", status=1).stderr


def test_view(root: Path, tmp_path: Path) -> None:
    link = run("view", str(root / "gray"), str(root / "seg"), "--at", "https://lab.org/d", "--segments", "3,5").stdout
    assert link.startswith("https://neuroglancer-demo.appspot.com/#!")
    assert "https://lab.org/d/gray" in link
    state = json.loads(run("view", str(root / "gray"), "--at", "https://lab.org/d", "--json", "--layout", "xz").stdout)
    assert state["layout"] == "xz"
    saved = tmp_path / "state.json"
    run("view", str(root / "gray"), "--at", "https://lab.org/d", "--save", str(saved), "--viewer", "https://v.org/")
    assert json.loads(saved.read_text())["layers"][0]["name"] == "gray"
    with started("view", str(root / "gray"), "--short") as link:
        page, _, address = link.partition("#!")
        with urllib.request.urlopen(address) as answer:
            state = json.load(answer)
        with urllib.request.urlopen(page) as answer:
            assert b"<script" in answer.read()
        with urllib.request.urlopen(state["layers"][0]["source"].removeprefix("precomputed://") + "/info") as answer:
            assert answer.status == 200


def test_shot(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    said = run("shot", str(root / "gray"), str(root / "seg"), str(path), "--plane", "yz", "--size", "120,80").stdout
    assert "120 x 80" in said
    assert Image.open(path).size == (120, 80)
    run("shot", str(root / "seg"), str(path), "--plane", "3d", "--renderer", "voxels", "--size", "100x90")
    assert Image.open(path).size == (100, 90)


@pytest.mark.parametrize(
    "arguments",
    [
        ("host",),
        ("host", "missing"),
        ("host", ".", "--http", "nowhere"),
        ("host", "--s3-cors", "--gcs-cors"),
        ("host", "--s3-policy", "A_"),
        ("host", ".", "--dry-run"),
        ("host", "missing", "--fix-names"),
        ("host", ".", "--nginx", "--origin", "a", "--origin", "b"),
        ("view",),
        ("view", "missing"),
        ("view", ".", "--json"),
        ("view", "gs://x/y", "--instance", "z"),
        ("view", "--server", "localhost:1"),
        ("view", ".", "--segments", "a,b"),
        ("view", ".", "--range", "5"),
        ("view", "https://x.org/y", "--short"),
        ("shot", "a.png"),
        ("shot", "missing", "a.png"),
        ("shot", "missing", "a.png", "--size", "0,5"),
    ],
)
def test_bad_input_ends_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments, status=2)
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert list(tmp_path.iterdir()) == []
