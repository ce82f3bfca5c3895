"""Profiles: what is planned, and what a server says of a repo after it was made ready."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fascicle.cli.init import init
from fascicle.datatypes import registry
from fascicle.errors import FascicleError
from fascicle.pipeline.ingest_connections import LocalConnection
from fascicle.pipeline.profiles import (
    HEMIBRAIN_ROIS,
    PROFILES,
    ProfileError,
    ProfileOptions,
    State,
    Wanted,
    apply,
    creation,
    instances,
    plan,
)
from fascicle.pipeline.version_choice import make_repo

HEMIBRAIN = {
    "bookmark_annotations": "annotation",
    "segmentation_todo": "annotation",
    "synapses": "annotation",
    "bookmarks": "keyvalue",
    "roi_data": "keyvalue",
    "rois": "keyvalue",
    "roisSmoothedDecimated": "keyvalue",
    "segmentation_annotations": "neuronjson",
    "segmentation_meshes": "keyvalue",
    "segmentation_skeletons": "keyvalue",
    "segmentation": "labelmap",
    "segmentation_roi_voxels": "labelmap",
    "voxel-classes": "labelmap",
    "mito": "labelmap",
    "synapses_labelsz": "labelsz",
    "AB(L)": "roi",
    "a'L(R)": "roi",
    "gL(R)": "roi",
}
"""Instance -> type, from the list that the hemibrain's server publishes."""
SYNCS = {
    "synapses": ["segmentation"],
    "segmentation_todo": ["segmentation"],
    "bookmark_annotations": ["segmentation"],
    "synapses_labelsz": ["synapses"],
}
TAGS = {"segmentation_meshes": {"type": "meshes"}, "segmentation_skeletons": {"type": "skeletons"}}


def _run(folder: Path, *words: str, status: int = 0) -> Result:
    done = CliRunner().invoke(init, [*words, "--data", str(folder)])
    if not isinstance(done.exception, FascicleError):
        assert done.exit_code == status, done.output
    return done


def _there(folder: Path) -> dict[str, Any]:
    with LocalConnection(folder) as connection:
        (repo,) = connection.json("GET", "/api/repos/info").values()
    found: dict[str, Any] = repo["DataInstances"]
    return found


@pytest.mark.parametrize("profile", PROFILES)
def test_tables_are_sound(profile: str) -> None:
    names = [wanted.name for wanted in PROFILES[profile]]
    assert len(set(names)) == len(names)
    for number, wanted in enumerate(PROFILES[profile]):
        assert wanted.typename in registry.typenames()
        assert wanted.meaning.endswith(".")
        assert set(wanted.syncs) <= set(names[:number]), "what is followed comes first"


def test_hemibrain_has_what_its_server_has(tmp_path: Path) -> None:
    _run(tmp_path / "db", "--profile", "hemibrain", "--repo", "brain", "--resolution", "8,8,8")
    there = _there(tmp_path / "db")
    assert {name: there[name]["Base"]["TypeName"] for name in HEMIBRAIN} == HEMIBRAIN
    assert len(HEMIBRAIN_ROIS) == 63
    assert {name for name in there if there[name]["Base"]["TypeName"] == "roi"} == set(HEMIBRAIN_ROIS)
    assert {name: there[name]["Base"]["Syncs"] for name in SYNCS} == SYNCS
    assert {name: there[name]["Base"]["Tags"] for name in TAGS} == TAGS
    assert there["AB(L)"]["Extended"]["BlockSize"] == [32, 32, 32]
    assert there["segmentation"]["Extended"]["MaxDownresLevel"] == 7


def test_proofreading_and_again(tmp_path: Path) -> None:
    folder = tmp_path / "db"
    words = ("--profile", "proofreading", "--repo", "brain", "--resolution", "10,10,10", "--scales", "3")
    words += ("--roi", "a'L(R)")
    first = _run(folder, *words)
    there = _there(folder)
    assert set(there) == {wanted.name for wanted in PROFILES["proofreading"]} | {"a'L(R)"}
    assert {name: there[name]["Base"]["Syncs"] for name in SYNCS} == SYNCS
    assert there["segmentation"]["Extended"]["VoxelSize"] == [10, 10, 10]
    assert there["segmentation"]["Extended"]["MaxDownresLevel"] == 3
    assert there["segmentation_sv_meshes"]["Base"]["Versioned"] is False
    assert there["segmentation_sv_meshes"]["Base"]["Syncs"] == ["segmentation"]
    assert there["segmentation_sv_meshes"]["Extended"]["Extension"] == "drc"
    assert f"{len(there)} instances made" in first.output
    again = _run(folder, *words)
    assert f"0 instances made, 0 changed, {len(there)} there already" in again.output
    assert _there(folder) == there


def test_missing_syncs_and_tags_are_added_and_nothing_else_is_touched(tmp_path: Path) -> None:
    with LocalConnection(tmp_path / "db") as connection:
        root = make_repo(connection, "brain", "").root
        types = {"segmentation": "labelmap", "synapses": "annotation"}
        types |= dict.fromkeys(("segmentation_meshes", "segmentation_annotations"), "keyvalue")
        for name, kind in types.items():
            connection.json("POST", f"/api/repo/{root}/instance", {"typename": kind, "dataname": name})
        connection.json("POST", f"/api/node/{root}/segmentation_meshes/tags", {"author": "me"})
    done = _run(tmp_path / "db", "--profile", "proofreading", "--repo", "brain")
    assert "changed  synapses (annotation): follows segmentation" in done.output
    assert "exists   segmentation_annotations (keyvalue)" in done.output
    there = _there(tmp_path / "db")
    assert there["synapses"]["Base"]["Syncs"] == ["segmentation"]
    assert there["segmentation_meshes"]["Base"]["Tags"] == {"author": "me", "type": "meshes"}
    assert there["segmentation_annotations"]["Base"]["TypeName"] == "keyvalue"


def test_another_type_in_the_way_changes_nothing(tmp_path: Path) -> None:
    with LocalConnection(tmp_path / "db") as connection:
        root = make_repo(connection, "brain", "").root
        connection.json("POST", f"/api/repo/{root}/instance", {"typename": "keyvalue", "dataname": "synapses"})
    before = _there(tmp_path / "db")
    done = _run(tmp_path / "db", "--profile", "proofreading", "--uuid", root[:9])
    assert isinstance(done.exception, ProfileError)
    assert "synapses: is of type keyvalue, but must be of type annotation" in str(done.exception)
    assert _there(tmp_path / "db") == before


def test_dry_run_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "db"
    done = _run(folder, "--profile", "hemibrain", "--repo", "brain", "--dry-run")
    assert f"{len(PROFILES['hemibrain'])} instances would be made" in done.output
    assert not folder.exists()
    with LocalConnection(folder) as connection:
        make_repo(connection, "brain", "")
    assert "new      synapses_labelsz (labelsz): follows synapses" in _run(
        folder, "--profile", "proofreading", "--repo", "brain", "--dry-run"
    ).output
    assert _there(folder) == {}


@pytest.mark.parametrize(
    "words",
    [
        ("--profile", "nothing", "--repo", "x"),
        ("--profile", "hemibrain", "--repo", "x", "--uuid", "y"),
        ("--profile", "hemibrain", "--repo", "x", "--without", "nonsense"),
        ("--profile", "hemibrain", "--repo", "x", "--resolution", "8"),
        ("--profile", "hemibrain", "--repo", "x", "--scales", "0"),
    ],
)
def test_bad_options_are_refused_and_make_nothing(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = _run(tmp_path / "db", *words, "--dry-run", status=2)
    assert done.exception is not None
    assert not (tmp_path / "db").exists()


def test_a_late_follower_is_filled() -> None:
    """Counts that are set up after the synapses are counted again; those set up with them need not be."""
    asked: list[str] = []

    class Recorder:
        def json(self, method: str, path: str, document: Any = None, /) -> Any:
            asked.append(f"{method} {path.rpartition('/')[2]}")

    wanted = [one for one in PROFILES["proofreading"] if one.typename in ("annotation", "labelsz")]
    base = {"TypeName": "annotation", "Syncs": ["segmentation"], "Tags": None}
    apply(Recorder(), "v", plan(wanted, {"synapses": {"Base": base}}), ProfileOptions())
    assert asked[:3] == ["POST instance", "POST sync", "POST reload"]
    asked.clear()
    apply(Recorder(), "v", plan(wanted, {}), ProfileOptions())
    assert "POST reload" not in asked


def test_plan_of_everything_there_is_complete() -> None:
    wanted = instances("proofreading", ProfileOptions(rois=("x",), without=("grayscale",)))
    assert "grayscale" not in {one.name for one in wanted}
    bases = {one.name: {"TypeName": one.typename, "Syncs": [*one.syncs], "Tags": {**one.tags}} for one in wanted}
    there = {name: {"Base": base} for name, base in bases.items()}
    assert {step.state for step in plan(wanted, there)} == {State.COMPLETE}


def test_settings_of_a_new_instance() -> None:
    options = ProfileOptions(resolution_nm=(4, 4, 40.5), levels=2)
    asked = creation(Wanted("a", "labelmap", "x", tags={"type": "meshes", "b": "c"}), options)
    assert asked["VoxelSize"] == "4,4,40.5"
    assert asked["Tags"] == "type=meshes,b=c"
    assert "versioned" not in asked


def test_without_words_the_folder_of_serve_and_the_profiles_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(init, ["--profile", "proofreading"])
    assert done.exit_code == 0, done.output
    with LocalConnection(tmp_path / "fascicle-data") as connection:
        (repo,) = connection.json("GET", "/api/repos/info").values()
    assert repo["Alias"] == "proofreading"
    assert set(repo["DataInstances"]) == {one.name for one in PROFILES["proofreading"]}
    assert "0 instances made" in CliRunner().invoke(init, ["--profile", "proofreading"]).output
