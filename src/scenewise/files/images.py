"""Reading images and label maps from files, and taking images from memory.

What a pixel is worth, whatever the file:

* Grey, 1-bit and palette images become RGB. An alpha channel or transparent colour is dropped, not composited over
  anything, and CMYK (with Adobe's inversion in JPEG) is converted as Pillow does.
* 16-bit grey keeps the high byte of each value, as Pillow and torchvision do for 16-bit colour: 65535 becomes 255.
  Where no value needs more than 12 bits, as from a 12-bit camera, the picture has 8, 10 or 12 bits, the fewest that
  hold its values, and their highest eight are kept; this is reported once, with the range.
* Images are turned as their EXIF orientation says. In a PNG it counts where it stands before the pixels.
* Of files with several pictures (GIF, multi-page TIFF) it is the first; that a TIFF has more pages is reported once.
* HEIC is read where the user has installed Pillow's plugin, pi-heif or pillow-heif. It is no extra of ours, for what
  these packages bring along is under the LGPL or the GPL.
* A file that breaks off is refused, also where the program has told Pillow to fill up what is missing.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError, features
from torch import Tensor

from scenewise.errors import DataError, ScenewiseError, UsageError
from scenewise.files.tiffs import TiffLayout, has_tifffile, read_tiff, tiff_layout

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile as Picture

MAX_PIXELS = 178_956_970  # Pillow's own limit (half a GiB as RGB), here even where a program has switched Pillow's off
HEIF = next((name for name in ("pi_heif", "pillow_heif") if importlib.util.find_spec(name)), None)  # the user's own
IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
    | ({".avif"} if features.check("avif") else set())  # what this Pillow was built with
    | ({".heic", ".heif"} if HEIF else set())
)
NARROW = 12  # bits: 16-bit grey that needs no more has that depth or less

UInt8 = npt.NDArray[np.uint8]

TURNS = {  # EXIF orientation -> what makes the picture upright (EXIF 2.32, table 6)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


TURNS_OF_ARRAYS: dict[int, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {  # the same of [H,W,C]
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: pixels.transpose(1, 0, 2)[:, ::-1],
    7: lambda pixels: pixels.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda pixels: pixels.transpose(1, 0, 2)[::-1],
}


def read_image(path: str | Path) -> Tensor:
    """The image in ``path`` as RGB, uint8 [3,H,W], upright; a view of [H,W,3], in which it resizes fastest.

    Raises:
        DataError: names the file: it is missing, empty, truncated, no image, has more than ``MAX_PIXELS`` pixels (which
            as its header states, before anything is decoded), or its pixels have no defined range (floating point).
    """
    layout = tiff_layout(path)
    if layout is not None and (layout.many or (layout.deep and has_tifffile())):
        return _as_form(_tiff_bands(path, layout), str(path), 3, 8, DataError)
    with _opened(path) as picture:
        if (deep := _deep_colors(picture, path)) is not None:
            bands = _eight_bits(deep, str(path), DataError)
            return _chw(np.ascontiguousarray(bands[..., :3]))
        if picture.format == "TIFF" and (pages := int(getattr(picture, "n_frames", 1))) > 1:
            _warn_once("pages", f"{path}: has {pages} pages; the first is read. Other files may have several, too")
        pixels = _rgb(_upright(picture), str(path), DataError)
        if layout is not None and layout.deep and pixels.max() < 1 << (NARROW - 8):  # the high bytes alone
            _warn_once(
                "dark",
                f"{path}: 16-bit colours whose values need {NARROW} bits or fewer, so that the picture is nearly "
                "black; pip install 'scenewise[tiff]' has such files read by the range that they have",
            )
        return _chw(pixels)


def read_bands(path: str | Path, channels: int, bits: Literal[8, 16] = 8) -> Tensor:
    """The image in ``path`` with its own channels, upright: uint8 [C,H,W]; of 16 ``bits`` float32 in 0..1, each value
    as a part of what its file can hold (65535 or 255).

    A grey picture has one channel, RGB three, RGBA four, of which alpha is one; a TIFF any number, side by side or, of
    grey pages, one a page.
    Palettes are RGB. One channel of colours is their luma (ITU-R 601-2); three of a grey picture are equal, and three
    of RGBA are without alpha.

    Raises:
        DataError: as :func:`read_image`, or the file has another number of channels.
        MissingExtraError: only tifffile reads it, which is not installed.
    """
    if (layout := tiff_layout(path)) is not None and layout.beyond_pillow:
        return _as_form(_tiff_bands(path, layout), str(path), channels, bits, DataError)
    with _opened(path) as picture:
        values = _bands(picture, path, channels)
    return _as_form(values, str(path), channels, bits, DataError)


def _as_form(
    values: npt.NDArray[Any], name: str, channels: int, bits: Literal[8, 16], kind: type[ScenewiseError]
) -> Tensor:
    """Bands [H,W,C], uint8 or wider, as :func:`read_bands` gives them; an error of ``kind`` where they don't fit."""
    found = values.shape[2]
    if channels == 3 and found in (1, 4):
        values = np.repeat(values, 3, 2) if found == 1 else values[..., :3]
    elif found != channels:
        raise kind(
            f"{name}: has {found} channel{'s' if found > 1 else ''}; expected {channels}, as input.channels says. For "
            f"a model of such images state input.channels: {found}; a TIFF of grey pages has one a page"
        )
    if bits == 8:
        eight = values if values.dtype == np.uint8 else _eight_bits(values, name, kind)
        return _chw(np.ascontiguousarray(eight))
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise kind(f"{name}: values from {low} to {high}; expected 16 bits, 0 to 65535")
    largest = 255 if values.dtype == np.uint8 else 65535
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)).astype(np.float32) / largest)


def _tiff_bands(path: str | Path, layout: TiffLayout) -> npt.NDArray[Any]:
    """The channels of a TIFF that Pillow does not keep, [H,W,C], upright."""
    if layout.height * layout.width > MAX_PIXELS:
        raise DataError(
            f"{path}: its header says {layout.width:,} x {layout.height:,} pixels (width x height); "
            f"expected at most {MAX_PIXELS:,} pixels in all. It may be a file made to exhaust the memory"
        )
    return TURNS_OF_ARRAYS.get(layout.orientation, TURNS_OF_ARRAYS[1])(read_tiff(path, layout))


def _bands(picture: Picture, path: str | Path, channels: int) -> npt.NDArray[Any]:
    """The values of a picture's channels, [H,W,C]."""
    pages = int(getattr(picture, "n_frames", 1)) if picture.format == "TIFF" else 1
    if pages > 1 and pages == channels:
        found = []
        for page in range(pages):
            picture.seek(page)
            if len(picture.getbands()) != 1:
                raise DataError(f"{path}: page {page + 1} is {picture.mode}; expected {channels} grey pages")
            found.append(_plain_bands(picture, path)[..., 0])
            if found[-1].shape != found[0].shape:
                raise DataError(f"{path}: its pages have several sizes; expected one")
        return np.stack(found, 2)
    if (deep := _deep_colors(picture, path)) is not None:
        return deep
    upright = _upright(picture)
    if channels == 1 and upright.mode in ("RGB", "RGBA", "P", "CMYK"):
        upright = upright.convert("L")
    return _plain_bands(upright, path)


def _plain_bands(picture: Image.Image, path: str | Path) -> npt.NDArray[Any]:
    """The values of one picture, [H,W,C]."""
    if picture.mode == "F":
        raise DataError(f"{path}: floating-point pixels, whose range is unknown; expected 8- or 16-bit pixels")
    if picture.mode == "P":
        picture = picture.convert("RGB")
    if picture.mode in ("1", "LA"):
        picture = picture.convert("L")
    values = np.array(picture)
    return values[:, :, None] if values.ndim == 2 else values


def _deep_colors(picture: Picture, path: str | Path) -> npt.NDArray[np.uint16] | None:
    """The values [H,W,C] of a PNG of 16-bit colours, of which Pillow would keep the high bytes; None for others.

    Asked of all images, it reads the pixels of such files only.
    """
    tile = picture.tile[0] if picture.format == "PNG" and picture.tile else None
    if tile is None or not str(tile[3]).endswith(";16B") or picture.mode not in ("RGB", "RGBA"):
        return None
    raw = torch.frombuffer(bytearray(Path(path).read_bytes()), dtype=torch.uint8)
    picture.load()  # finds what is broken, and says so
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # versions of torchvision after 0.29 may go without
        try:
            from torchvision.io import ImageReadMode, decode_image

            values = decode_image(raw, mode=ImageReadMode.UNCHANGED).numpy()
        except ImportError:
            raise DataError(
                f"{path}: a PNG of 16-bit colours, which this torchvision does not read; save it as TIFF, or in 8 bits"
            ) from None
    return TURNS_OF_ARRAYS.get(_orientation(picture), TURNS_OF_ARRAYS[1])(values.transpose(1, 2, 0))


def shown_bands(image: Tensor) -> Tensor:
    """An image [C,H,W] as one can look at it, [3,H,W]: the first three channels, or the first one as grey."""
    return image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)


def image_size(path: str | Path) -> tuple[int, int]:
    """The (height, width) that :func:`read_image` will give, from the file's header.

    Raises:
        DataError: as :func:`read_image`, except for pixels that can't be decoded.
    """
    if (layout := tiff_layout(path)) is not None and layout.beyond_pillow:
        return layout.size
    with _opened(path, pixels=False) as picture:
        if picture.format == "TIFF":  # from the tags: Pillow 10 and later versions differ on whether `size` is upright
            tags = picture.tag_v2  # type: ignore[attr-defined]
            width, height = tags[ExifTags.Base.ImageWidth], tags[ExifTags.Base.ImageLength]
            orientation = tags.get(ExifTags.Base.Orientation, 1)
        else:
            (width, height), orientation = picture.size, _orientation(picture)
        return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


class LabelPicture(NamedTuple):
    """A label map as its file has it.

    ``pixels`` are numbers, uint8 [H,W], or colours, uint8 [H,W,3]; ``palette``, bytes of red, green and blue of each
    number from 0, is what a palette file shows numbers as, and empty for others.
    """

    pixels: UInt8
    palette: bytes = b""


def read_label_picture(path: str | Path) -> LabelPicture:
    """The label map in ``path``, of numbers or of colours.

    Numbers: 8-bit grey, palette, 1-bit (0 and 1), and 16- or 32-bit grey whose values fit into 0..255. Colours: RGB,
    and RGBA that is opaque.

    Raises:
        DataError: as :func:`read_image`; or the file has an alpha channel, or lossy compression.
    """
    with _opened(path) as picture:
        if picture.format in ("JPEG", "MPO"):
            raise DataError(f"{path}: a label map as JPEG, which changes values; expected PNG")
        values = _upright(picture)
        if values.mode in ("L", "1"):
            return LabelPicture(np.array(values).astype(np.uint8, copy=False))
        if values.mode == "P":
            found = LabelPicture(np.array(values), bytes(values.getpalette("RGB") or b""))
            if picture.format == "GIF":
                _check_greys(found, path)
            return found
        if values.mode.startswith("I"):
            return LabelPicture(_fitting(np.asarray(values), path))
        if values.mode == "RGB":
            return LabelPicture(np.array(values))
        if values.mode == "RGBA":
            bands = np.array(values)
            if not (clear := bands[..., 3] < 255).any():
                return LabelPicture(np.ascontiguousarray(bands[..., :3]))
            row, column = (int(i) for i in np.argwhere(clear)[0])
            raise DataError(
                f"{path}: pixel (row {row}, column {column}) of a label map is transparent (alpha "
                f"{int(bands[row, column, 3])} of 255), and {int(clear.sum()) - 1:,} more are; expected one number, or "
                "one opaque colour, a pixel"
            )
        raise DataError(
            f"{path}: a label map of mode {values.mode}; expected one number per pixel: 8-bit grey or palette PNG"
        )


def _check_greys(picture: LabelPicture, path: str | Path) -> None:
    """Raise a :class:`DataError` where a GIF's palette has greys that are not the numbers: GIF knows no grey pictures,
    and programs number the greys that occur from 0. Black and white are fine."""
    numbers = np.flatnonzero(np.bincount(picture.pixels.ravel(), minlength=256))
    colors = np.frombuffer(picture.palette.ljust(768, b"\0"), np.uint8).reshape(256, 3)[numbers]
    greys = colors[:, 0]
    if (colors != greys[:, None]).any() or set(greys.tolist()) <= {0, 255}:
        return
    for number, grey in zip(numbers.tolist(), greys.tolist(), strict=True):
        if number != grey:
            raise DataError(
                f"{path}: number {number} is shown in grey {grey}: programs that write grey pictures as GIF number the "
                "greys anew, so that classes are mixed up; expected a PNG"
            )


def read_label_palette(path: str | Path) -> bytes:
    """The palette of a label map as :func:`read_label_picture` gives it, from the file's header."""
    with _opened(path, pixels=False) as picture:
        return bytes(picture.getpalette("RGB") or b"") if picture.mode == "P" else b""


def read_label_map(path: str | Path) -> Tensor:
    """The index map in ``path``, uint8 [H,W]: the stored numbers, whatever colours a palette gives them.

    Raises:
        DataError: as :func:`read_label_picture`; or the file has colours.
    """
    pixels = read_label_picture(path).pixels
    if pixels.ndim == 2:
        return torch.from_numpy(pixels)
    raise DataError(f"{path}: {colors_instead(pixels)}")


def colors_instead(pixels: UInt8) -> str:
    """What is wrong with a label map of colours [H,W,3] where numbers are expected, and the cure."""
    found = "a label map of mode RGB; expected one number per pixel: 8-bit grey or palette PNG"
    if (pixels[..., :1] == pixels[..., 1:]).all():
        return f"{found}; its red, green and blue are equal: save one of them"
    return f"{found}; replace each colour by the index of its class"


def as_image(source: Any, channels: int = 3, bits: Literal[8, 16] = 8) -> tuple[Tensor, str | None]:
    """The image that ``source`` is or names, and its name where it has one.

    Args:
        channels, bits: what the model's input has. Other than 3 and 8, a file and a PIL image are read as
            :func:`read_bands` does, and arrays [H,W,C] (uint8, or uint16 of 16 bits) and tensors have ``channels``.
        source: a path; a PIL image; an array, [H,W,3] RGB or [H,W] grey, uint8 or floats in 0..1; or a tensor [3,H,W]
            RGB, uint8 or float32 in 0..1. Unlike a file, a PIL image is taken as its pixels lie: its EXIF orientation
            is left to the caller, so that coordinates in the result are those of the object that was given.

    Returns:
        A tensor [3,H,W], uint8 or (of a float tensor) float32, and the path as text or None.

    Raises:
        DataError: a file can't be read, as for :func:`read_image`.
        UsageError: an object of another kind, shape, dtype or range; says which was found and which is expected.
    """
    if (channels, bits) != (3, 8):
        return _as_bands(source, channels, bits)
    if isinstance(source, (str, Path)):
        return read_image(source), str(source)
    if isinstance(source, Image.Image):
        name = getattr(source, "filename", None) or None
        try:
            source.load()
        except Exception as error:  # its file was closed, or is broken; see _opened
            raise UsageError(f"{name or 'image'}: the PIL image can't be decoded ({_reason(error)})") from error
        return _chw(_rgb(source, str(name or "image"), UsageError)), None if name is None else str(name)
    if isinstance(source, Tensor):
        return _checked_tensor(source), None
    if isinstance(source, np.ndarray):
        return _checked_array(source), None
    raise UsageError(f"an image of type {type(source).__name__}; expected a path, a PIL image, an array or a tensor")


def _as_bands(source: Any, channels: int, bits: Literal[8, 16]) -> tuple[Tensor, str | None]:
    if isinstance(source, (str, Path)):
        return read_bands(source, channels, bits), str(source)
    if isinstance(source, Image.Image):
        one = source.convert("L") if channels == 1 and len(source.getbands()) > 1 else source
        return _as_form(_plain_bands(one, "image"), "image", channels, bits, UsageError), None
    if isinstance(source, np.ndarray):
        values = source[:, :, None] if source.ndim == 2 else source
        if values.ndim != 3 or values.size == 0 or values.dtype not in (np.uint8, np.uint16):
            found = f"an image array of shape {list(source.shape)} and {source.dtype}"
            raise UsageError(f"{found}; expected shape [height, width, {channels}] of uint8 or uint16")
        return _as_form(values, "image", channels, bits, UsageError), None
    if isinstance(source, Tensor):
        return _checked_tensor(source, channels), None
    raise UsageError(f"an image of type {type(source).__name__}; expected a path, a PIL image, an array or a tensor")


@contextmanager
def _opened(path: str | Path, *, pixels: bool = True) -> Iterator[Picture]:
    """The picture in ``path``, its header read. What goes wrong while it is open becomes a :class:`DataError`.

    Where its ``pixels`` are wanted, the file has to be whole.
    """
    filling = ImageFile.LOAD_TRUNCATED_IMAGES  # by the program: missing pixels would be filled in
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a named pipe would be waited for without end
            raise DataError(f"{path}: no regular file; expected an image file")
        _take_plugin()
        if filling:
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        with Image.open(path) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            if picture.format == "EPS":  # a program; Pillow would have Ghostscript run it
                raise DataError(f"{path}: PostScript; expected PNG, JPEG or another raster format")
            if pixels and picture.format in ENDS and not _has_end(path, ENDS[picture.format]):
                raise DataError(f"{path}: truncated or broken: the file breaks off before its end mark")
            yield picture
    except (ScenewiseError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise DataError(
            f"{path}: its header says {_size_in_header(path)} pixels (width x height); "
            f"expected at most {MAX_PIXELS:,} pixels in all. It may be a file made to exhaust the memory"
        ) from None
    except FileNotFoundError:
        raise DataError(f"{path}: not found; expected an image file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder; expected an image file") from None
    except UnidentifiedImageError:
        raise DataError(f"{path}: {_what_instead(Path(path))}") from None
    except Exception as error:  # whatever broken bytes lead to: OSError, SyntaxError, ValueError, struct.error, ...
        if isinstance(error, OSError) and error.errno is not None:  # the system's own, such as a name that is too long
            raise DataError(f"{path}: can't be read ({error.strerror})") from None
        raise DataError(f"{path}: can't be decoded, is the file truncated or broken? ({_reason(error)})") from error
    finally:
        if filling:
            ImageFile.LOAD_TRUNCATED_IMAGES = True


@cache
def _take_plugin() -> None:
    """Let Pillow read HEIC where that is installed."""
    if HEIF is not None:
        importlib.import_module(HEIF).register_heif_opener()


ENDS = {"PNG": b"IEND", "GIF": b";"}  # what stands at the end of whole files of these formats


def _has_end(path: str | Path, mark: bytes) -> bool:
    """Whether the last bytes of a file hold ``mark``; some programs append to files, so that only files whose end is
    the middle of the picture fail."""
    with Path(path).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 64))
        tail = file.read()
        if len(mark) == 1:
            return tail.rstrip(b"\0\r\n").endswith(mark)
        return mark in tail or _walks_to(file, mark, size)


def _walks_to(file: BinaryIO, mark: bytes, size: int) -> bool:
    """Whether a PNG's chunks, one after the other, lead to the one called ``mark``."""
    place = 8  # after the signature
    while place + 12 <= size:
        file.seek(place)
        head = file.read(8)
        if head[4:] == mark:
            return True
        place += 12 + int.from_bytes(head[:4], "big")
    return False


def _reason(error: Exception) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__


def _what_instead(path: Path) -> str:
    """What is in a file that is no image."""
    with path.open("rb") as file:
        start = file.read(24)
    if not start:
        return "the file is empty (0 bytes); expected an image"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer instead of the image itself; fetch it with `git lfs pull`"
    if start[4:8] == b"ftyp":
        brand = start[8:12].decode("latin-1").strip()
        if brand in HEIC_BRANDS:
            return f"a HEIC picture, which {HEIC_CURE}"
        if brand not in ("avif", "avis"):
            return f"a film or another file of the kind MP4 ({brand!r}); expected PNG, JPEG or another format of images"
    return f"not an image, or broken from its start: it begins with {start!r}; expected PNG, JPEG or another format"


HEIC_BRANDS = frozenset({"heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1"})
HEIC_CURE = "is read once Pillow can: pip install pi-heif, or save it as PNG or JPEG"


def count_pages(path: str | Path) -> int:
    """How many pictures a TIFF has, from its headers; 1 of any other file, and where they can't be read."""
    if tiff_layout(path) is None:
        return 1
    try:
        with Image.open(path) as picture:
            return int(getattr(picture, "n_frames", 1))
    except Exception:  # whatever broken bytes lead to; reading the pixels says what is wrong
        return 1


def _size_in_header(path: str | Path) -> str:
    """ "width x height" of a picture that Pillow refuses to open for its size: its plugins alone don't check it."""
    with Path(path).open("rb") as file:
        prefix = file.read(16)
        for factory, accept in Image.OPEN.values():
            if accept is not None and accept(prefix) is True:
                file.seek(0)
                try:
                    width, height = factory(file, str(path)).size
                except Exception:  # of another format after all
                    continue
                return f"{width:,} x {height:,}"
    return "too many"


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, that a picture's header states; 1 where it has none or an unreadable one.

    Pillow turns TIFF images itself while it loads them. Its PNG reader would decode all pixels in search of an
    orientation after them; the base class reads what is there.
    """
    if picture.format == "TIFF":
        return 1
    try:
        return int(Image.Image.getexif(picture).get(ExifTags.Base.Orientation, 1))
    except Exception:  # a camera's broken EXIF block is no reason to refuse its pixels; other programs ignore it, too
        return 1


def _upright(picture: Image.Image) -> Image.Image:
    turn = TURNS.get(_orientation(picture))
    return picture if turn is None else picture.transpose(turn)


def _rgb(picture: Image.Image, name: str, kind: type[ScenewiseError]) -> UInt8:
    """The pixels of ``picture`` as RGB [H,W,3]; an error of ``kind`` where they have no defined range."""
    if picture.mode == "F":
        raise kind(f"{name}: floating-point pixels, whose range is unknown; expected 8- or 16-bit pixels")
    if picture.mode.startswith("I"):
        return np.repeat(_eight_bits(np.asarray(picture), name, kind)[:, :, None], 3, 2)
    if picture.mode == "P":
        picture = picture.copy()
        picture.info.pop("transparency", None)  # dropped like alpha; Pillow would warn of it
    try:
        return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))
    except ValueError as error:
        raise kind(f"{name}: mode {picture.mode} can't be made RGB ({_reason(error)})") from None


def _eight_bits(values: npt.NDArray[Any], name: str, kind: type[ScenewiseError]) -> UInt8:
    """16-bit values, possibly stored in 32 bits, as 8 bits: the highest of the depth that they have."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise kind(f"{name}: 32-bit grey with values from {low} to {high}; expected 16-bit grey, 0 to 65535")
    what = "grey" if values.ndim == 2 or values.shape[2] == 1 else "colours"
    if not 0 < high < 1 << NARROW:
        return (values >> 8).astype(np.uint8)
    depth = max(8, high.bit_length() + high.bit_length() % 2)
    _warn_once(
        "depth",
        f"{name}: 16-bit {what} with values from {low} to {high} only; it is taken for a {depth}-bit picture, and "
        f"{(1 << depth) - 1} becomes white. Each file is seen so by its own largest value",
    )
    return (values >> (depth - 8)).astype(np.uint8)


_told: set[str] = set()  # the kinds of warnings that this process has given


def _warn_once(kind: str, message: str) -> None:
    """Warn of the first file of a ``kind``; a data set may have thousands."""
    if kind not in _told:
        _told.add(kind)
        warnings.warn(message, stacklevel=2)


def _fitting(values: npt.NDArray[Any], path: str | Path) -> UInt8:
    """16- or 32-bit grey values that are class indices, as 8 bits."""
    wrong = (values < 0) | (values > 255)
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        raise DataError(
            f"{path}: pixel (row {row}, column {column}) of a label map has value {int(values[row, column])}; "
            f"expected 0 to 255"
        )
    return values.astype(np.uint8)


def _chw(pixels: UInt8) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _checked_tensor(image: Tensor, channels: int = 3) -> Tensor:
    found = f"an image tensor of shape {list(image.shape)} and {image.dtype}".replace("torch.", "")
    if image.ndim != 3 or image.shape[0] != channels or image.numel() == 0:
        advice = "; permute(2, 0, 1) puts the channels first" if image.ndim == 3 and image.shape[2] == channels else ""
        raise UsageError(
            f"{found}; expected shape [{channels}, height, width]{', RGB' if channels == 3 else ''}{advice}"
        )
    if image.dtype not in (torch.uint8, torch.float32):
        raise UsageError(f"{found}; expected uint8 in 0..255 or float32 in 0..1")
    image = image.detach().as_subclass(Tensor)
    if image.dtype == torch.float32:
        low, high = (float(v) for v in image.aminmax())
        if not (low >= 0 and high <= 1):  # so written that NaN fails, too
            advice = ", divided by 255" if low >= 0 and 1 < high <= 255 else ", not yet normalised"
            raise UsageError(f"{found} has values from {low:.4g} to {high:.4g}; expected 0 to 1{advice}")
    return image


def _checked_array(image: npt.NDArray[Any]) -> Tensor:
    found = f"an image array of shape {list(image.shape)} and {image.dtype}"
    if not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)) or image.size == 0:
        raise UsageError(f"{found}; expected shape [height, width, 3], RGB, or [height, width], grey")
    if image.dtype in (np.float16, np.float32, np.float64):
        values = np.repeat(image[:, :, None], 3, 2) if image.ndim == 2 else image
        return _checked_tensor(_chw(np.array(values, np.float32)))
    if image.dtype != np.uint8:
        raise UsageError(f"{found}; expected uint8 in 0..255, or floats in 0..1")
    return _chw(np.repeat(image[:, :, None], 3, 2) if image.ndim == 2 else np.array(image))
