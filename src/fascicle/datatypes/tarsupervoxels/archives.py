"""Archives of blobs: those of a body as they are sent, and those that are posted as they arrive."""

from __future__ import annotations

from collections.abc import Iterator

from fascicle.datatypes.base import Call, Change
from fascicle.datatypes.tarsupervoxels.blobs import U64, Blobs, extension_of
from fascicle.errors import BadRequest, FascicleError, PayloadTooLarge
from fascicle.formats import tar

BLOB_BYTES_LIMIT = 1 << 30
"""The largest blob; one is in memory as a whole."""
BATCH_BYTES = 8 << 20
BATCH_BLOBS = 4096
"""So much of an archive that is posted is stored in one transaction."""

MAX_U64 = (1 << 64) - 1


def body_archive(blobs: Blobs, supervoxels: U64, extension: str) -> Iterator[bytes]:
    """A tar archive with a file for each supervoxel; an empty one called `<supervoxel>.missing` if it has no blob."""
    for supervoxel in supervoxels.tolist():
        data = blobs.get(supervoxel)
        if data is None:
            yield tar.entry(b"%d.missing" % supervoxel, b"")
        else:
            yield tar.entry(f"{supervoxel}.{extension}".encode(), data)
    yield tar.END


def parse_name(name: str, number: int, extension: str) -> int:
    """The supervoxel that the `number`-th file of an archive belongs to. Raises BadRequest."""
    digits, dot, rest = name.partition(".")
    if not (dot and digits.isascii() and digits.isdigit() and len(digits) <= 20 and int(digits) <= MAX_U64):
        raise BadRequest(f"file {number} name is invalid, expect supervoxel+ext: {name}")
    if rest != extension:
        raise BadRequest(f'file {number} name has bad extension (expect "{extension}"): {name}')
    if int(digits) == 0:
        raise BadRequest("supervoxel 0 is reserved and cannot have data saved under 0 id")
    return int(digits)


class Loading:
    """Stores the files of an archive while it arrives, many in one transaction.

    Files before one that cannot be stored stay stored, so a client that sends the archive again loses nothing.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._extension = extension_of(call.instance)
        self._waiting: dict[int, bytes] = {}
        self._waiting_bytes = 0

    def run(self) -> None:
        """Store all files. Raises BadRequest for the first one that cannot be stored."""
        try:
            self._read()
        except FascicleError:
            self._flush()
            raise
        self._flush()

    def _read(self) -> None:
        reader = tar.Reader(self._call.pieces())
        number = 0
        while (entry := reader.next_entry()) is not None:
            number += 1
            name = entry.name.decode("utf-8", "backslashreplace")
            supervoxel = parse_name(name, number, self._extension)
            if entry.kind != tar.REGULAR:
                raise BadRequest(f"file {number} is not a regular file: {name}")
            if entry.size > BLOB_BYTES_LIMIT:
                raise PayloadTooLarge(f"file {number} is larger than the limit of {BLOB_BYTES_LIMIT} bytes: {name}")
            data = reader.read(entry)
            self._waiting[supervoxel] = data
            self._waiting_bytes += len(data)
            if self._waiting_bytes >= BATCH_BYTES or len(self._waiting) >= BATCH_BLOBS:
                self._flush()
        reader.drain()

    def _flush(self) -> None:
        waiting = self._waiting

        def apply(change: Change) -> None:
            if extension_of(change.instance) != self._extension:
                raise BadRequest(f"the extension was changed to {extension_of(change.instance)!r} during the upload")
            blobs = Blobs(change.txn, change.instance)
            for supervoxel, data in waiting.items():
                blobs.put(supervoxel, data)

        if waiting:
            self._call.commit(apply)
        self._waiting = {}
        self._waiting_bytes = 0
