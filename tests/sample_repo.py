"""A repo with a small generated brain on a real server, for tests of programs that talk to one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from rich.progress import Progress

from fascicle.pipeline.demo_repo import Server, fill, generated, new_repo
from fascicle.pipeline.sample_annotations import SampleAnnotations
from serving import TOKEN, RunningServer

SIZE_ZYX = (96, 112, 128)


@dataclass(frozen=True, slots=True)
class SampleRepo:
    """Where the brain is, and what it is. Arrays are `[z, y, x]`."""

    url: str
    root: str
    grayscale_zyx: np.ndarray
    supervoxels_zyx: np.ndarray
    bodies_zyx: np.ndarray
    notes: SampleAnnotations


@pytest.fixture(scope="session")
def sample_repo(server: RunningServer) -> SampleRepo:
    """The sample brain at the open root version of a repo: the instances of the profile for proofreading, filled."""
    volume = generated("sample for programs", SIZE_ZYX)
    connection = Server(server.url, TOKEN)
    root = new_repo(connection, volume)
    with Progress(disable=True) as progress:
        fill(connection, root, volume, progress)
    whole = ((0, 0, 0), SIZE_ZYX)
    supervoxels = volume.supervoxels.read(*whole)
    table = np.zeros(int(volume.supervoxel_ids.max()) + 1, np.uint64)
    table[volume.supervoxel_ids] = volume.body_ids
    assert volume.grayscale is not None
    assert volume.notes is not None
    return SampleRepo(server.url, root, volume.grayscale.read(*whole), supervoxels, table[supervoxels], volume.notes)
