"""Reading voxels: dense volumes and slices, and streams of label blocks.

Dense answers are made slab by slab and block streams batch by batch, so their memory does not grow with the request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from isal import igzip, isal_zlib
from numpy.typing import NDArray

from fascicle.datatypes import slice_images
from fascicle.datatypes.base import Answer, Call, Option, Reply, Route, Work
from fascicle.datatypes.image.block_cache import BlockCache, cache_of
from fascicle.datatypes.labelmap import blocks, uploads
from fascicle.datatypes.labelmap.mapping import Mapping, mapping_at
from fascicle.datatypes.labelmap.slabs import mapped, slabs, volume
from fascicle.datatypes.roi.option import ROI, blank, region_of
from fascicle.datatypes.roi.regions import Region
from fascicle.datatypes.voxel_requests import (
    SliceRequest,
    Triple,
    VolumeRequest,
    check_alignment,
    check_payload,
    checked,
    parse_integer,
    parse_request,
    parse_volume,
)
from fascicle.errors import BadRequest
from fascicle.formats import compressed_segmentation, gzip_stream, label_block, lz4_block, pseudocolor
from fascicle.formats.block_code import LIMIT, block_codes, block_xyz
from fascicle.formats.label_block import LabelBlock
from fascicle.versions.resolution import VersionedView

U64 = NDArray[np.uint64]
Pieces: TypeAlias = Iterable[bytes | memoryview]
Found: TypeAlias = Iterator[tuple[NDArray[np.uint64], list[bytes]]]

GZIP_WINDOW = 31
"""The `wbits` of a gzip stream."""

CACHED_VOXELS = 1 << 24
"""Volumes up to this size keep their blocks inflated for the next request; larger ones would only flush the cache."""

SCALE = Option("scale", "resolution level, 0 (default) is the finest")
SUPERVOXELS = Option("supervoxels", "true: supervoxels instead of bodies")
THROTTLE = Option("throttle", "on or true: refuse with 503 while the maximum of such requests runs")


# -- what requests say


def block_size(call: Call) -> Triple:
    """Voxels per axis of a block, x, y, z."""
    x, y, z = call.instance.properties["BlockSize"]
    return x, y, z


def scale_of(call: Call) -> int:
    """The option `scale`. Levels above the instance's highest hold nothing, but may be asked for."""
    scale = call.integer("scale", 0)
    if not 0 <= scale <= 255:
        raise BadRequest(f"scale must be a number from 0 to 255, not {scale}")
    return scale


def mapping_of(call: Call, view: VersionedView) -> Mapping | None:
    """The mapping to show bodies with; None where supervoxels are wanted or there is nothing to map."""
    if call.flag("supervoxels"):
        return None
    mapping = mapping_at(view)
    return mapping if mapping.tiers else None


def shown_region(call: Call, scale: int) -> Region | None:
    """The region that the answer is confined to, if one is named. Raises BadRequest."""
    region = region_of(call)
    if region is not None and scale:
        raise BadRequest(f"the option 'roi' is for scale 0 only, not {scale}")
    return region


# -- raw, isotropic


def get_raw(call: Call) -> Reply:
    """Dense labels of a volume, or a slice as an image."""
    request = parse_request(call.keyword, call.args)
    scale = scale_of(call)
    region = shown_region(call, scale)
    check_payload(request, 8)
    if isinstance(request, SliceRequest):
        return _slice(call, request, scale, region, isotropic=call.keyword == "isotropic")
    compression = call.query.get("compression", "")
    if compression in ("", "none"):
        return Answer.binary(_plain(_slabs(call, request, scale, region)))
    if compression == "lz4":
        return Answer.binary(lz4_block.compress_stream(_slabs(call, request, scale, region), 8 * request.voxels))
    if compression == "gzip":
        return Answer.binary(_gzipped(_plain(_slabs(call, request, scale, region))))
    if compression in ("google", "googlegzip"):
        return _google(call, request, scale, region, gzipped=compression == "googlegzip")
    raise BadRequest(f'unknown compression type "{compression}": it can be none, lz4, gzip, google or googlegzip')


def _slabs(
    call: Call, request: VolumeRequest, scale: int, region: Region | None, whole_planes: bool = False
) -> Iterator[U64]:
    view, size = call.view, block_size(call)
    cache = cache_of(call.store) if request.voxels <= CACHED_VOXELS else None
    found = slabs(view, scale, request, size, mapping_of(call, view), cache, whole_planes)
    return found if region is None else _confined(found, request, region, size)


def _confined(parts: Iterator[U64], request: VolumeRequest, region: Region, size: Triple) -> Iterator[U64]:
    """Parts of a box as `slabs` gives them, with 0 in blocks outside of a region."""
    x, y, z = request.offset_xyz
    row = 0
    for part in parts:
        blank(part, (x, y + row, z), region, size)
        yield part
        row += part.shape[1]
        if row == request.size_xyz[1]:
            row, z = 0, z + len(part)


def _plain(parts: Iterable[U64]) -> Pieces:
    for part in parts:
        yield part.reshape(-1).view(np.uint8).data


def _gzipped(pieces: Pieces) -> Pieces:
    compressor = isal_zlib.compressobj(1, isal_zlib.DEFLATED, GZIP_WINDOW)
    for piece in pieces:
        packed = compressor.compress(piece)
        if packed:
            yield packed
    yield compressor.flush()


def _slice(call: Call, request: SliceRequest, scale: int, region: Region | None, isotropic: bool) -> Answer:
    image_format = slice_images.parse_format(call.args[3] if len(call.args) > 3 else "")
    source = request.isotropic_source(call.instance.properties["VoxelSize"]) if isotropic else request
    check_payload(source, 8)
    image = _slice_labels(call, source, scale, region, mapping_of(call, call.view))
    if isotropic:
        image = slice_images.rescale_nearest(image, request.width, request.height)
    return Answer(slice_images.encode_image(image, image_format), image_format.content_type)


def _slice_labels(
    call: Call, request: SliceRequest, scale: int, region: Region | None, mapping: Mapping | None
) -> U64:
    """Labels u64[row, column] of a slice."""
    across, down = request.axes
    dense = volume(call.view, scale, request.volume, block_size(call), mapping)
    if region is not None:
        blank(dense, request.offset_xyz, region, block_size(call))
    return dense.reshape(request.height, request.width) if (across, down) != (0, 0) else dense


def get_pseudocolor(call: Call) -> Reply:
    """A slice of bodies in colours that depend on nothing but the label."""
    request = parse_request(call.keyword, call.args)
    if not isinstance(request, SliceRequest):
        raise BadRequest("pseudocolor is for 2-D images only: ask for a plane like xy")
    scale = scale_of(call)
    region = shown_region(call, scale)
    check_payload(request, 8)
    image_format = slice_images.parse_format(call.args[3] if len(call.args) > 3 else "")
    mapping = mapping_at(call.view)
    labels = _slice_labels(call, request, scale, region, mapping if mapping.tiers else None)
    image = pseudocolor.colours(labels)
    if image_format.kind == "png":  # opaque, so without the channel that would say so
        image = np.ascontiguousarray(image[..., :3])
    return Answer(slice_images.encode_image(image, image_format), image_format.content_type)


# -- compressed segmentation


def _google(call: Call, request: VolumeRequest, scale: int, region: Region | None, gzipped: bool) -> Answer:
    """A volume as Neuroglancer's compressed segmentation."""
    if any(size % 8 for size in request.size_xyz):
        raise BadRequest(f"compression google needs sizes that are multiples of 8, not those of a {request}")
    size = block_size(call)
    if region is None and request.size_xyz == size and request.is_aligned(size):
        body = _google_block(call, request, scale, gzipped)
    else:
        parts = compressed_segmentation.encode_slabs(_slabs(call, request, scale, region, True), request.shape_zyx)
        body = igzip.compress(parts, 1) if gzipped else parts
    return _segmentation(body, gzipped)


def _background(size: Triple) -> LabelBlock:
    gx, gy, gz = (edge // 8 for edge in size)
    return LabelBlock(gx, gy, gz, np.zeros(1, np.uint64), np.empty(0, np.uint8), 0)


@lru_cache(maxsize=16)
def _background_segmentation(size: Triple, gzipped: bool) -> bytes:
    encoded = compressed_segmentation.from_label_block(_background(size))
    return gzip_stream.gzipped(encoded, 1) if gzipped else encoded


def _handle_at(call: Call, view: VersionedView, request: VolumeRequest, scale: int) -> bytes | None:
    """The stored block that is a box, if there is one."""
    (bx, by, bz), (x, y, z) = block_size(call), request.offset_xyz
    return blocks.find_block(view, scale, (x // bx, y // by, z // bz))


def _google_block(call: Call, request: VolumeRequest, scale: int, gzipped: bool) -> bytes:
    """One whole block, made from its tables without expanding it."""
    view = call.view
    handle = _handle_at(call, view, request, scale)
    if handle is None:
        return _background_segmentation(block_size(call), gzipped)
    return segmentation_of_block(view, cache_of(call.store), handle, mapping_of(call, view), gzipped)


def segmentation_of_block(
    view: VersionedView, cache: BlockCache, handle: bytes, mapping: Mapping | None, gzipped: bool
) -> bytes:
    """A stored block as compressed segmentation, in a gzip stream if wanted; remembered by the block and its labels."""
    kept = kept_segmentation(view, cache, handle, mapping, gzipped)
    if kept is not None:
        return kept
    known = cache.get(handle)  # if it is not there, it need not be: from now on the answer is
    (block,) = mapped(blocks.open_blocks(view, [handle]) if known is None else [known], mapping)
    key = (handle, gzipped, block.table.tobytes())
    answer: bytes | None = cache.get(key)
    if answer is None:
        answer = compressed_segmentation.from_label_block(block)
        if gzipped:
            answer = gzip_stream.gzipped(answer, 1)  # the same bytes at any time
        cache.put(key, answer, len(answer) + 8 * len(block.table) + 300)
    cache.put(_as_seen(view, handle, mapping, gzipped), key, 300)
    return answer


def kept_segmentation(
    view: VersionedView, cache: BlockCache, handle: bytes, mapping: Mapping | None, gzipped: bool
) -> bytes | None:
    """What `segmentation_of_block` remembers of a block as this very state of the mapping shows it."""
    key = cache.get(_as_seen(view, handle, mapping, gzipped))
    answer: bytes | None = None if key is None else cache.get(key)
    return answer


def _as_seen(view: VersionedView, handle: bytes, mapping: Mapping | None, gzipped: bool) -> tuple[object, ...]:
    """What tells where a block is kept, without a look at its labels: no two states of a mapping share a stamp."""
    if mapping is None:
        return handle, gzipped
    return handle, gzipped, view.ancestry.version, mapping.stamp


def kept_raw(call: Call) -> Answer | None:
    """The chunk of a viewer, if it is one whole block that is remembered or that nothing is stored of."""
    compression = call.query.get("compression")
    if compression not in ("google", "googlegzip") or "roi" in call.query:
        return None
    request = parse_request(call.keyword, call.args)
    size = block_size(call)
    if isinstance(request, SliceRequest) or request.size_xyz != size or not request.is_aligned(size):
        return None
    view, gzipped = call.view, compression == "googlegzip"
    handle = _handle_at(call, view, request, scale_of(call))
    if handle is None:
        return _segmentation(_background_segmentation(size, gzipped), gzipped)
    kept = kept_segmentation(view, cache_of(call.store), handle, mapping_of(call, view), gzipped)
    return None if kept is None else _segmentation(kept, gzipped)


def _segmentation(body: bytes, gzipped: bool) -> Answer:
    return Answer(body, "application/octet-stream", headers=[("Content-Encoding", "gzip")] if gzipped else [])


# -- block streams


def _record(xyz: list[int], payload: bytes) -> bytes:
    return np.array([*xyz, len(payload)], "<i4").tobytes() + payload


def _dense_payload(compression: str) -> Callable[[U64], bytes]:
    if compression == "lz4":
        return lambda dense: lz4_block.compress_labels(dense.reshape(-1), dense.shape[2])
    if compression == "gzip":
        return lambda dense: igzip.compress(dense, 1)
    if compression == "uncompressed":
        return lambda dense: dense.tobytes()
    raise BadRequest(f'unknown compression type "{compression}": it can be blocks, lz4, gzip or uncompressed')


def _stream(view: VersionedView, found: Found, compression: str, mapping: Mapping | None) -> Pieces:
    """The records of stored blocks: as label blocks, or dense."""
    if compression == "blocks":
        return _label_blocks(view, found, mapping)
    return _dense_blocks(view, found, _dense_payload(compression), mapping)


def _label_blocks(view: VersionedView, found: Found, mapping: Mapping | None) -> Pieces:
    for codes, handles in found:
        batch = blocks.load_blocks(view, handles)
        xyz = block_xyz(codes).astype(np.int32)
        parts = (batch.buffer, batch.offsets, batch.lengths, 0)
        if mapping is None:
            yield label_block.block_stream(*parts, xyz).data
        else:
            tables, starts = label_block.gather_tables(*parts)
            yield label_block.block_stream(*parts, xyz, mapping.bodies(tables), starts).data


def _dense_blocks(
    view: VersionedView, found: Found, pack: Callable[[U64], bytes], mapping: Mapping | None
) -> Pieces:
    for codes, handles in found:
        for xyz, block in zip(
            block_xyz(codes).tolist(), mapped(blocks.open_blocks(view, handles), mapping), strict=True
        ):
            yield _record(xyz, pack(label_block.decode(block)))


def get_blocks(call: Call) -> Reply:
    """All stored blocks of a box."""
    if len(call.args) < 2:
        raise BadRequest('"blocks" must be followed by size/offset')
    request = parse_volume(call.args[0], call.args[1])
    size = block_size(call)
    scale = scale_of(call)
    compression = call.query.get("compression") or "lz4"
    if compression != "blocks":
        _dense_payload(compression)
    if min(request.size_xyz) < 0:
        raise BadRequest(f"Illegal geometry requested: {request}")
    check_alignment(request, size, "get blocks")
    if min(request.size_xyz) == 0:
        return Answer.binary(b"")
    low, high = checked(request).blocks(size)
    view = call.view
    return Answer.binary(_stream(view, blocks.scan_box(view, scale, low, high), compression, mapping_of(call, view)))


def get_specificblocks(call: Call) -> Reply:
    """Listed blocks, as far as they are stored."""
    text = call.query.get("blocks", "")
    scale = scale_of(call)
    compression = call.query.get("compression") or "blocks"
    if compression != "blocks":
        _dense_payload(compression)
    if not text:
        return Answer.binary(b"")
    numbers = [parse_integer(part) for part in text.split(",")]
    if len(numbers) % 3:
        raise BadRequest(f"the option 'blocks' must have three numbers for each block, not {len(numbers)} numbers")
    view = call.view
    return Answer.binary(_stream(view, _listed(view, scale, numbers), compression, mapping_of(call, view)))


def _listed(view: VersionedView, scale: int, numbers: list[int]) -> Found:
    """Listed blocks in batches, in the order of the list; one that is listed twice comes twice."""
    xyz = np.array(numbers, np.int64).reshape(-1, 3)
    xyz = xyz[(np.abs(xyz) <= LIMIT).all(axis=1)]
    for begin in range(0, len(xyz), blocks.BATCH_BLOCKS):
        codes = block_codes(xyz[begin : begin + blocks.BATCH_BLOCKS])
        unique, inverse = np.unique(codes, return_inverse=True)
        places, handles = blocks.find_blocks(view, scale, unique)
        handle_of = dict(zip(places.tolist(), handles, strict=True))
        kept = [(i, handle_of[place]) for i, place in enumerate(inverse.tolist()) if place in handle_of]
        if kept:
            yield codes[[i for i, _ in kept]], [handle for _, handle in kept]


_DENSE = Option("compression", "of a volume: none (default), lz4, gzip, google or googlegzip")
_FORMATS = "2-D: png (default), jpg[:quality], tiff or bmp."

ROUTES = (
    Route(
        "raw",
        {"GET": get_raw, "POST": uploads.post_raw},
        "The labels of a volume or a slice, u64; POST writes the supervoxels of a block-aligned volume, and with them "
        "all scales and the index. " + _FORMATS,
        "<dims>/<size>/<offset>[/<format>]",
        (SCALE, SUPERVOXELS, _DENSE, ROI, THROTTLE, Option("mutate", "accepted; the index is always kept right")),
        work=Work.HEAVY,
        streams_body=True,
        throttled=True,
        at_once=kept_raw,
    ),
    Route(
        "isotropic",
        {"GET": get_raw, "POST": uploads.refuse_isotropic},
        "Like raw; slices are rescaled so that their pixels are square.",
        "<dims>/<size>/<offset>[/<format>]",
        (SCALE, SUPERVOXELS, _DENSE, ROI, THROTTLE),
        work=Work.HEAVY,
        throttled=True,
    ),
    Route(
        "pseudocolor",
        {"GET": get_pseudocolor},
        "A slice of bodies in colours. " + _FORMATS,
        "<dims>/<size>/<offset>[/<format>]",
        (SCALE, ROI),
        work=Work.HEAVY,
    ),
    Route(
        "blocks",
        {"GET": get_blocks, "POST": uploads.post_blocks},
        "The stored blocks of a block-aligned box; POST writes a stream of gzipped label blocks of supervoxels.",
        "<size>/<offset>",
        (
            SCALE,
            SUPERVOXELS,
            Option("compression", "lz4 (default), gzip, uncompressed: dense labels; blocks: gzipped label blocks"),
            Option("downres", "POST, true: compute the scales above; only for scale 0"),
            Option("noindexing", "POST, true: leave the label indices alone"),
            THROTTLE,
        ),
        work=Work.HEAVY,
        streams_body=True,
        throttled=True,
    ),
    Route(
        "specificblocks",
        {"GET": get_specificblocks},
        "The stored blocks among those listed.",
        "",
        (
            Option("blocks", "block coordinates x,y,z,x,y,z,..."),
            Option("compression", "blocks (default), lz4, gzip or uncompressed"),
            SCALE,
            SUPERVOXELS,
        ),
        work=Work.HEAVY,
    ),
    Route(
        "ingest-supervoxels",
        {"POST": uploads.post_ingest},
        "Store a stream of gzipped label blocks of supervoxels, and nothing else: no index, no other scales.",
        "",
        (SCALE,),
        work=Work.HEAVY,
        streams_body=True,
    ),
)
