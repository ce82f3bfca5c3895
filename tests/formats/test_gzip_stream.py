"""gzip streams that are the same for the same bytes, whatever was in memory before."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from fascicle.formats.gzip_stream import gzipped

_PROGRAM = """
import hashlib, random
from fascicle.formats.gzip_stream import gzipped
random.seed(5)
found = hashlib.sha256()
for size in [3, 40, 150, 156, 160, 1000, 5000] * 30:
    data = bytes(random.choices((0, 1, 1, 2, 7, 255), k=size))
    for level in (0, 1, 2, 3):
        found.update(gzipped(data, level))
print(found.hexdigest())
"""


@given(st.binary(max_size=3000), st.integers(0, 3))
def test_both_directions(data: bytes, level: int) -> None:
    packed = gzipped(memoryview(data), level)
    assert gzip.decompress(packed) == data
    assert packed[4:8] == b"\0\0\0\0"


def test_memory_of_before_does_not_matter() -> None:
    """The C library fills new memory with a byte that the environment names."""
    found = set()
    for fill in ("0", "85", "165"):
        environment = os.environ | {
            "MALLOC_PERTURB_": fill, "MALLOC_MMAP_THRESHOLD_": "100000000", "PYTHONMALLOC": "malloc"
        }  # fmt: skip
        command = [sys.executable, "-c", _PROGRAM]
        found.add(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    assert len(found) == 1
