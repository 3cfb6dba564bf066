"""What the pixels of label maps mean: numbers, or colours that a file of the data set states.

Which of the two holds for the label maps of a data set is decided once for all of them, from what their files show:

* Label maps of colours (RGB) are read by the stated colours.
* Grey and palette files hold numbers. Where the stated colours make sense of the palettes, and tell of other classes
  than the numbers do, as where each file brings a palette of its own, they are read by colours, too.
* Numbers whose palettes contradict the stated colours, or each other, are refused: they may mean different classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from scenewise.errors import DataError
from scenewise.files.images import LabelPicture, colors_instead

Color = tuple[int, int, int]
UInt8 = npt.NDArray[np.uint8]
Meaning = Literal["numbers", "colors"]

NAMED = 12  # colours that a message lists
GREYS = bytes(value for value in range(256) for _ in range(3))  # the palette that shows each number as its grey


@dataclass(frozen=True)
class StatedColors:
    """The colours of the numbers in label maps.

    Attributes:
        numbers: of each colour; those that are ignored included.
        names: of the classes, by number.
        where: the file that states them, for messages.
    """

    numbers: Mapping[Color, int]
    names: Mapping[int, str]
    where: str

    def fits(self, picture: LabelPicture) -> bool:
        """Whether each pixel of ``picture`` has one of the colours."""
        if picture.pixels.ndim == 3:
            return all(_color(code) in self.numbers for code in np.unique(_codes(picture.pixels)).tolist())
        return all(color in self.numbers for color in shown(picture).values())

    def agrees(self, picture: LabelPicture) -> bool:
        """Whether each number in ``picture`` is shown in its own colour."""
        return all(self.numbers.get(color) == number for number, color in shown(picture).items())

    def read(self, picture: LabelPicture, path: str) -> UInt8:
        """The numbers [H,W] that the colours of ``picture`` stand for.

        Raises:
            DataError: a pixel has another colour; names the pixel, its colour and those that are expected.
        """
        if picture.pixels.ndim == 2:
            table = np.zeros(256, np.uint8)
            for number, color in shown(picture).items():
                if color not in self.numbers:
                    raise self._unlisted(picture.pixels == number, color, path)
                table[number] = self.numbers[color]
            return table[picture.pixels]
        codes = _codes(picture.pixels)
        known = np.array(sorted(_code(color) for color in self.numbers))
        places = np.searchsorted(known, codes).clip(max=len(known) - 1)
        wrong = known[places] != codes
        if wrong.any():
            row, column = (int(i) for i in np.argwhere(wrong)[0])
            raise self._unlisted(wrong, _color(int(codes[row, column])), path)
        found: UInt8 = np.array([self.numbers[_color(code)] for code in known.tolist()], np.uint8)[places]
        return found

    def contradiction(self, picture: LabelPicture, path: str) -> DataError | None:
        """The error that a number in ``picture`` is shown in another class's colour; None where none is."""
        for number, color in shown(picture).items():
            other = self.numbers.get(color, number)
            if other != number:
                return DataError(
                    f"{path}: number {number} ({self._name(number)}) is shown in {color}, which {self.where} states "
                    f"for number {other} ({self._name(other)}), and other colours of this palette are stated for none; "
                    "expected colours that agree with the numbers, or none"
                )
        return None

    def _name(self, number: int) -> str:
        return repr(self.names[number]) if number in self.names else "no class"

    def _unlisted(self, wrong: npt.NDArray[np.bool_], color: Color, path: str) -> DataError:
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        more = f", and {int(wrong.sum()) - 1:,} more pixels are wrong" if wrong.sum() > 1 else ""
        listed = [f"{color} {self._name(number)}" for color, number in list(self.numbers.items())[:NAMED]]
        others = f" and {len(self.numbers) - NAMED} more" if len(self.numbers) > NAMED else ""
        return DataError(
            f"{path}: pixel (row {row}, column {column}) has colour {color}, which is no class's{more}; expected the "
            f"colours of {self.where}: {', '.join(listed)}{others}"
        )


def meaning_of(pictures: Sequence[LabelPicture], stated: StatedColors, known: npt.NDArray[np.bool_]) -> Meaning:
    """Whether label maps, some of a data set's, hold numbers or are read by the ``stated`` colours.

    Args:
        pictures: the label maps.
        stated: the colours.
        known: bool [256], whether a number stands for anything.
    """
    numbered = [picture for picture in pictures if picture.pixels.ndim == 2]
    by_number = sum(bool(known[used(picture)].all()) for picture in numbered)
    by_color = [picture for picture in numbered if stated.fits(picture)]
    if len(by_color) != by_number:
        return "numbers" if by_number > len(by_color) else "colors"
    return "numbers" if all(stated.agrees(picture) for picture in by_color) else "colors"


def read_numbers(picture: LabelPicture, stated: StatedColors | None, path: str) -> UInt8:
    """The numbers [H,W] in a label map of a data set that holds numbers.

    Raises:
        DataError: it is of colours that nothing states, or its palette contradicts the ``stated`` colours.
    """
    if picture.pixels.ndim == 3:
        if stated is None:
            raise DataError(f"{path}: {colors_instead(picture.pixels)}")
        return stated.read(picture, path)
    if stated is not None and is_colored(picture.palette) and (error := stated.contradiction(picture, path)):
        raise error
    return picture.pixels


def difference(picture: LabelPicture, path: str, before: Mapping[int, tuple[Color, str]]) -> DataError | None:
    """The error that a number is shown in another colour than ``before``, a colour and a file each; None where none
    is."""
    for number, color in shown(picture).items():
        if number in before and before[number][0] != color:
            other, first = before[number]
            return DataError(
                f"{path}: number {number} is shown in {color}, and in {first} it is shown in {other}: the palettes of "
                "the label maps differ, so that numbers may mean different classes. State the classes' colours (colors "
                "in classes.json, or labelmap.txt), by which each file is then read; or save all label maps with one "
                "palette, or as 8-bit grey, where the numbers are right"
            )
    return None


def is_colored(palette: bytes) -> bool:
    """Whether a palette shows numbers as anything but their greys."""
    return palette != GREYS[: len(palette)]


def shown(picture: LabelPicture) -> dict[int, Color]:
    """The colour in which each number that occurs is shown."""
    return {number: _color_of(picture.palette or GREYS, number) for number in used(picture)}


def used(picture: LabelPicture) -> list[int]:
    """The numbers that occur in a label map of numbers, rising."""
    found: list[int] = np.flatnonzero(np.bincount(picture.pixels.ravel(), minlength=256)).tolist()
    return found


def _color_of(palette: bytes, number: int) -> Color:
    """The colour of ``number``; black beyond the palette's end, as viewers show it."""
    red, green, blue = palette[3 * number : 3 * number + 3].ljust(3, b"\0")
    return red, green, blue


def _codes(pixels: UInt8) -> npt.NDArray[np.int32]:
    """The colours [H,W,3] as one number each, [H,W]."""
    wide = pixels.astype(np.int32)
    found: npt.NDArray[np.int32] = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return found


def _code(color: Color) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]


def _color(code: int) -> Color:
    return code >> 16, code >> 8 & 255, code & 255


VOC_VOID = (224, 224, 192)  # Pascal VOC's colour of number 255, which is no class


def voc_colors(count: int) -> tuple[Color, ...]:
    """Pascal VOC's colours for labels 0 to ``count`` - 1, at most 256; all differ.

    Bits 0, 3, 6 of the label become the highest bits of red, bits 1, 4, 7 those of green, bits 2, 5 those of blue, from
    the highest down. Source: the VOC devkit's ``VOClabelcolormap``.
    """

    def channel(label: int, first: int) -> int:
        return sum(((label >> (3 * place + first)) & 1) << (7 - place) for place in range(3))

    return tuple((channel(label, 0), channel(label, 1), channel(label, 2)) for label in range(count))
