"""The command line: what commands print, exit codes, and how fast help comes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fascicle.cli import translated


def run(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    code = "from fascicle.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stderr
    return done


def test_repos_backup_and_check(tmp_path: Path) -> None:
    data, copy = str(tmp_path / "data"), str(tmp_path / "copy")
    root = run("repo", "new", "medulla", "seven columns", "--data", data).stdout.strip()
    assert root in run("repo", "list", "--data", data).stdout
    assert json.loads(run("repo", "info", root[:8], "--data", data).stdout)["Alias"] == "medulla"
    run("backup", copy, "--data", data)
    assert "no faults" in run("check", "--data", copy).stdout
    assert root in run("repo", "list", "--data", copy).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing",),
        ("serve", "--full-write", "--read-only"),
        ("-fullwrite", "-readonly", "serve"),
        ("serve", "missing.toml"),
        ("serve", "--http", "nowhere"),
        ("serve", "--workers", "0"),
        ("repo", "list", "--data", "missing"),
        ("repo", "new"),
        ("check", "--data", "missing"),
        ("backup", "x", "--data", "missing"),
    ],
)
def test_bad_input_ends_with_one_line_and_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments, status=2)
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_lists_the_commands_without_importing_them() -> None:
    code = "import sys\nsys.argv = ['fascicle', '--help']\nfrom fascicle.cli import main\n"
    code += "try: main()\nfinally: print(sorted(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout
    for command in ("serve", "demo", "ingest", "repo", "backup", "check", "about"):
        assert f"  {command}" in shown
    for module in ("numpy", "numba", "uvicorn", "lmdb", "msgspec"):
        assert f"'{module}'" not in shown


def test_flags_in_the_form_of_dvid() -> None:
    assert translated(["-fullwrite", "serve", "x.toml"]) == ["serve", "--full-write", "x.toml"]
    assert translated(["-verbose", "-readonly", "serve"]) == ["serve", "--verbose", "--read-only"]
    assert translated(["--help"]) == ["--help"]
    assert translated(["serve", "--http", "1"]) == ["serve", "--http", "1"]


def test_about_names_versions() -> None:
    assert "fascicle " in run("about").stdout
