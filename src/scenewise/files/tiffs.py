"""TIFFs beyond what Pillow keeps: of many channels, or of several deep ones.

Pillow leaves out channels that have no stated meaning, keeps 8 of 16 bits of colours, and opens no others. These files
are read by tifffile, which ``scenewise[tiff]`` installs.
"""

from __future__ import annotations

import importlib.util
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, TiffImagePlugin

from scenewise.errors import DataError, MissingExtraError

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
GREY, RGB = 1, 2  # of the tag PhotometricInterpretation


class TiffLayout(NamedTuple):
    """What the header of a TIFF says of its first picture."""

    height: int
    width: int
    channels: int
    bits: int  # of the deepest channel
    photometric: int
    alpha: bool  # whether the channel after the colours is said to be alpha that colours are not multiplied by
    orientation: int  # 1 to 8, as EXIF's

    @property
    def many(self) -> bool:
        """Whether it has more channels than Pillow opens, or such as it would leave out without a word."""
        return self.channels > ((1 if self.bits > 8 else 2) if self.photometric == GREY else 4)

    @property
    def deep(self) -> bool:
        """Whether it has several channels of more than 8 bits."""
        return self.bits > 8 and self.channels > 1 and self.photometric in (GREY, RGB)

    @property
    def beyond_pillow(self) -> bool:
        """Whether Pillow does not keep all of its channels, or not all of their bits."""
        if self.channels == 1 or self.photometric not in (GREY, RGB):
            return False
        return self.deep or self.channels > (1 if self.photometric == GREY else 3) + self.alpha

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture when it is upright."""
        return (self.width, self.height) if self.orientation in (5, 6, 7, 8) else (self.height, self.width)


def tiff_layout(path: str | Path) -> TiffLayout | None:
    """The layout of a TIFF, from its header; None of any other file, and where the header can't be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return None
        with Path(path).open("rb") as file:
            head = file.read(8)
            if head[:4] not in SIGNATURES:
                return None
            if 43 in head[2:4]:  # BigTIFF
                head += file.read(8)
            tags = TiffImagePlugin.ImageFileDirectory_v2(head)
            file.seek(tags.next)
            tags.load(file)
        return TiffLayout(
            int(tags[TiffImagePlugin.IMAGELENGTH]),
            int(tags[TiffImagePlugin.IMAGEWIDTH]),
            int(tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)),
            max(_numbers(tags.get(TiffImagePlugin.BITSPERSAMPLE, 1))),
            int(tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, GREY)),
            _numbers(tags.get(TiffImagePlugin.EXTRASAMPLES, 0))[0] == 2,
            int(tags.get(ExifTags.Base.Orientation, 1)),
        )
    except Exception:  # whatever broken bytes lead to; reading the pixels says what is wrong
        return None


def _numbers(value: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in (value if isinstance(value, tuple) else (value,)))


def has_tifffile() -> bool:
    """Whether tifffile is installed."""
    return importlib.util.find_spec("tifffile") is not None


def read_tiff(path: str | Path, layout: TiffLayout) -> npt.NDArray[Any]:
    """The first picture of a TIFF as it is stored, not turned: uint8 or uint16 [H,W,C].

    Raises:
        DataError: it can't be decoded, or its values are neither 8 nor 16 bits without a sign.
        MissingExtraError: tifffile is not installed.
    """
    if not has_tifffile():
        raise MissingExtraError(
            f"{path}: a TIFF of {layout.channels} channels of {layout.bits} bits; reading it needs: "
            "pip install 'scenewise[tiff]'"
        )
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages[0]
            values: npt.NDArray[Any] = page.asarray()
            if page.planarconfig == 2 and values.ndim == 3:  # one channel after the other
                values = values.transpose(1, 2, 0)
    except Exception as error:  # whatever broken bytes lead to, and codecs that are not installed
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise DataError(f"{path}: can't be decoded, is the file truncated or broken? ({reason})") from None
    if values.dtype not in (np.uint8, np.uint16) or values.shape != (layout.height, layout.width, layout.channels):
        raise DataError(
            f"{path}: {values.dtype} values of shape {list(values.shape)}; expected {layout.channels} channels of 8 or "
            "16 bits without a sign"
        )
    return values
