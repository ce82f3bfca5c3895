"""From a folder of TIFF slices to bodies in the viewer: one command brings them in, one serves them."""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from fascicle.formats import multires_mesh
from serving import RunningServer, command

LIMIT_S = 120.0
SHAPE = (256, 512, 512)


def cells() -> np.ndarray:
    """u32[z, y, x]: skewed columns of cells; 0 between some of them."""
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    labels = ((z + x // 4) // 64) * 10_000 + ((y + z // 3) // 48) * 100 + (x + y // 5) // 40 + 1
    labels[:, :, 250:260] = 0
    return labels.astype(np.uint32)


def run(*words: str) -> str:
    done = subprocess.run([*command(), *words], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_slices_to_a_meshed_version_in_two_commands(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    labels = cells()
    (tmp_path / "slices").mkdir()
    for z, plane in enumerate(labels):
        tifffile.imwrite(tmp_path / "slices" / f"{z:04}.tif", plane, compression="deflate")
    body = int(labels[128, 200, 100])

    began = time.monotonic()
    place = ("--data", str(tmp_path / "db"), "--repo", "cells", "--instance", "segmentation")
    run("ingest", str(tmp_path / "slices"), *place, "--resolution", "8,8,16", "--quiet")
    server = RunningServer(tmp_path / "db")
    with ExitStack() as stack:
        stack.callback(server.kill9)
        server.start()
        client = stack.enter_context(server.client())
        options = ("--repo", "cells", "--segments", str(body), "--layout", "3d")
        link = run("view", "--server", server.url, *options).split()[0]
        view = "/precomputed/cells/master/segmentation"
        info = client.get(f"{view}/info").expect().json()
        directory = f"{view}/{info['mesh']}"
        manifest = client.get(f"{directory}/{body}.index").expect().body
        fragments = client.get(f"{directory}/{body}").expect().body
        took = time.monotonic() - began
        mesh_info = multires_mesh.read_info(client.get(f"{directory}/info").expect().body)

    assert took < LIMIT_S
    assert f"'segments':['{body}']" in unquote(link).replace(" ", "")
    finest = multires_mesh.decode(multires_mesh.read_manifest(manifest), fragments, mesh_info)
    vertices = np.concatenate([part for part, _ in finest])
    places = np.argwhere(labels == body)[:, ::-1]
    edges = np.array([8, 8, 16])
    assert (np.abs(vertices.min(axis=0) - places.min(axis=0) * edges) <= 2 * edges).all()
    assert (np.abs(vertices.max(axis=0) - (places.max(axis=0) + 1) * edges) <= 2 * edges).all()
    print(f"from slices to a mesh: {took:.1f} s")
