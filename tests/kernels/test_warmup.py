"""After the warm-up no kernel of a server is compiled any more."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fascicle.kernels


def compilations() -> dict[str, int]:
    """How many argument types each loaded kernel was compiled for."""
    found = {}
    for module in pkgutil.iter_modules(fascicle.kernels.__path__):
        for name, kernel in vars(importlib.import_module(f"fascicle.kernels.{module.name}")).items():
            if hasattr(kernel, "nopython_signatures"):
                found[f"{module.name}.{name}"] = len(kernel.signatures)
    return found


def test_nothing_is_compiled_after_the_warm_up(tmp_path: Path) -> None:
    from fascicle.formats import compressed_segmentation, downres, label_block, label_index, lz4_block
    from fascicle.kernels import decimal, sorted_map, warmup

    warmup.warm_up()
    before = compilations()
    assert warmup.warm_up() < 1.0

    volume = np.random.default_rng(0).integers(0, 5, (40, 40, 40)).astype(np.uint64)
    encoded = label_block.encode(volume[3:35, 2:34, 5:37])
    label_block.validate(bytearray(encoded))
    label_block.normalise(memoryview(b"?" + encoded)[1:])
    stored = label_block.split(encoded)
    label_block.decode_into(label_block.opened_stored(memoryview(b"?" + stored)[1:]), volume[1:9, 2:20, 1:3], (0, 8, 9))
    label_block.gzip_of(stored, label_block.stored_table(stored) + np.uint64(1))
    label_block.points(encoded, np.array([[1, 2, 3]], np.int32))
    downres.halve_into(encoded, volume[4:20, 4:20, 4:20])
    compressed_segmentation.encode_slabs([volume[:5], volume[5:]], volume.shape)
    compressed_segmentation.from_label_block(encoded, label_block.table(encoded) >> np.uint64(1))
    packed = b"".join(lz4_block.compress_stream([volume[:5, :3]], volume[:5, :3].nbytes))
    list(lz4_block.decompress_stream(bytearray(packed), volume[:5, :3].nbytes))
    decimal.parsed_list(bytearray(decimal.json_list(volume[0, 0])))
    label_index.decode(label_index.encode(label_index.LabelIndex(3)))
    np.arange(10, dtype=np.uint64).tofile(tmp_path / "keys")
    keys = np.memmap(tmp_path / "keys", np.uint64, "r")
    shift, starts = sorted_map.bucket_index(keys)
    sorted_map.lookup(volume[0, 0], keys, keys[:], shift, starts, np.zeros(40, np.uint64), np.zeros(40, bool))
    after = compilations()
    assert {name: n for name, n in after.items() if n != before[name]} == {}


@pytest.mark.parametrize("package", ["fascicle.kernels", "fascicle.formats"])
def test_packages_do_not_import_numba(package: str) -> None:
    check = f"import sys, {package}; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], timeout=60, check=False).returncode == 0


BESIDE = """
import subprocess, sys
from fascicle.kernels import fnv, json_rows, warmup

warmup.GROUPS = {"streams": warmup.GROUPS["streams"]}
warmup.warm_up_beside(lambda: True)
assert not warmup._mark().exists(), "nothing was compiled, and yet it is marked"
started = warmup._compiler
warmup._compiler = lambda group: children.append(group) or started(group)
children = []
warmup.warm_up_beside(lambda: False)
assert children == ["streams"] and warmup._mark().exists()
for kernel in (fnv._hash, json_rows._read_rows):
    assert kernel.stats.cache_hits and not kernel.stats.cache_misses, "it was compiled here"
warmup.warm_up_beside(lambda: False)
assert children == ["streams"], "what is there was compiled again"
"""


@pytest.mark.slow
def test_a_server_lets_other_processes_compile(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", BESIDE], env=environment, timeout=300, check=True)
