"""`kill -9` of jobs at random moments: a second run finishes, with the bytes of one that nobody disturbed.

Each round starts a job in an empty folder, kills it and all of its processes at a random moment, and gives the same
command again. FASCICLE_JOB_ROUNDS says how many rounds there are in total (default 30), FASCICLE_SEED seeds them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from threading import Timer
from typing import Any

import numpy as np
import pytest

from fascicle.pipeline.ingest_connections import LocalConnection
from fascicle.pipeline.sources import SourceSpec

ROUNDS = int(os.environ.get("FASCICLE_JOB_ROUNDS", "30"))
SEED = int(os.environ.get("FASCICLE_SEED", "1"))
JOBS = ("ingest", "convert", "export_shards", "export_files", "mesh", "skeletonize", "mirror")
LIMIT_S = 60.0
"""A job that takes longer hangs."""


class JobRunner:
    """The process of `job_process`."""

    def __init__(self, sources: Path) -> None:
        sources.mkdir(exist_ok=True)
        here = Path(__file__).parent
        self._log = (sources / "log").open("w")
        self._process = subprocess.Popen(
            [sys.executable, str(here / "job_process.py"), str(sources)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
        )  # fmt: skip
        assert self._line() == "ready", self.log()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def _ask(self, **asked: Any) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._line()

    def run_here(self, job: str, out: Path) -> float:
        """Run a job in the process itself; how long it took."""
        began = time.monotonic()
        assert self._ask(job=job, out=str(out), here=True) == "0", self.log()
        return time.monotonic() - began

    def run(self, job: str, out: Path, kill_after_s: float | None = None) -> bool:
        """Run a job in a child, maybe kill it; whether it came to its end."""
        child = int(self._ask(job=job, out=str(out)))
        killer = Timer(LIMIT_S if kill_after_s is None else kill_after_s, _kill, (child,))
        killer.start()
        status = int(self._line())
        killer.cancel()
        assert status == 0 or (os.WIFSIGNALED(status) and kill_after_s is not None), self.log()
        return status == 0

    def log(self) -> str:
        return Path(self._log.name).read_text()[-3000:]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()


def _kill(child: int) -> None:
    """A job with the processes that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobRunner]:
    running = JobRunner(tmp_path_factory.mktemp("sources"))
    yield running
    running.close()


def outcome(job: str, out: Path) -> dict[str, str]:
    """What a job left: hashes of the files that are not its own notes, or of all that a store answers."""
    if job == "ingest":
        return _answers(out / "db")
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_file() and not name.startswith(".") and path.suffix != ".jsonl":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _answers(store: Path) -> dict[str, str]:
    with LocalConnection(store) as connection:
        repos = connection.json("GET", "/api/repos/info")
        assert len(repos) == 1
        (repo,) = repos.values()
        assert list(repo["DataInstances"]) == ["segmentation"]
        root = f"/api/node/{repo['Root']}/segmentation"
        info = connection.json("GET", f"{root}/info")
        members = ("MinPoint", "MaxPoint", "MaxDownresLevel", "MaxRepoLabel")
        extended = {name: info["Extended"][name] for name in members}
        found = {"extended": json.dumps(extended, sort_keys=True)}
        for path in ("listlabels?sizes=true", "maxlabel", "mappings"):
            found[path] = hashlib.sha256(connection.request("GET", f"{root}/{path}")).hexdigest()
    with SourceSpec(data=str(store), repo="r", instance="segmentation").open() as labels:
        for level, scale in enumerate(labels.scales):
            cells = np.ndindex(*(-(-side // edge) for side, edge in zip(scale.shape_zyx, scale.chunk_zyx, strict=True)))
            chunks = [scale.chunk_bytes((z, y, x)) or b"" for z, y, x in cells]
            found[f"scale {level}"] = hashlib.sha256(b"|".join(chunks)).hexdigest()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_killed_jobs_end_as_if_nothing_had_happened(runner: JobRunner, tmp_path: Path, job: str) -> None:
    random = Random(f"{SEED} {job}")
    rounds = -(-ROUNDS // len(JOBS))
    runner.run_here(job, tmp_path / "first")
    expected = outcome(job, tmp_path / "first")
    began = time.monotonic()
    assert runner.run(job, tmp_path / "second")
    lasts = time.monotonic() - began
    assert outcome(job, tmp_path / "second") == expected
    assert expected
    killed = 0
    for number in range(3 * rounds):
        out = tmp_path / "killed"
        shutil.rmtree(out, ignore_errors=True)
        for path in tmp_path.glob(".*"):
            shutil.rmtree(path)
        ended = runner.run(job, out, random.random() * lasts)
        if not ended:
            assert runner.run(job, out)
            killed += 1
            found = outcome(job, out)
            assert found == expected, f"round {number} of {job}"
        if killed == rounds:
            return
    raise AssertionError(f"only {killed} of {3 * rounds} runs were killed before they had ended")
