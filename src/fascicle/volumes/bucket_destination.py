"""Writing to buckets, through the package obstore: Google Cloud Storage, S3 and what speaks its protocol.

Small objects go in one request, large files as multipart uploads, of which nothing is seen until they are complete.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import obstore
from obstore import exceptions

from fascicle.volumes.base import VolumeError
from fascicle.volumes.bucket_objects import BucketFolder
from fascicle.volumes.destinations import BINARY, Data, Destination
from fascicle.volumes.objects import Access
from fascicle.volumes.persistence import Refused, persistently

PART_BYTES = 8 << 20
PARTS_AT_ONCE = 4


class BucketDestination(Destination):
    """Objects under `gs://bucket/...`, `s3://bucket/...`, `vast://host/bucket/...` or `vast+http://host/bucket/...`."""

    def __init__(self, address: str, access: Access) -> None:
        self.folder: BucketFolder = BucketFolder(address, access)
        self.address = self.folder.address
        self._attempts = access.attempts

    def put(self, name: str, data: Data, kind: str = BINARY, encoding: str = "", caching: str = "") -> None:
        attributes = _attributes(kind, encoding, caching)
        body = bytes(data)

        def put() -> None:
            obstore.put(self.folder.store, self.folder.key(name), body, attributes=attributes, use_multipart=False)

        self._do(name, put)

    def put_file(self, name: str, path: Path, kind: str = BINARY, caching: str = "") -> None:
        attributes = _attributes(kind, "", caching)

        def put() -> None:
            obstore.put(
                self.folder.store,
                self.folder.key(name),
                path,
                attributes=attributes,
                use_multipart=path.stat().st_size > PART_BYTES,
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )

        self._do(name, put)

    def delete(self, name: str) -> None:
        def delete() -> None:
            with suppress(FileNotFoundError, exceptions.NotFoundError):
                obstore.delete(self.folder.store, self.folder.key(name))

        self._do(name, delete)

    def _do(self, name: str, work: Callable[[], None]) -> None:
        def attempt() -> None:
            try:
                work()
            except Exception as error:
                raise self.folder.judged(error, name) from None

        try:
            persistently(self._attempts, self.folder.path(name), attempt, "written")
        except Refused as refusal:
            raise VolumeError(f"{self.folder.path(name)} cannot be written: {refusal}") from None


def _attributes(kind: str, encoding: str, caching: str) -> Any:
    found = {"Content-Type": kind, "Content-Encoding": encoding, "Cache-Control": caching}
    return {name: value for name, value in found.items() if value}
