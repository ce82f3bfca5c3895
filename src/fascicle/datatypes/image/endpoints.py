"""The endpoints of image instances: requests in, answers and changes out."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import lz4.block
import msgspec
import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.base import Answer, Call, Change, Commit, Reply
from fascicle.datatypes.elsewhere import elsewhere_of, is_elsewhere
from fascicle.datatypes.image.block_cache import cache_of
from fascicle.datatypes.image.block_reader import BlockReader
from fascicle.datatypes.image.block_source import (
    BATCH_BYTES,
    BLOCKS,
    BlockSource,
    Located,
    RemoteBlocks,
    StoredBlocks,
)
from fascicle.datatypes.image.blocks import (
    AS_JPEG,
    JPEG,
    BlockLayout,
    Voxels,
    block_jpeg,
    block_key,
    check_framing,
    encode_block,
    framed_payload,
    lz4_literals,
    record_header,
)
from fascicle.datatypes.image.body_spool import BodySpool
from fascicle.datatypes.image.oblique import oblique_image, parse_oblique
from fascicle.datatypes.image.settings import (
    extents_from,
    grow_extents,
    layout_of,
    metadata,
    set_extents,
    voxel_size_from,
)
from fascicle.datatypes.roi.option import blank, region_of
from fascicle.datatypes.roi.regions import Region
from fascicle.datatypes.slice_images import ImageFormat, encode_image, parse_format, rescale_average
from fascicle.datatypes.voxel_requests import (
    INT32_MAX,
    PAYLOAD_LIMIT_BYTES,
    PICTURE_LIMIT_BYTES,
    SliceRequest,
    Triple,
    VolumeRequest,
    check_alignment,
    check_body,
    check_payload,
    checked,
    parse_integer,
    parse_request,
    parse_triple,
    parse_volume,
)
from fascicle.errors import NOT_JSON, BadRequest
from fascicle.formats import lz4_block
from fascicle.kernels.arrays import Buffer
from fascicle.store.base import LateValue
from fascicle.store.spool import Spool, fits_in_memory, gathered

LZ4_ANSWER_BYTES = 256 << 20
"""Larger volumes asked for as one LZ4 block are framed as literals instead of being compressed in memory."""
SMALL_ANSWER_BYTES = 4 << 20
FEW_ROWS, FEW_BLOCKS = 8, 64
"""Pictures of at most so many rows of blocks and blocks are looked for in the event loop."""

EncodedBlocks = list[tuple[bytes, bytes | LateValue]]
"""Type keys and stored forms."""


def reader_of(call: Call) -> BlockReader:
    """The blocks that a request sees."""
    layout = layout_of(call.instance)
    return BlockReader(source_of(call, layout), layout, cache_of(call.store))


def source_of(call: Call, layout: BlockLayout) -> BlockSource:
    """Where the blocks that a request sees come from."""
    if is_elsewhere(call.instance.properties):
        scale = elsewhere_of(call.settings).scale(call.instance.properties)
        return RemoteBlocks(scale, layout, call.instance.id)
    return StoredBlocks(call.view, layout)


def _refuse_elsewhere(call: Call) -> None:
    if is_elsewhere(call.instance.properties):
        raise BadRequest(
            f'Data "{call.instance.name}" uses an immutable GridStore so cannot received POSTs: '
            "its voxels are in a volume that lives elsewhere"
        )


# -- metadata


def get_metadata(call: Call) -> Answer:
    document = msgspec.json.encode(metadata(call.instance, call.view)) + b"\n"
    return Answer(document, "application/vnd.dvid-nd-data+json")


def post_extents(call: Call) -> Commit:
    low, high = extents_from(_document(call))
    return Commit(lambda change: set_extents(change, low, high))


def refuse_extents(call: Call) -> Reply:
    raise BadRequest("extents endpoint only supports POST HTTP verb")


def post_resolution(call: Call) -> Commit:
    voxel_size = voxel_size_from(_document(call))
    return Commit(lambda change: change.update_instance(VoxelSize=voxel_size))


def refuse_resolution(call: Call) -> Reply:
    raise BadRequest("resolution endpoint only supports POST HTTP verb")


def _document(call: Call) -> object:
    try:
        return msgspec.json.decode(call.body)
    except NOT_JSON as error:
        raise BadRequest(f"the body is not valid JSON: {error}") from None


# -- raw, isotropic, arb


def get_raw(call: Call) -> Answer:
    return _get_voxels(call, isotropic=False)


def kept_raw(call: Call) -> Answer | None:
    """A picture that is remembered, if only a few blocks have to be looked up for it."""
    if "roi" in call.query:
        return None
    request = parse_request(call.keyword, call.args)
    suffix = call.args[3] if len(call.args) > 3 else ""
    what: tuple[object, ...]
    if isinstance(request, SliceRequest):
        image_format = parse_format(suffix)
        box, what, kind = request.volume, (request, request, image_format), image_format.content_type
    elif suffix in ("jpg", "jpeg"):
        box, what, kind = request, (request, "jpeg"), "image/jpeg"
    else:
        return None
    reader = reader_of(call)
    (x0, y0, z0), (x1, y1, z1) = box.blocks(reader.layout.size_xyz)
    rows = (y1 - y0 + 1) * (z1 - z0 + 1)
    if rows > FEW_ROWS or rows * (x1 - x0 + 1) > FEW_BLOCKS:
        return None
    found: bytes | None = reader.cache.get(_picture_key(reader, reader.within(box), what))
    return None if found is None else Answer(found, kind)


def get_isotropic(call: Call) -> Answer:
    return _get_voxels(call, isotropic=True)


def _get_voxels(call: Call, isotropic: bool) -> Answer:
    request = parse_request(call.keyword, call.args)
    check_payload(request, layout_of(call.instance).bytes_per_voxel)
    shown = _shown_part(call)
    suffix = call.args[3] if len(call.args) > 3 else ""
    reader = reader_of(call)
    if isinstance(request, SliceRequest):
        image_format = parse_format(suffix)
        source = request.isotropic_source(call.instance.properties["VoxelSize"]) if isotropic else request
        limit = PICTURE_LIMIT_BYTES if source == request else PICTURE_LIMIT_BYTES // 8  # averages are made of 64 bits
        for picture in (source, request):
            check_payload(picture, reader.layout.bytes_per_voxel, limit)
        return Answer(_slice_file(reader, source, request, image_format, shown), image_format.content_type)
    if suffix in ("jpg", "jpeg"):
        check_payload(request, reader.layout.bytes_per_voxel, PICTURE_LIMIT_BYTES)
        return Answer(_volume_jpeg(reader, request, shown), "image/jpeg")
    if call.query.get("compression") == "lz4":
        return Answer.binary(_lz4_volume(reader, request, shown))
    if request.voxels * reader.layout.bytes_per_voxel <= SMALL_ANSWER_BYTES:
        return Answer.binary(_bytes_of(_box(reader, request, shown)))
    return Answer.binary(_bytes_of(slab) for slab in _slabs(reader, request, shown))


@dataclass(frozen=True, slots=True)
class ShownPart:
    """What a request is confined to: voxels of blocks outside are background, or darkened by some bits."""

    region: Region
    attenuation: int = 0


def _shown_part(call: Call) -> ShownPart | None:
    region = region_of(call)
    if region is None:
        return None
    text = call.query.get("attenuation", "")
    if not text:
        return ShownPart(region)
    attenuation = parse_integer(text)
    if not 1 <= attenuation <= 7:
        raise BadRequest("Attenuation should be from 1 to 7 (divides by 2^n)")
    if layout_of(call.instance).dtype != np.uint8:
        raise BadRequest(f"attenuation needs 8-bit voxels, {call.instance.name!r} is {call.instance.typename}")
    return ShownPart(region, attenuation)


def _box(
    reader: BlockReader, request: VolumeRequest, shown: ShownPart | None, blocks: Sequence[Located] | None = None
) -> Voxels:
    """The voxels [z, y, x(, channel)] of a box."""
    voxels = reader.box(request, blocks)
    if shown is not None:
        layout = reader.layout
        blank(voxels, request.offset_xyz, shown.region, layout.size_xyz, layout.background, shown.attenuation)
    return voxels


def _slabs(reader: BlockReader, request: VolumeRequest, shown: ShownPart | None) -> Iterator[Voxels]:
    """A box in pieces that follow each other along z."""
    layout = reader.layout
    x, y, z = request.offset_xyz
    for slab in reader.slabs(request):
        if shown is not None:
            blank(slab, (x, y, z), shown.region, layout.size_xyz, layout.background, shown.attenuation)
        yield slab
        z += len(slab)


def _slice_file(
    reader: BlockReader,
    source: SliceRequest,
    target: SliceRequest,
    image_format: ImageFormat,
    shown: ShownPart | None,
) -> bytes:
    """The image file of a slice that is read as `source` and rescaled to the size of `target`."""

    def make(blocks: Sequence[Located] | None) -> bytes:
        box = _box(reader, source.volume, shown, blocks)
        image = box.reshape(source.height, source.width, *box.shape[3:])
        return encode_image(rescale_average(image, target.width, target.height), image_format)

    if shown is not None:
        return make(None)
    return _kept(reader, source.volume, (source, target, image_format), make)


def _kept(reader: BlockReader, box: VolumeRequest, what: object, make: Callable[[Sequence[Located]], bytes]) -> bytes:
    """An encoded picture of a box, from the cache or by `make`.

    It is kept under the names of the stored values that it shows, so whoever sees the same values may have it, and
    nobody else.
    """
    blocks = reader.within(box)
    key = _picture_key(reader, blocks, what)
    found: bytes | None = reader.cache.get(key)
    if found is None:
        found = make(blocks)
        reader.cache.put(key, found, len(found) + 1000)
    return found


def _picture_key(reader: BlockReader, blocks: Sequence[Located], what: object) -> tuple[object, ...]:
    seen = hashlib.blake2b(digest_size=16)
    for block, handle in blocks:
        seen.update(b"%d %d %d %d " % (*block, len(handle)))
        seen.update(handle)
    return reader.source.instance_id, what, seen.digest()


def _bytes_of(voxels: Voxels) -> memoryview:
    return voxels.data.cast("B")


def _volume_jpeg(reader: BlockReader, request: VolumeRequest, shown: ShownPart | None) -> bytes:
    """A box as one JPEG; the stored one, if it is a block that is stored as such."""
    if shown is not None:
        return block_jpeg(_box(reader, request, shown))

    def make(blocks: Sequence[Located]) -> bytes:
        if len(blocks) == 1 and request.size_xyz == reader.layout.size_xyz and request.is_aligned(request.size_xyz):
            stored = memoryview(reader.source.load(blocks[0][1]))
            if stored[0] == JPEG:
                return bytes(stored[1:])
        return block_jpeg(reader.box(request, blocks))

    return _kept(reader, request, (request, "jpeg"), make)


def _lz4_volume(
    reader: BlockReader, request: VolumeRequest, shown: ShownPart | None
) -> bytes | Iterator[bytes | memoryview]:
    """A box as one LZ4 block without its size."""
    size_bytes = request.voxels * reader.layout.bytes_per_voxel
    if size_bytes > LZ4_ANSWER_BYTES:
        return itertools.chain([lz4_literals(size_bytes)], (_bytes_of(slab) for slab in _slabs(reader, request, shown)))
    packed: bytes = lz4.block.compress(_bytes_of(_box(reader, request, shown)), store_size=False)
    return packed


def get_arb(call: Call) -> Answer:
    request = parse_oblique(call.args)
    image_format = parse_format(call.args[4]) if len(call.args) > 4 else ImageFormat()
    reader = reader_of(call)
    if reader.layout.dtype != np.uint8:
        raise BadRequest(f"oblique slices need 8-bit voxels, {call.instance.name!r} is {call.instance.typename}")
    image = oblique_image(reader, request, call.instance.properties["VoxelSize"])
    return Answer(encode_image(image, image_format), image_format.content_type)


def post_raw(call: Call) -> Commit:
    """Replace the voxels of a block-aligned box."""
    request = parse_request(call.keyword, call.args)
    if isinstance(request, SliceRequest):
        raise BadRequest("DVID does not permit 2d mutations, only 3d block-aligned stores")
    if call.keyword == "isotropic":
        raise BadRequest("can only POST 'raw' not 'isotropic' images")
    _refuse_elsewhere(call)
    layout = layout_of(call.instance)
    check_payload(request, layout.bytes_per_voxel)
    region = region_of(call)
    check_alignment(request, layout.size_xyz)
    spool = BodySpool(request.voxels * layout.bytes_per_voxel, call.store.path)
    if call.query.get("compression") == "lz4":
        spool.fill(_unpacked(gathered(call.pieces(), call.store.path), spool.expected_bytes))
    else:
        spool.fill(call.pieces())
    check_body(request, layout.bytes_per_voxel, spool.received_bytes)
    volume = spool.data().view(layout.dtype).reshape(layout.array_shape(request.shape_zyx))
    blocks = encoded_blocks(volume, request, layout, call, region)

    def apply(change: Change) -> None:
        put_blocks(change, blocks)
        grow_extents(change, request)

    return Commit(apply)


def encoded_blocks(
    volume: Voxels, request: VolumeRequest, layout: BlockLayout, call: Call, region: Region | None
) -> EncodedBlocks:
    """The blocks of an aligned box, ready to be stored. `volume` is [z, y, x(, channel)].

    Blocks without a voxel inside of the region, if there is one, are left out.
    """
    inside = None if region is None else region.block_mask(request.offset_xyz, request.size_xyz, layout.size_xyz)
    spool = Spool(call.store.path)
    blocks: EncodedBlocks = []
    bx, by, bz = layout.size_xyz
    first, last = request.blocks(layout.size_xyz)
    for z in range(last[2] - first[2] + 1):
        for y in range(last[1] - first[1] + 1):
            for x in range(last[0] - first[0] + 1):
                if inside is not None and not inside[z, y, x]:
                    continue
                part = volume[z * bz : (z + 1) * bz, y * by : (y + 1) * by, x * bx : (x + 1) * bx]
                key = block_key((first[0] + x, first[1] + y, first[2] + z))
                blocks.append((key, spool.keep(encode_block(np.ascontiguousarray(part), layout))))
    return blocks


def put_blocks(change: Change, blocks: EncodedBlocks) -> None:
    change.view.put_spooled(BLOCKS, blocks)


def _unpacked(packed: NDArray[np.uint8], size_bytes: int) -> Iterable[Buffer]:
    if not fits_in_memory(size_bytes):
        return lz4_block.decompress_stream(packed, size_bytes)
    try:
        return (lz4.block.decompress(packed, uncompressed_size=size_bytes),)
    except lz4.block.LZ4BlockError as error:
        raise BadRequest(f"the body is not an LZ4 block of {size_bytes} bytes of voxels: {error}") from None


# -- blocks


def get_blocks(call: Call) -> Answer:
    """Consecutive blocks along x without headers; background where nothing is stored."""
    layout = layout_of(call.instance)
    start, span = _span(call, layout)
    return Answer.binary(_span_voxels(reader_of(call), start, span))


def _span_voxels(reader: BlockReader, start: Triple, span: int) -> Iterator[bytes | memoryview]:
    if not span:
        return
    missing = _bytes_of(reader.layout.background_array(reader.layout.size_xyz[::-1]))
    at = start[0]
    for block, voxels in reader.decoded_row(start, start[0] + span - 1):
        yield from itertools.repeat(missing, block[0] - at)
        yield _bytes_of(voxels)
        at = block[0] + 1
    yield from itertools.repeat(missing, start[0] + span - at)


def post_blocks(call: Call) -> Commit:
    """Replace consecutive blocks along x; what follows the last one is ignored."""
    _refuse_elsewhere(call)
    layout = layout_of(call.instance)
    (x, y, z), span = _span(call, layout)
    spool = BodySpool(span * layout.block_bytes, call.store.path)
    spool.fill(call.pieces())
    if spool.received_bytes < spool.expected_bytes:
        raise BadRequest(
            f"block data ceased before all block data read: {spool.received_bytes} bytes of {spool.expected_bytes}"
        )
    volume = spool.data().view(layout.dtype).reshape(span, *layout.shape)
    kept = Spool(call.store.path)
    blocks = [(block_key((x + i, y, z)), kept.keep(encode_block(volume[i], layout))) for i in range(span)]
    return Commit(lambda change: put_blocks(change, blocks))


def _span(call: Call, layout: BlockLayout) -> tuple[Triple, int]:
    """First block and number of blocks of `blocks/<block coordinate>/<span>`."""
    if len(call.args) < 2 or not all(call.args[:2]):
        raise BadRequest('"blocks" must be followed by block-coord/span-x')
    start, span = parse_triple(call.args[0], what="block coordinate"), parse_integer(call.args[1])
    if span < 0 or start[0] + span - 1 > INT32_MAX:
        raise BadRequest(f"a span of {span} blocks from {start} is not possible")
    if span * layout.block_bytes > PAYLOAD_LIMIT_BYTES:
        raise BadRequest(
            f"Requested payload ({span * layout.block_bytes} bytes) exceeds this DVID server's set limit "
            f"({PAYLOAD_LIMIT_BYTES})"
        )
    return start, span


# -- framed streams


def get_subvolblocks(call: Call) -> Answer:
    if len(call.args) < 2 or not all(call.args[:2]):
        raise BadRequest('"subvolblocks" must be followed by size/offset')
    layout = layout_of(call.instance)
    request = checked(parse_volume(call.args[0], call.args[1]))
    check_payload(request, layout.bytes_per_voxel)
    check_alignment(request, layout.size_xyz, "use labels via 'block' endpoint")
    framing = _framing(call, layout)
    reader = reader_of(call)
    records = _records(reader, reader.source.located(*request.blocks(layout.size_xyz)), framing)
    return Answer.binary(b"".join(records) if request.size_xyz == layout.size_xyz else records)


def get_specificblocks(call: Call) -> Answer:
    framing = _framing(call, layout_of(call.instance))
    text = call.query.get("blocks", "")
    numbers = [parse_integer(part) for part in text.split(",")] if text else []
    if len(numbers) % 3:
        raise BadRequest(f"block query string should be three coordinates per block, not {len(numbers)} numbers")
    reader = reader_of(call)
    blocks = ((numbers[i], numbers[i + 1], numbers[i + 2]) for i in range(0, len(numbers), 3))
    located = reader.source.listed(blocks)
    if call.query.get("prefetch") in ("on", "true"):
        warm_bytes = 0
        for _, handle in located:
            warm_bytes += reader.voxels(handle).nbytes
            if warm_bytes > reader.cache.limit_bytes // 2:
                break
        return Answer.binary(b"")
    return Answer.binary(_records(reader, located, framing))


def _framing(call: Call, layout: BlockLayout) -> str:
    framing = check_framing(call.query.get("compression", ""))
    x, y, z = layout.size_xyz
    if framing == AS_JPEG and max(x, y * z) > 65535:
        raise BadRequest(f"blocks of {layout.size_xyz} voxels are too large to be sent as JPEG")
    return framing


def _records(reader: BlockReader, blocks: Iterator[Located], framing: str) -> Iterator[bytes | memoryview]:
    """Headers and payloads of stored blocks."""
    per_batch = max(1, BATCH_BYTES // reader.layout.block_bytes)
    while batch := list(itertools.islice(blocks, per_batch)):
        for block, handle, stored in reader.source.stored(batch):
            parts = _framed(reader, handle, stored, framing)
            yield record_header(block, sum(map(len, parts)))
            yield from parts


def _framed(reader: BlockReader, handle: bytes, stored: memoryview, framing: str) -> list[bytes | memoryview]:
    if framing != AS_JPEG or stored[0] == JPEG:
        return framed_payload(stored, framing, reader.layout)
    found: bytes | None = reader.cache.get((handle, "jpeg"))
    if found is None:
        found = b"".join(framed_payload(stored, framing, reader.layout))
        if reader.source.is_kept(handle):
            reader.cache.put((handle, "jpeg"), found, len(found))
    return [found]
