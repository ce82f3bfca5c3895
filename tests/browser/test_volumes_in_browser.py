"""An unmodified Neuroglancer shows, through `dvid://`, volumes that lie in a bucket."""

from __future__ import annotations

from pathlib import Path

import pytest
from chromium import Chromium, program
from panels import section_state, show
from test_viewer_in_browser import _same_bodies, _same_gray

from remote_volumes import bucket, write_precomputed
from sample_repo import SampleRepo
from serving import RunningServer, new_repo
from volume_settings_file import instances_of, settings_file

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(program() is None, reason="no Chromium: install one or set FASCICLE_CHROMIUM"),
]


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_a_bucket(browser: Chromium, sample_repo: SampleRepo, tmp_path: Path, encoding: str) -> None:
    gray, bodies = sample_repo.grayscale_zyx, sample_repo.bodies_zyx
    write_precomputed(tmp_path / "bucket" / "gray", [gray, gray[::2, ::2, ::2]], encoding)
    write_precomputed(
        tmp_path / "bucket" / "bodies", [bodies], "compressed_segmentation", kind="segmentation"
    )
    with bucket(tmp_path / "bucket") as served:
        volumes = {"gray": f"{served.url}/gray", "bodies": f"{served.url}/bodies"}
        server = RunningServer(tmp_path / "data", (settings_file(tmp_path / "server.toml", volumes),)).start()
        try:
            with server.client() as client:
                root = new_repo(client)
                instances_of(client, root, "gray", "gray_1", "bodies")
            position = (60, 50, 40)
            state = section_state(server.url, root, position, grayscale="gray")
            _same_gray(show(browser, server.url, state), position, gray)
            state = section_state(server.url, root, position, segmentation="bodies")
            _same_bodies(show(browser, server.url, state), position, bodies)
        finally:
            server.kill9()
