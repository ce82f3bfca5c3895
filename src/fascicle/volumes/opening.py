"""From what a person names to a volume source."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from fascicle.volumes.array_files import CrackleVolume, Hdf5Volume, NpyVolume
from fascicle.volumes.array_folders import open_arrays
from fascicle.volumes.base import Pyramid, VolumeError, VolumeSource
from fascicle.volumes.chunk_cache import ChunkCache
from fascicle.volumes.image_stack import SUFFIXES, ImageStack
from fascicle.volumes.objects import Access, Forbidden, is_remote
from fascicle.volumes.precomputed import NoInfo, open_precomputed, plain_address
from fascicle.volumes.scan_files import NIFTI_SUFFIXES, NRRD_SUFFIXES, NiftiVolume, NrrdVolume
from fascicle.volumes.tiff_file import TiffVolume

_ARRAY_WORDS = ("zarr", "zarr2", "zarr3", "n5")
_SIGNS = ("info", "info.gz", "zarr.json", ".zattrs", ".zarray", ".zgroup", "attributes.json", "s0/attributes.json")
"""Files that tell a folder which is a volume."""


def open_volume(
    source: str | Sequence[str], dataset: str | None = None, scale: int = 0, channel: int | None = None
) -> VolumeSource:
    """Open a volume. Raises VolumeError if it is none of these:

    * image files: several names, a pattern (`stack/*.png`), or a folder of images;
    * `volume.h5` or `volume.h5.gz`; `dataset` names the 3-D dataset if there are several;
    * `volume.npy`, `volume.npy.ckl.gz` (crackle), a TIFF with several pages, NIfTI (`.nii`, `.nii.gz`), NRRD;
    * a precomputed volume, zarr 2 or 3, OME-Zarr or N5: a folder, or the address of one: `file://`, `http(s)://`,
      `gs://`, `s3://`, `vast://`, with or without `precomputed://`, `zarr://` or `n5://` before it; `scale` is the
      index of its scale; `channel` is needed if it has several; `dataset` is the path of an array or group in zarr and
      N5.

    Example: `with open_volume("stack/*.png") as volume: volume.read((0, 0, 0), (10, 100, 100))`
    """
    names = [source] if isinstance(source, str) else list(source)
    if len(names) > 1:
        return ImageStack([_existing(name) for name in names])
    name = names[0] if names else ""
    pyramid = _open_scales(name, dataset, None, None, channel)
    if pyramid is not None:
        return _one_of(pyramid, scale)
    if not Path(name).exists() and glob.has_magic(name):
        paths = [Path(found) for found in glob.glob(name)]
        if not paths:
            raise VolumeError(f"no file matches {name}")
        return ImageStack(paths, name) if len(paths) > 1 else _open_file(paths[0], dataset)
    path = _existing(name)
    if path.is_dir():
        return _open_folder(path)
    return _open_file(path, dataset)


def open_pyramid(
    address: str | Sequence[str],
    dataset: str | None = None,
    *,
    cache: ChunkCache | None = None,
    access: Access | None = None,
    channel: int | None = None,
) -> Pyramid:
    """Open all scales of a volume; `address`, `dataset` and `channel` as `open_volume` takes them.

    What is far away is kept in `cache`, and fetched as `access` says. A source that has only one scale is a pyramid of
    one. Scales that cannot be decoded are listed like the others; reading them raises VolumeError.

    Example: `with open_pyramid("https://example.org/gray") as gray: gray.scales[-1].read((0, 0, 0), (10, 100, 100))`
    """
    if isinstance(address, str):
        pyramid = _open_scales(address, dataset, cache, access, channel)
        if pyramid is not None:
            return pyramid
    source = open_volume(address, dataset)
    return Pyramid(source.name, _kind(source), (source,))


def _open_scales(
    name: str, dataset: str | None, cache: ChunkCache | None, access: Access | None, channel: int | None
) -> Pyramid | None:
    """A volume of a kind that may have several scales; None if the name is not of such a kind."""
    address, kind = _kind_named(name)
    is_address = kind != "" or is_remote(address) or address.startswith("file://")
    folder = Path(address.removeprefix("file://"))
    is_container = dataset is not None and folder.is_dir()
    if not is_address and not is_container and not any((folder / found).is_file() for found in _SIGNS):
        return None
    refusal: VolumeError | None = None
    if kind != "arrays" and (kind or dataset is None):
        try:
            return open_precomputed(address, cache, access, channel)
        except (NoInfo, Forbidden) as error:
            if kind:
                raise
            refusal = error if isinstance(error, Forbidden) else None
    pyramid = open_arrays(address, dataset, access, channel)
    if pyramid is None:
        if refusal is not None:
            raise refusal
        what = "neither zarr nor N5" if kind else "neither a precomputed volume (no file named info), nor zarr, nor N5"
        raise VolumeError(f"{'/'.join(filter(None, (address, dataset)))} is {what}")
    return pyramid


def _kind_named(name: str) -> tuple[str, str]:
    """An address without the words that say what is there, and what they say."""
    plain = plain_address(name)
    if plain != name:
        return plain, "precomputed"
    for word in _ARRAY_WORDS:
        if name.startswith(f"{word}://"):
            return name.removeprefix(f"{word}://"), "arrays"
        if name.endswith(f"|{word}:"):
            return name.removesuffix(f"|{word}:"), "arrays"
    return name, ""


def _one_of(pyramid: Pyramid, scale: int) -> VolumeSource:
    """One scale of a volume, which can be read."""
    if not 0 <= scale < len(pyramid.scales):
        raise VolumeError(f"{pyramid.name} has {len(pyramid.scales)} scales, so there is no scale {scale}")
    for i, other in enumerate(pyramid.scales):
        if i != scale:
            other.close()
    source = pyramid.scales[scale]
    source.check()
    return source


def _kind(source: VolumeSource) -> str:
    """What wider integers are taken for if the source does not say."""
    return "segmentation" if source.dtype.kind in "iu" and source.dtype.itemsize >= 4 else "image"


def _open_folder(path: Path) -> VolumeSource:
    images = [found for found in path.iterdir() if found.suffix.lower() in SUFFIXES]
    if not images:
        raise VolumeError(f"the folder {path} has neither images, nor a precomputed volume, zarr or N5")
    return ImageStack(images, str(path))


def _open_file(path: Path, dataset: str | None) -> VolumeSource:
    name = path.name.lower()
    if name.endswith((".h5", ".hdf5", ".hdf", ".h5.gz", ".hdf5.gz")):
        return Hdf5Volume(path, dataset)
    if name.endswith((".ckl", ".ckl.gz")):
        return CrackleVolume(path)
    if name.endswith(".npy"):
        return NpyVolume(path)
    if name.endswith(NIFTI_SUFFIXES):
        return NiftiVolume(path)
    if name.endswith(NRRD_SUFFIXES):
        return NrrdVolume(path)
    if name.endswith((".tif", ".tiff", ".btf", ".tf8")):
        return TiffVolume(path)
    if name.endswith(SUFFIXES):
        return ImageStack([path])
    kinds = "images, .h5, .npy, .npy.ckl.gz, .tif, .nii, .nrrd, or a folder with a precomputed volume, zarr or N5"
    raise VolumeError(f"{path} is of no known kind: {kinds}")


def _existing(name: str) -> Path:
    path = Path(name)
    if not path.exists():
        raise VolumeError(f"{name} does not exist")
    return path
