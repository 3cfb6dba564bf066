"""Reading images and label maps from files, and taking images from memory.

What a pixel is worth, whatever the file:

* Grey, 1-bit and palette images become RGB. An alpha channel or transparent colour is dropped, not composited over
  anything, and CMYK (with Adobe's inversion in JPEG) is converted as Pillow does.
* 16-bit grey keeps the high byte of each value, as Pillow and torchvision do for 16-bit colour: 65535 becomes 255.
* Images are turned as their EXIF orientation says. In a PNG it counts where it stands before the pixels.
* Of files with several pictures (GIF, multi-page TIFF) it is the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from scenewise.errors import DataError, ScenewiseError, UsageError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

MAX_PIXELS = 178_956_970  # Pillow's own limit (half a GiB as RGB), here even where a program has switched Pillow's off
IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

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


def read_image(path: str | Path) -> Tensor:
    """The image in ``path`` as RGB, uint8 [3,H,W], upright; a view of [H,W,3], in which it resizes fastest.

    Raises:
        DataError: names the file: it is missing, empty, truncated, no image, has more than ``MAX_PIXELS`` pixels (which
            its header tells, before anything is decoded), or its pixels have no defined range (floating point).
    """
    with _opened(path) as picture:
        return _chw(_rgb(_upright(picture), str(path), DataError))


def image_size(path: str | Path) -> tuple[int, int]:
    """The (height, width) that :func:`read_image` will give, from the file's header.

    Raises:
        DataError: as :func:`read_image`, except for pixels that can't be decoded.
    """
    with _opened(path) as picture:
        if picture.format == "TIFF":  # from the tags: Pillow 10 and later versions differ on whether `size` is upright
            tags = picture.tag_v2  # type: ignore[attr-defined]
            width, height = tags[ExifTags.Base.ImageWidth], tags[ExifTags.Base.ImageLength]
            orientation = tags.get(ExifTags.Base.Orientation, 1)
        else:
            (width, height), orientation = picture.size, _orientation(picture)
        return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def read_label_map(path: str | Path) -> Tensor:
    """The index map in ``path``, uint8 [H,W]: the stored numbers, whatever colours a palette gives them.

    8-bit grey, palette, 1-bit (0 and 1), and 16- or 32-bit grey whose values fit into 0..255.

    Raises:
        DataError: as :func:`read_image`; or the file has colours, an alpha channel, or lossy compression.
    """
    with _opened(path) as picture:
        if picture.format in ("JPEG", "MPO"):
            raise DataError(f"{path}: a label map as JPEG, which changes values; expected PNG")
        values = _upright(picture)
        if values.mode in ("L", "P", "1"):
            return torch.from_numpy(np.array(values).astype(np.uint8, copy=False))
        if values.mode.startswith("I"):
            return torch.from_numpy(_fitting(np.asarray(values), path))
        found, advice = f"a label map of mode {values.mode}", "expected one number a pixel: 8-bit grey or palette PNG"
        if values.mode in ("RGB", "RGBA"):
            bands = np.asarray(values)
            if (bands[..., :1] == bands[..., 1:3]).all():
                advice += "; its red, green and blue are equal: save one of them"
            else:
                advice += "; replace each colour by the index of its class"
        raise DataError(f"{path}: {found}; {advice}")


def as_image(source: Any) -> tuple[Tensor, str | None]:
    """The image that ``source`` is or names, and its name where it has one.

    Args:
        source: a path; a PIL image; an array, uint8 [H,W,3] RGB or [H,W] grey; or a tensor [3,H,W] RGB, uint8 or
            float32 in 0..1. Unlike a file, a PIL image is taken as its pixels lie: its EXIF orientation is left to the
            caller, so that coordinates in the result are those of the object that was given.

    Returns:
        A tensor [3,H,W], uint8 or (of a float tensor) float32, and the path as text or None.

    Raises:
        DataError: a file can't be read, as for :func:`read_image`.
        UsageError: an object of another kind, shape, dtype or range; says which was found and which is expected.
    """
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


@contextmanager
def _opened(path: str | Path) -> Iterator[ImageFile]:
    """The picture in ``path``, its header read. What goes wrong while it is open becomes a :class:`DataError`."""
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            if picture.format == "EPS":  # a program; Pillow would have Ghostscript run it
                raise DataError(f"{path}: PostScript; expected PNG, JPEG or another raster format")
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
    except PermissionError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from None
    except UnidentifiedImageError:
        raise DataError(f"{path}: {_what_instead(Path(path))}") from None
    except Exception as error:  # whatever broken bytes lead to: OSError, SyntaxError, ValueError, struct.error, ...
        raise DataError(f"{path}: can't be decoded, is the file truncated or broken? ({_reason(error)})") from error


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
    return f"not an image, or broken from its start: it begins with {start!r}; expected PNG, JPEG or another format"


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
        return np.repeat(_high_byte(np.asarray(picture), name, kind)[:, :, None], 3, 2)
    if picture.mode == "P":
        picture = picture.copy()
        picture.info.pop("transparency", None)  # dropped like alpha; Pillow would warn of it
    try:
        return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))
    except ValueError as error:
        raise kind(f"{name}: mode {picture.mode} can't be made RGB ({_reason(error)})") from None


def _high_byte(values: npt.NDArray[Any], name: str, kind: type[ScenewiseError]) -> UInt8:
    """16-bit grey values, possibly stored in 32 bits, as 8 bits."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise kind(f"{name}: 32-bit grey with values from {low} to {high}; expected 16-bit grey, 0 to 65535")
    return (values >> 8).astype(np.uint8)


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


def _checked_tensor(image: Tensor) -> Tensor:
    found = f"an image tensor of shape {list(image.shape)} and {image.dtype}".replace("torch.", "")
    if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
        advice = "; permute(2, 0, 1) puts the channels first" if image.ndim == 3 and image.shape[2] == 3 else ""
        raise UsageError(f"{found}; expected shape [3, height, width], RGB{advice}")
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
    if image.dtype != np.uint8:
        raise UsageError(f"{found}; expected uint8 in 0..255")
    return _chw(np.repeat(image[:, :, None], 3, 2) if image.ndim == 2 else np.array(image))
