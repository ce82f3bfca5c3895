"""Instances that show volumes elsewhere, as precomputed volumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from reading import voxels

from remote_volumes import label_volume, smooth_volume, write_precomputed
from serving import TOKEN, Client, RunningServer, new_repo


def _show(client: Client, root: str, typename: str, name: str, source: str, **settings: str) -> None:
    described = {"typename": typename, "dataname": name, "Source": source, **settings}
    client.post(f"/api/repo/{root}/instance?admintoken={TOKEN}", described).expect()


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_image(server: RunningServer, client: Client, tmp_path: Path, encoding: str) -> None:
    fine, coarse = smooth_volume((70, 80, 100)), smooth_volume((35, 40, 50))
    source = write_precomputed(tmp_path / "em", [fine, coarse], encoding, offset_xyz=(64, 128, -64))
    root = new_repo(client)
    _show(client, root, "uint8blk", "em", source)
    _show(client, root, "uint8blk", "em_1", source, ScaleLevel="1")
    address = f"{server.url}/precomputed/{root}/master/em"
    found = [voxels(f"{address}/raw", level) for level in (0, 1)]
    if encoding == "raw":
        assert np.array_equal(found[0], fine)
        assert np.array_equal(found[1][32:, :, 32:], coarse), "the coarser scale begins at -32, 64, 32"
    else:
        assert np.abs(found[0].astype(int) - fine).max() < 12
        stored = (tmp_path / "em" / "8_8_8" / "64-128_128-192_-64-0").read_bytes()
        assert client.get(f"/precomputed/{root}/master/em/0/64-128_128-192_-64-0").expect().body == stored
    client.post(f"/api/node/{root}/commit", {}).expect()
    reply = client.get(f"/precomputed/{root}/{root}/em/0/64-128_128-192_-64-0").expect()
    assert "immutable" not in reply.headers["cache-control"], "its owner may replace it"


def test_labels(server: RunningServer, client: Client, tmp_path: Path) -> None:
    fine = label_volume((70, 80, 100))
    source = write_precomputed(
        tmp_path / "seg", [fine, fine[::2, ::2, ::2]], "compressed_segmentation", kind="segmentation"
    )
    root = new_repo(client)
    _show(client, root, "labelmap", "seg", source)
    address = f"{server.url}/precomputed/{root}/master/seg"
    assert np.array_equal(voxels(address), fine)
    assert np.array_equal(voxels(address, 1), fine[::2, ::2, ::2])
    assert np.array_equal(voxels(f"{address}/supervoxels/raw"), fine)


def test_a_volume_that_cannot_be_read(client: Client, tmp_path: Path) -> None:
    volume = smooth_volume((64, 64, 64))
    source = write_precomputed(tmp_path / "em", [volume])
    root = new_repo(client)
    _show(client, root, "uint8blk", "em", source)
    (tmp_path / "em" / "8_8_8" / "0-64_0-64_0-64").write_bytes(b"not a chunk")
    reply = client.get(f"/precomputed/{root}/master/em/0/0-64_0-64_0-64").expect(400)
    assert b"chunk" in reply.body
