"""Meshes and skeletons that are made here, static and live, read by CloudVolume."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fascicle
from fascicle.server.static_host import application, running
from sample_repo import SampleRepo
from static_samples import RESOLUTION, labels_zyx

pytestmark = pytest.mark.slow

BODIES = (1, 5, 2**63 + 5)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same labels with meshes and skeletons of all kinds."""
    folder = tmp_path_factory.mktemp("shapes")
    np.save(folder / "labels.npy", labels_zyx())
    kinds: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "multires": ({"sharded": False}, {"sharded": False}),
        "sharded": ({"sharded": True}, {"sharded": True}),
        "legacy": ({"format": "legacy"}, {"sharded": False}),
    }
    for name, (meshes, skeletons) in kinds.items():
        place = str(folder / name)
        fascicle.convert(str(folder / "labels.npy"), place, kind="segmentation", scales=0, resolution_nm=RESOLUTION)
        fascicle.mesh(place, f"{place}/mesh", workers=1, error_nm=4, **meshes)
        fascicle.skeletonize(place, f"{place}/skeletons", workers=1, dust=10, constant_nm=50, **skeletons)
    return folder


@pytest.fixture(scope="module")
def url(root: Path) -> Iterator[str]:
    with running(application(root)) as base:
        yield base


def opened(address: str) -> Any:
    cloudvolume = pytest.importorskip("cloudvolume")
    place = address if address.startswith("file://") else f"precomputed://{address}"
    return cloudvolume.CloudVolume(place, progress=False, cache=False)


def one(found: Any, body: int) -> Any:
    return found[body] if isinstance(found, dict) else found


def enclosed_nm3(mesh: Any) -> float:
    """The volume inside of a closed mesh."""
    a, b, c = (mesh.vertices[mesh.faces[:, i]].astype(float) for i in range(3))
    return float(abs(np.einsum("ij,ij->i", a, np.cross(b, c)).sum()) / 6)


def box_nm(labels: np.ndarray, body: int) -> tuple[np.ndarray, np.ndarray]:
    """Where a body begins and ends, x, y, z."""
    at = np.argwhere(labels == body)[:, ::-1]
    return at.min(0) * RESOLUTION, (at.max(0) + 1) * RESOLUTION


@pytest.mark.parametrize("kind", ["multires", "sharded", "legacy"])
@pytest.mark.parametrize("transport", ["file", "http"])
def test_meshes(root: Path, url: str, kind: str, transport: str) -> None:
    volume = opened(f"file://{root / kind}" if transport == "file" else f"{url}/{kind}")
    labels = labels_zyx()
    for body in BODIES:
        mesh = one(volume.mesh.get(body), body)
        low, high = box_nm(labels, body)
        assert np.abs(mesh.vertices.min(0) - low).max() <= 8.5  # half a voxel of 16 nm, and quantization
        assert np.abs(mesh.vertices.max(0) - high).max() <= 8.5
        wanted = (labels == body).sum() * np.prod(RESOLUTION)
        assert 0.9 < enclosed_nm3(mesh) / wanted < 1.1


@pytest.mark.parametrize("kind", ["multires", "sharded"])
@pytest.mark.parametrize("transport", ["file", "http"])
def test_skeletons(root: Path, url: str, kind: str, transport: str) -> None:
    volume = opened(f"file://{root / kind}" if transport == "file" else f"{url}/{kind}")
    labels = labels_zyx()
    for body in BODIES:
        skeleton = volume.skeleton.get(body)
        check_skeleton(skeleton, *box_nm(labels, body))


def check_skeleton(skeleton: Any, low: np.ndarray, high: np.ndarray) -> None:
    """A tree within a body."""
    assert len(skeleton.vertices) > 1
    assert len(skeleton.edges) == len(skeleton.vertices) - 1
    assert (skeleton.vertices >= low).all()
    assert (skeleton.vertices <= high).all()
    assert (skeleton.radius > 0).all()


def test_live_shapes(sample_repo: SampleRepo) -> None:
    """Made when they are asked for, from the bodies of the version."""
    address = f"{sample_repo.url}/precomputed/{sample_repo.root}/master/segmentation"
    volume = opened(address)
    assert volume.info["mesh"]
    assert volume.info["skeletons"]
    labels = sample_repo.bodies_zyx
    ids, sizes = np.unique(labels[labels != 0], return_counts=True)
    unit = np.array(volume.resolution)
    for body in ids[np.argsort(-sizes)[:2]].tolist():
        at = np.argwhere(labels == body)[:, ::-1]
        low, high = at.min(0) * unit, (at.max(0) + 1) * unit
        mesh = one(volume.mesh.get(body), body)
        assert np.abs(mesh.vertices.min(0) - low).max() <= 2 * unit.max()
        assert np.abs(mesh.vertices.max(0) - high).max() <= 2 * unit.max()
        wanted = (labels == body).sum() * np.prod(unit)
        assert 0.85 < enclosed_nm3(mesh) / wanted < 1.15
        check_skeleton(volume.skeleton.get(body), low, high)
