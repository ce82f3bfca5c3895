"""Volumes of versions, as jobs open them: from a store folder, from a server, and by worker processes."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from fascicle.errors import BadRequest, NotFound
from fascicle.pipeline.ingest import IngestOptions, ingest
from fascicle.pipeline.ingest_connections import LocalConnection
from fascicle.pipeline.journal import Journal, JournalError
from fascicle.pipeline.sources import SourceSpec, pinned
from fascicle.pipeline.tasks import Job, Task, TaskError, run_tasks
from fascicle.volumes import Pyramid, VolumeError, open_volume
from serving import RunningServer

SHAPE = (70, 100, 130)


@pytest.fixture(scope="module")
def voxels() -> np.ndarray:
    rng = np.random.default_rng(5)
    return np.kron(rng.integers(0, 50, (7, 10, 13)), np.ones((10, 10, 10), np.int64)).astype(np.uint32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, voxels: np.ndarray) -> Path:
    """A store with labels and an image that begin at x, y, z = 64, 0, -64."""
    folder = tmp_path_factory.mktemp("sources")
    np.save(folder / "labels.npy", voxels)
    np.save(folder / "gray.npy", voxels.astype(np.uint8))
    with LocalConnection(folder / "db") as connection:
        for name, file in (("segmentation", "labels.npy"), ("grayscale", "gray.npy")):
            options = IngestOptions(instance=name, repo="r", offset_xyz=(64, 0, -64), resolution_nm=(4, 4, 40))
            with open_volume(str(folder / file)) as source:
                ingest(connection, source, options, folder / f"{name}.jsonl", lambda *_: None)
    return folder / "db"


def whole(pyramid: Pyramid, scale: int = 0) -> np.ndarray:
    source = pyramid.scales[scale]
    return source.read((0, 0, 0), source.shape_zyx)


@pytest.mark.parametrize("name", ["segmentation", "grayscale"])
def test_a_version_of_a_folder(store: Path, voxels: np.ndarray, name: str) -> None:
    with pinned(SourceSpec(data=str(store), repo="r", instance=name)).open() as pyramid:
        first = pyramid.scales[0]
        assert (first.shape_zyx, first.offset_xyz, first.resolution_nm) == (SHAPE, (64, 0, -64), (4, 4, 40))
        assert np.array_equal(whole(pyramid), voxels)
        part = first.read((3, 60, 10), (66, 70, 99))
        assert np.array_equal(part, voxels[3:66, 60:70, 10:99])
        assert len(pyramid.scales) > 1
        cells = first.chunk((1, 1, 1))
        assert cells is not None
        assert np.array_equal(cells, voxels[64:, 64:, 64:128])


def test_a_version_of_a_server(store: Path, voxels: np.ndarray, tmp_path: Path) -> None:
    server = RunningServer(store)
    server.start()
    with ExitStack() as stack:
        stack.callback(server.kill9)
        spec = SourceSpec(server=server.url, repo="r", instance="segmentation", supervoxels=True)
        with spec.open() as pyramid:
            assert np.array_equal(whole(pyramid), voxels)


def test_what_cannot_be_opened(store: Path) -> None:
    for spec, error, text in (
        (SourceSpec(), BadRequest, "either an address"),
        (SourceSpec(data=str(store), repo="r"), BadRequest, "name the instance"),
        (SourceSpec(data=str(store), instance="segmentation"), BadRequest, "the repo or the version"),
        (SourceSpec(data=str(store), repo="r", instance="x"), NotFound, "'x'"),
        (SourceSpec(data=str(store), repo="q", instance="x"), NotFound, "'q'"),
        (SourceSpec(data=str(store / "no"), repo="q", instance="x"), VolumeError, "no store"),
    ):
        with pytest.raises(error, match=text):
            spec.open()


def total(pyramid: Pyramid, start: list[int]) -> int:
    z, y, x = start
    if z > 1000:
        raise BadRequest("there are no such slices")
    return int(pyramid.scales[0].read((z, y, x), (z + 10, y + 10, x + 10)).sum())


@pytest.mark.parametrize("workers", [1, 2])
def test_tasks_are_done_once(store: Path, voxels: np.ndarray, tmp_path: Path, workers: int) -> None:
    spec = SourceSpec(data=str(store), repo="r", instance="segmentation")
    starts = [[z, y, 0] for z in range(0, 70, 10) for y in range(0, 100, 50)]
    tasks = [Task(f"box {start}", start) for start in starts]
    job = Job(SourceSpec.open, spec, total)
    seen: list[tuple[str, int, int]] = []
    journal = Journal(tmp_path / "journal", {"job": "sums"})
    with pytest.raises(TaskError, match="bad: there are no such slices"):
        run_tasks([*tasks[:3], Task("bad", [2000, 0, 0])], job, journal, workers=workers)
    journal.close()
    journal = Journal(tmp_path / "journal", {"job": "sums"})
    done = len(journal.done)
    found = run_tasks(tasks, job, journal, stage="s", workers=workers, progress=lambda *at: seen.append(at))
    assert found == {f"box {[z, y, x]}": int(voxels[z : z + 10, y : y + 10, :10].sum()) for z, y, x in starts}
    assert seen[0] == ("s", done, len(tasks))
    assert seen[-1] == ("s", len(tasks), len(tasks))
    assert len(seen) == 1 + len(tasks) - done
    journal.close()


def test_a_job_is_done_by_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first = Journal(path, {"job": "a"})
    first.add("step")
    with pytest.raises(JournalError, match="another process is doing this job"):
        Journal(path, {"job": "a"})
    first.close()
    with path.open("ab") as file:
        file.write(b'{"step":"cut o')
    second = Journal(path, {"job": "a"})
    assert list(second.done) == ["step"]
    second.add("next")
    second.close()
    third = Journal(path, {"job": "a"})
    assert list(third.done) == ["step", "next"]
    third.close()
    with pytest.raises(JournalError, match="another job"):
        Journal(path, {"job": "b"})
    third = Journal(path, {"job": "a"})  # not locked by the one that was refused
    third.close()
