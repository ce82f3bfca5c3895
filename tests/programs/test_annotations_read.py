"""Synapses, live and exported, read by Neuroglancer's own package; and what that package writes, read here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fascicle
from sample_repo import SampleRepo
from serving import RunningServer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reader() -> Any:
    return pytest.importorskip("neuroglancer.read_precomputed_annotations").AnnotationReader


def lines_of(sample: SampleRepo) -> dict[int, set[tuple[Any, Any]]]:
    """Body of the T-bar -> lines from T-bars to densities, as the HTTP API has them."""
    with fascicle.open(sample.url, version=sample.root) as version:
        elements = version["synapses"].all()
    found: dict[int, set[tuple[Any, Any]]] = {}
    for element in elements:
        x, y, z = element["Pos"]
        for relation in element["Rels"]:
            if relation["Rel"] == "PreSynTo":
                body = int(sample.bodies_zyx[z, y, x])
                found.setdefault(body, set()).add(((x, y, z), tuple(relation["To"])))
    return found


def ends(annotations: list[Any]) -> set[tuple[Any, Any]]:
    """The voxels at both ends of lines."""
    return {
        (tuple(np.floor(one.point_a).astype(int).tolist()), tuple(np.floor(one.point_b).astype(int).tolist()))
        for one in annotations
    }


def check(reader: Any, sample: SampleRepo) -> None:
    """By related body, by number and by space the package finds the lines that the HTTP API tells of."""
    wanted = lines_of(sample)
    assert reader.annotation_type == "line"
    presynaptic = next(related for name, related in reader.relationships.items() if name.startswith("pre"))
    for body, lines in wanted.items():
        if body:
            related = presynaptic[body]
            assert ends(related) == lines
            one = related[0]
            assert ends([reader.by_id[int(one.id)]]) == ends([one])
    placed: list[Any] = []
    for level, metadata in zip(reader.spatial, reader.metadata["spatial"], strict=True):
        for cell in np.ndindex(*metadata["grid_shape"]):
            placed += level.get(cell).result() or []
    assert ends(placed) == set().union(*wanted.values())


def check_points(reader: Any, sample: SampleRepo) -> None:
    with fascicle.open(sample.url, version=sample.root) as version:
        wanted = sorted(tuple(element["Pos"]) for element in version["synapses"].all())
    assert reader.annotation_type == "point"
    placed: list[Any] = []
    for level, metadata in zip(reader.spatial, reader.metadata["spatial"], strict=True):
        for cell in np.ndindex(*metadata["grid_shape"]):
            placed += level.get(cell).result() or []
    assert sorted(tuple(np.floor(one.point).astype(int).tolist()) for one in placed) == wanted


def test_live_synapses(sample_repo: SampleRepo, reader: Any) -> None:
    url = f"{sample_repo.url}/precomputed/{sample_repo.root}/master/synapses"
    check_points(reader(f"{url}/"), sample_repo)
    check(reader(f"{url}/lines/"), sample_repo)


@pytest.mark.filterwarnings("ignore:version .* is open")
@pytest.mark.parametrize("sharded", [True, False])
def test_exported_synapses(
    server: RunningServer, sample_repo: SampleRepo, reader: Any, tmp_path: Path, sharded: bool
) -> None:
    source = fascicle.source(str(server.folder), version=sample_repo.root)
    fascicle.export(source, str(tmp_path), instances=("synapses",), sharded=sharded, workers=1)
    check_points(reader(f"file://{tmp_path}/synapses/"), sample_repo)
    check(reader(f"file://{tmp_path}/synapses/lines/"), sample_repo)
