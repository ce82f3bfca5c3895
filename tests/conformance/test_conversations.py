"""Conversations recorded from the reference server, replayed against ours.

Every area must be equal to 99 % at least, and `docs/design/020-differences.md` must name each exchange that is not,
with the reason. Conversations that create data of a type we do not have are left out.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import pytest

from fascicle.datatypes.registry import typenames
from serving import command, free_port

AREAS = (
    *("server", "keyvalue", "labelmap", "imageblk", "annotation", "roi", "labelsz", "neuronjson"),
    *("tarsupervoxels", "imagetile", "blobstore", "mixed"),
)
DIFFERENCES = Path(__file__).resolve().parents[2] / "docs" / "design" / "020-differences.md"
REPLAY_LIMIT_S = 1200
AT_ONCE = 2
CREATION = re.compile(r"/api/repo/[^/]+/instance/?(\?.*)?")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one conversation went: exchanges that were equal, and the differences by the number of their line."""

    name: str
    equal: int
    differences: dict[int, str]


def created_types(recording: Path) -> set[str]:
    """Typenames of the instances that a conversation creates with success."""
    found = set()
    with gzip.open(recording, "rt", encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            request = line.get("request", {})
            creates = request.get("method") == "POST" and CREATION.fullmatch(request["uri"])
            if creates and line["response"]["status"] == 200:
                settings = json.loads(base64.b64decode(request["body"]))
                found |= {value for name, value in settings.items() if name.lower() == "typename"}
    return found


@pytest.fixture(scope="module")
def outcomes(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    """All conversations of our areas, played once; two at a time, each on a server of its own."""
    folders = [tmp_path_factory.mktemp("conversations") for _ in range(AT_ONCE)]
    turns = cycle(folders)
    for area in AREAS:
        for folder in folders:
            (folder / "recordings" / area).mkdir(parents=True)
        for recording in sorted((shared / "conformance" / "recordings" / area).glob("*.jsonl.gz")):
            if created_types(recording) <= set(typenames()):
                (next(turns) / "recordings" / area / recording.name).symlink_to(recording)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        played = list(pool.map(lambda folder: play(shared, folder), folders))
    return [outcome for some in played for outcome in some]


def play(shared: Path, folder: Path) -> list[Outcome]:
    """Replay the recordings of a folder."""
    serve = shlex.join([*command(), "serve", "--allow-labelmap-split"])
    report = folder / "outcome.json"
    words = [sys.executable, str(shared / "conformance" / "replay.py"), "--recordings", str(folder / "recordings")]
    words += ["--launch", serve + " --http 127.0.0.1:{port} --data {dir} {flags}", "--fullwrite-flag=--full-write"]
    words += ["--port", str(free_port()), "--json", str(report)]
    played = subprocess.run(words, capture_output=True, text=True, timeout=REPLAY_LIMIT_S, check=False)
    assert report.exists(), f"the replay broke off:\n{played.stdout[-2000:]}\n{played.stderr[-4000:]}"
    return [
        Outcome(found["name"], found["equal"], {at["exchange"]: at["difference"] for at in found["differences"]})
        for found in json.loads(report.read_text())
    ]


def listed_differences() -> dict[str, set[int]]:
    """Exchanges that the document names: rows `| area/conversation | 3, 7-9 | reason |` of its tables."""
    listed: dict[str, set[int]] = {}
    for row in DIFFERENCES.read_text().splitlines():
        cells = [cell.strip() for cell in row.strip().strip("|").split("|")]
        if len(cells) == 3 and "/" in cells[0] and re.fullmatch(r"[\d\s,-]+", cells[1]):
            for part in cells[1].split(","):
                first, _, last = part.strip().partition("-")
                listed.setdefault(cells[0], set()).update(range(int(first), int(last or first) + 1))
            assert cells[2], f"{DIFFERENCES.name}: no reason in {row!r}"
    return listed


@pytest.mark.slow
@pytest.mark.reference_data
@pytest.mark.parametrize("area", AREAS)
def test_an_area_is_equal_to_99_percent(outcomes: list[Outcome], area: str) -> None:
    found = [outcome for outcome in outcomes if outcome.name.startswith(f"{area}/")]
    equal = sum(outcome.equal for outcome in found)
    total = equal + sum(len(outcome.differences) for outcome in found)
    print(f"{area}: {equal} of {total} exchanges equal in {len(found)} conversations")
    assert total > 0
    differences = "\n".join(
        f"{outcome.name} [{at}] {what[:200]}" for outcome in found for at, what in outcome.differences.items()
    )
    assert equal >= 0.99 * total, f"{equal} of {total} exchanges equal\n{differences}"


@pytest.mark.slow
@pytest.mark.reference_data
def test_every_difference_is_explained(outcomes: list[Outcome]) -> None:
    listed = listed_differences()
    unlisted = [
        f"{outcome.name} [{at}] {what}"
        for outcome in outcomes
        for at, what in outcome.differences.items()
        if at not in listed.get(outcome.name, ())
    ]
    assert not unlisted, f"not in {DIFFERENCES.name}:\n" + "\n".join(unlisted)


@pytest.mark.slow
@pytest.mark.reference_data
def test_every_explained_difference_exists(outcomes: list[Outcome]) -> None:
    differing = {outcome.name: set(outcome.differences) for outcome in outcomes}
    gone = {name: sorted(at - differing.get(name, set())) for name, at in listed_differences().items()}
    assert not any(gone.values()), f"{DIFFERENCES.name} names exchanges that are equal: {gone}"
