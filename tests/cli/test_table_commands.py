"""`fascicle init`, `import` and `export` from the outside: on a server and on a folder, and what bad input leads to."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from serving import TOKEN, RunningServer, command

ENVIRONMENT = os.environ | {"FASCICLE_ADMIN_TOKEN": TOKEN}


def _run(*words: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    line = [*command(), *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, env=ENVIRONMENT, check=False)
    assert done.returncode == status, done.stderr
    return done


def test_a_server_is_made_ready_filled_and_read(server: RunningServer, tmp_path: Path) -> None:
    place = ("--server", server.url, "--repo", "tables over http")
    assert "instances made" in _run("init", "--profile", "proofreading", *place, "--roi", "EB").stdout
    synapses, regions, neurons = tmp_path / "synapses.csv", tmp_path / "rois.json", tmp_path / "neurons.csv"
    synapses.write_text("x,y,z,kind,conf,user,body,tags,props,rels\n1,2,3,PreSyn,0.9,me,0,,,PreSynTo 4 5 6\n")
    regions.write_text('{\n"EB": [[1,2,3,4]]\n}\n')
    neurons.write_text("bodyid,type\n7,KC\n")
    for kind, table in (("synapses", synapses), ("rois", regions), ("neuronjson", neurons)):
        _run("import", kind, table, *place)
        copy = tmp_path / f"copy of {table.name}"
        done = _run("export", kind, copy, *place)
        assert copy.read_bytes() == table.read_bytes()
        assert str(copy) in done.stdout
    assert "0 instances made, 0 changed" in _run("init", "--profile", "proofreading", *place, "--roi", "EB").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("import", "synapses", "BAD", "--data", "DB", "--repo", "x"), "BAD, line 2: z is 'c', not a whole number"),
        (("import", "synapses", "BAD", "--data", "DB", "--repo", "other"), "no repo with the alias 'other'"),
        (("import", "synapses", "BAD", "--data", "DB"), "name either a version (--uuid) or a repo (--repo)"),
        (("import", "synapses", "BAD", "--repo", "x"), "name either a folder (--data) or a server (--server)"),
        (("import", "synapses", "missing.csv", "--data", "DB", "--repo", "x"), "missing.csv"),
        (("import", "rois", "BAD", "--data", "DB", "--repo", "x"), "no column x0"),
        (("export", "synapses", "out.csv", "--data", "nowhere", "--repo", "x"), "there is no store in nowhere"),
        (("export", "neuronjson", "out.xls", "--data", "DB", "--repo", "x"), ".csv, .json or .parquet"),
        (("export", "rois", "out.csv", "--data", "DB", "--repo", "x", "--instance", "EB"), "there is no instance 'EB'"),
        (("init", "--profile", "mouse", "--data", "DB", "--repo", "x"), "mouse"),
        (("init", "--profile", "hemibrain", "--server", "ftp://x", "--repo", "x"), "is no address of a server"),
    ],
)
def test_bad_input_ends_with_one_line_and_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("BAD.csv").write_text("x,y,z\n1,2,c\n")
    if "DB" in words:
        _run("repo", "new", "x", "--data", "DB")
    done = _run(*(word.replace("BAD", "BAD.csv") for word in words), status=2)
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert said.replace("BAD", "BAD.csv") in done.stderr
    assert not list(tmp_path.glob("out*"))
