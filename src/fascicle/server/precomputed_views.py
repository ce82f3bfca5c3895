"""`/precomputed/<repo>/<version>/<instance>/...`: instances as precomputed volumes, made as they are asked for.

    .../<instance>[/supervoxels][/<encoding>]/info
    .../<instance>[/supervoxels][/<encoding>]/<scale>/<x0-x1_y0-y1_z0-z1>
    .../<instance>[/supervoxels][/<encoding>]/{mesh,skeletons,properties}/...
    .../<annotation>[/lines]/...
    .../<neuronjson>/info

Chunks of a committed version may be kept forever, if the version is named by its UUID or as a tag: they are a function
of the voxels between the coordinates in their name. Everything else is to be asked for again soon, and has an ETag
made of its content.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING

from fascicle.datatypes.base import Answer
from fascicle.datatypes.elsewhere import is_elsewhere
from fascicle.datatypes.keyvalue import byte_ranges
from fascicle.errors import BadRequest, NotFound
from fascicle.formats import gzip_stream, precomputed_info
from fascicle.precomputed import addresses, derived
from fascicle.precomputed.builders import ENCODINGS, Form, Snapshot
from fascicle.precomputed.derived import Directory
from fascicle.server import answers
from fascicle.server.requests import Request
from fascicle.store.base import ReadTransaction
from fascicle.versions.model import Instance, Node

if TYPE_CHECKING:
    from fascicle.precomputed.volumes import Volume
    from fascicle.server.app import Application

ROOT = "precomputed"
FOREVER = "public, immutable, max-age=31536000"
SHORTLY = "public, max-age=5, must-revalidate"
KNOWN = 1024
_USAGE = "/precomputed/<repo>/<version>/<instance>[/supervoxels][/<encoding>]/ and `info` or <scale>/<chunk>"
LEAST_PACKED = 256
"""Smaller objects are sent as they are."""


@dataclass(frozen=True, slots=True)
class Target:
    """What the first parts of a path name."""

    sequence: int
    """That of the catalog when this was found."""
    node: Node
    instance: Instance
    lasting: bool
    """Chunks will never be others."""


class PrecomputedViews:
    """The precomputed volumes of one server process."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._targets: dict[tuple[str, str, str], Target] = {}
        self._volumes: dict[tuple[int, int, Form], tuple[int, Volume]] = {}

    async def answer(self, request: Request, sending: answers.Sending) -> None:
        """Answer GET and HEAD. Raises what the path deserves."""
        if not request.reads:
            raise BadRequest(f"{request.method} is not supported here, only GET and HEAD")
        app = self._app
        with app.store.read() as txn:
            target = self._target(request, txn)
        pool = app.pools.heavy
        if is_elsewhere(target.instance.properties):
            pool = app.pools.elsewhere
        elif _form_and_rest(request.segments[4:])[1][:1] in (["mesh"], ["skeletons"]):
            pool = app.pools.making
        work = partial(self._run, request)
        await sending.answer(await asyncio.get_running_loop().run_in_executor(pool, work))

    def _target(self, request: Request, txn: ReadTransaction) -> Target:
        catalog = self._app.catalogs.at(txn)
        sequence = catalog.sequence  # taken first: whoever brings the catalog up to date meanwhile raises it last
        _, repo_name, version, name = request.segments[:4]
        key = (repo_name, version, name)
        found = self._targets.get(key)
        if found is not None and found.sequence == sequence:
            return found
        repo = addresses.find_repo(catalog, repo_name)
        node, lasting = addresses.find_version(catalog, repo, version)
        instance = addresses.find_instance(catalog, repo, name)
        lasting = lasting and node.locked and instance.versioned and not self._app.gates.full_write
        # who owns a volume that lives elsewhere may write to it, whatever the version here
        target = Target(sequence, node, instance, lasting and not is_elsewhere(instance.properties))
        if len(self._targets) >= KNOWN:
            self._targets = {}
        self._targets[key] = target
        return target

    # -- in a thread of the pool

    def _run(self, request: Request) -> Answer:
        with self._app.store.read() as txn:
            target = self._target(request, txn)
            snapshot = Snapshot(
                self._app.store, txn, self._app.catalogs.at(txn), target.node, self._app.datatype_settings
            )
            directory = derived.whole(target.instance.typename)
            if directory is not None:
                return self._derived(request, snapshot, target, directory, Form(), request.segments[4:])
            form, rest = _form_and_rest(request.segments[4:])
            if target.instance.typename == "labelmap" and rest and (directory := derived.part(rest[0])) is not None:
                return self._derived(request, snapshot, target, directory, form, rest[1:])
            if rest != ["info"] and len(rest) != 2:
                raise NotFound(f"there is nothing at this path; volumes are at {_USAGE}")
            volume = self._volume(snapshot, target.instance, form)
            if rest == ["info"]:
                info = derived.linked(snapshot, target.instance, form, volume.info)
                return _reply(request, precomputed_info.encode(info), "application/json", SHORTLY)
            level = volume.level(rest[0])
            box = volume.box(level, rest[1])
            gzipped = volume.compressible and _takes_gzip(request)
            data = volume.chunk(snapshot, level, box, gzipped)
            if data is None:
                data = volume.background(level, box)
                data = gzip_stream.gzipped(data, 1) if gzipped else data
        caching = FOREVER if target.lasting else SHORTLY
        return _reply(request, data, "application/octet-stream", caching, volume.compressible, gzipped)

    def _derived(
        self, request: Request, snapshot: Snapshot, target: Target, directory: Directory, form: Form, rest: list[str]
    ) -> Answer:
        """An object of a directory that is made from an instance."""
        found = directory.serve(snapshot, target.instance, form, "/".join(rest))
        gzipped = found.compressible and len(found.body) >= LEAST_PACKED and _takes_gzip(request)
        body = gzip_stream.gzipped(found.body, 1) if gzipped else found.body
        caching = FOREVER if target.lasting and found.lasting and rest[-1:] != ["info"] else SHORTLY
        return _reply(request, body, found.kind, caching, found.compressible, gzipped)

    def _volume(self, snapshot: Snapshot, instance: Instance, form: Form) -> Volume:
        """The description of a volume, from the last time if nothing has changed since."""
        key, number = (snapshot.node.id, instance.id, form), snapshot.txn.number
        known = self._volumes.get(key)
        if known is not None and known[0] == number:
            return known[1]
        from fascicle.precomputed.volumes import describe  # needs the kernels of the datatypes

        volume = describe(snapshot, instance, form)
        if len(self._volumes) >= KNOWN:
            self._volumes = {}
        self._volumes[key] = (number, volume)
        return volume


def _form_and_rest(segments: list[str]) -> tuple[Form, list[str]]:
    """How an instance is shown, and the rest of the path."""
    rest = list(segments)
    supervoxels = rest[:1] == ["supervoxels"]
    if supervoxels:
        del rest[0]
    encoding = rest.pop(0) if rest and rest[0] in ENCODINGS else ""
    return Form(supervoxels, encoding), rest


def _takes_gzip(request: Request) -> bool:
    """Whether the answer may be a gzip stream: a part of one would be of use to nobody."""
    if "range" in request.headers:
        return False
    accepted: str = request.headers.get("accept-encoding", "")
    weights = {}
    for part in accepted.lower().replace(" ", "").split(","):
        coding, _, weight = part.partition(";")
        weights[coding] = weight
    weight = weights.get("gzip", weights.get("*", "q=0"))
    return weight.rstrip("0").rstrip(".") not in ("q=", "q")


def _reply(
    request: Request, body: bytes, content_type: str, caching: str, varies: bool = False, gzipped: bool = False
) -> Answer:
    """A body as the request wants it: whole, a part of it, or word that it is what the client has."""
    tag = f'"{blake2b(body, digest_size=16).hexdigest()}"'
    headers = [("ETag", tag), ("Cache-Control", caching)]
    if varies:
        headers.append(("Vary", "Accept-Encoding"))
    if _names(request.headers.get("if-none-match", ""), tag):
        return Answer(b"", None, 304, headers)
    if gzipped:
        return Answer(body, content_type, 200, [*headers, ("Content-Encoding", "gzip")])
    headers.append(("Accept-Ranges", "bytes"))
    wanted = request.headers.get("range")
    if wanted is None or request.headers.get("if-range", tag) != tag:
        return Answer(body, content_type, 200, headers)
    part = byte_ranges.from_header(wanted, len(body))
    if part is None:
        return Answer(body, content_type, 200, headers)
    headers.append(("Content-Range", f"bytes {part.first}-{part.last}/{len(body)}"))
    return Answer(part.of(body), content_type, 206, headers)


def _names(header: str, tag: str) -> bool:
    """Whether `If-None-Match` names a tag."""
    given = [part.strip().removeprefix("W/") for part in header.split(",")]
    return tag in given or given == ["*"]
