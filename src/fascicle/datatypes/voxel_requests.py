"""What the URLs of voxel requests ask for: planes, sizes, offsets, and the limits on them.

Images and labels share these forms. At this edge coordinates are x, y, z, as in URLs; arrays made from a request are
[z, y, x]. Everything here raises BadRequest for text that makes no sense.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from fascicle.errors import BadRequest

Triple = tuple[int, int, int]

PAYLOAD_LIMIT_BYTES = 3 << 30
"""The largest answer or body of dense voxels."""
PICTURE_LIMIT_BYTES = 512 << 20
"""The same for what is encoded as one picture, which has to be in memory as a whole."""
INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1

_DIMS = {
    "0_1": "xy",
    "xy": "xy",
    "0_2": "xz",
    "xz": "xz",
    "1_2": "yz",
    "yz": "yz",
    "0_1_2": "xyz",
    "vol": "xyz",
}
_AXES = {"xy": (0, 1), "xz": (0, 2), "yz": (1, 2)}


@dataclass(frozen=True, slots=True)
class VolumeRequest:
    """A box of voxels: its size and the coordinate of its first voxel, each x, y, z."""

    size_xyz: Triple
    offset_xyz: Triple

    @property
    def end_xyz(self) -> Triple:
        """The last voxel, inclusive."""
        (x, y, z), (sx, sy, sz) = self.offset_xyz, self.size_xyz
        return (x + sx - 1, y + sy - 1, z + sz - 1)

    @property
    def shape_zyx(self) -> Triple:
        """The shape of an array that holds the box."""
        sx, sy, sz = self.size_xyz
        return (sz, sy, sx)

    @property
    def offset_zyx(self) -> Triple:
        x, y, z = self.offset_xyz
        return (z, y, x)

    @property
    def voxels(self) -> int:
        sx, sy, sz = self.size_xyz
        return sx * sy * sz

    def is_aligned(self, block_size_xyz: Sequence[int]) -> bool:
        """Whether the box consists of whole blocks."""
        return all(
            offset % block == 0 and size % block == 0
            for offset, size, block in zip(self.offset_xyz, self.size_xyz, block_size_xyz, strict=True)
        )

    def blocks(self, block_size_xyz: Sequence[int]) -> tuple[Triple, Triple]:
        """The first and the last block (inclusive) that the box touches, each x, y, z in block units."""
        bx, by, bz = block_size_xyz
        (x, y, z), (ex, ey, ez) = self.offset_xyz, self.end_xyz
        return (x // bx, y // by, z // bz), (ex // bx, ey // by, ez // bz)

    def __str__(self) -> str:
        return f"3d volume {triple_text(self.size_xyz)} at offset {triple_text(self.offset_xyz)}"


@dataclass(frozen=True, slots=True)
class SliceRequest:
    """An axis-aligned 2-D image: its plane (`xy`, `xz` or `yz`), its size and the coordinate of its top left pixel.

    The first letter of the plane is the axis of the image's width, the second one that of its height.
    """

    plane: str
    width: int
    height: int
    offset_xyz: Triple

    @property
    def axes(self) -> tuple[int, int]:
        """The axes of width and height: 0 is x, 1 is y, 2 is z."""
        return _AXES[self.plane]

    @property
    def volume(self) -> VolumeRequest:
        """The same voxels as a box of thickness 1; its array [z, y, x] squeezed is the image [row, column]."""
        size = [1, 1, 1]
        across, down = self.axes
        size[across], size[down] = self.width, self.height
        return VolumeRequest((size[0], size[1], size[2]), self.offset_xyz)

    @property
    def voxels(self) -> int:
        return self.width * self.height

    def isotropic_source(self, voxel_size_xyz: Sequence[float]) -> SliceRequest:
        """The slice to read so that, rescaled to this request's size, its pixels are square."""
        across, down = self.axes
        rx, ry = voxel_size_xyz[across], voxel_size_xyz[down]
        width, height = self.width, self.height
        if rx < ry:
            height = int(height * rx / ry + 0.5)
        elif rx > ry:
            width = int(width * ry / rx + 0.5)
        return checked(SliceRequest(self.plane, width, height, self.offset_xyz))

    def __str__(self) -> str:
        size = triple_text((self.width, self.height))
        return f"{self.plane.upper()} image of size {size} at offset {triple_text(self.offset_xyz)}"


def triple_text(triple: Sequence[int]) -> str:
    """`(x,y,z)` as in error texts."""
    return "(" + ",".join(str(value) for value in triple) + ")"


def parse_integer(text: str) -> int:
    """A decimal int32, which blanks may surround."""
    stripped = text.strip()
    digits = stripped[1:] if stripped[:1] in ("-", "+") else stripped
    if not (digits.isascii() and digits.isdigit()):
        raise BadRequest(f'cannot read "{text}" as a coordinate: it must be a decimal integer')
    value = int(stripped)
    if not INT32_MIN <= value <= INT32_MAX:
        raise BadRequest(f'cannot read "{text}" as a coordinate: it must fit in 32 bits')
    return value


def parse_point(text: str, separator: str = "_") -> tuple[int, ...]:
    """Integers between separators, e.g. `10_20_30`."""
    return tuple(parse_integer(part) for part in text.split(separator))


def parse_triple(text: str, separator: str = "_", what: str = "coordinate") -> Triple:
    """Exactly three integers."""
    values = parse_point(text, separator)
    if len(values) != 3:
        raise BadRequest(f'{what} "{text}" must have 3 (not {len(values)}) dimensions')
    return values[0], values[1], values[2]


def parse_dims(text: str) -> str:
    """`xy`, `xz`, `yz` or `xyz` from any spelling of a shape, e.g. `0_1`, `XZ`, `0,1,2`, `vol`."""
    plane = _DIMS.get(text.lower().replace(",", "_"))
    if plane is None:
        raise BadRequest(f"Unknown data shape specification ({text})")
    return plane


Request = TypeVar("Request", VolumeRequest, SliceRequest)


def checked(request: Request) -> Request:
    """The request, if it has voxels and ends within 32 bit coordinates."""
    volume = request.volume if isinstance(request, SliceRequest) else request
    if min(volume.size_xyz) <= 0 or max(volume.end_xyz) > INT32_MAX:
        raise BadRequest(f"Illegal geometry requested: {request}")
    return request


def parse_volume(size: str, offset: str) -> VolumeRequest:
    """A box from `SX_SY_SZ` and `X_Y_Z`. Its size may still be illegal: see `checked`."""
    offset_xyz = _parse_offset(offset)
    values = parse_point(size)
    if len(values) != 3:
        raise BadRequest(f"Size must be 3 (not {len(values)}) dimensions")
    return VolumeRequest((values[0], values[1], values[2]), offset_xyz)


def parse_slice(plane: str, size: str, offset: str) -> SliceRequest:
    """A slice from its plane, `W_H` and `X_Y_Z`. Its size may still be illegal: see `checked`."""
    offset_xyz = _parse_offset(offset)
    values = parse_point(size)
    if len(values) != 2:
        raise BadRequest(f'cannot parse "{size}" into a 2d point')
    return SliceRequest(plane, values[0], values[1], offset_xyz)


def parse_request(keyword: str, args: Sequence[str]) -> VolumeRequest | SliceRequest:
    """The voxels asked for by `<keyword>/<dims>/<size>/<offset>`; `args` is what follows the keyword.

    The result has a positive number of voxels.
    """
    if len(args) < 3 or not all(args[:3]):
        raise BadRequest(f'"{keyword}" must be followed by shape/size/offset')
    plane = parse_dims(args[0])
    if plane == "xyz":
        return checked(parse_volume(args[1], args[2]))
    return checked(parse_slice(plane, args[1], args[2]))


def check_payload(
    request: VolumeRequest | SliceRequest, bytes_per_voxel: int, limit_bytes: int = PAYLOAD_LIMIT_BYTES
) -> int:
    """The size of the dense voxels in bytes; BadRequest if it exceeds the limit."""
    size_bytes = request.voxels * bytes_per_voxel
    if size_bytes > limit_bytes:
        raise BadRequest(f"Requested payload ({size_bytes} bytes) exceeds this DVID server's set limit ({limit_bytes})")
    return size_bytes


def check_alignment(request: VolumeRequest, block_size_xyz: Sequence[int], doing: str = "store voxels") -> None:
    """BadRequest unless the box consists of whole blocks."""
    if not request.is_aligned(block_size_xyz):
        raise BadRequest(
            f"cannot {doing} in non-block aligned geometry "
            f"{triple_text(request.offset_xyz)} -> {triple_text(request.end_xyz)}"
        )


def check_body(request: VolumeRequest, bytes_per_voxel: int, body_bytes: int) -> None:
    """BadRequest unless a body of dense voxels has exactly the size of the box."""
    expected = request.voxels * bytes_per_voxel
    if body_bytes != expected:
        raise BadRequest(f"voxels data was {body_bytes} bytes, expected {expected} bytes for {request}")


def _parse_offset(text: str) -> Triple:
    values = parse_point(text)
    if len(values) != 3:
        raise BadRequest(f"Offset must be 3d coordinate, not {len(values)}-d coordinate")
    return values[0], values[1], values[2]
