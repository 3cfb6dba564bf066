"""Prediction from files to a folder, a picture and a record for each image; the next is read while one is predicted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from scenewise.data.inputs import InputFile
from scenewise.engine.overlap import Ended, overlapped
from scenewise.engine.predict import Predictor
from scenewise.errors import StorageError
from scenewise.files.images import as_image
from scenewise.results.folder import write_output
from scenewise.results.picture import look_of
from scenewise.results.prediction import Prediction

Inputs = Mapping[str, tuple[InputFile, Mapping[Path, str]]]  # for each input its file, and the images' names in it


class Written(NamedTuple):
    """What was found in an image, and the path of its record."""

    record: Path
    prediction: Prediction


def predict_to_folder(
    predictor: Predictor,
    names: Mapping[Path, str],
    out: Path,
    *,
    score: float = 0.0,
    inputs: Inputs | None = None,
    **look: Any,
) -> Iterator[Ended[Path, Written]]:
    """What became of each image, in order; its picture and record are in the folder by then.

    Args:
        predictor: of any model.
        names: for each image file the name of what is written about it, without an ending.
        out: the folder.
        score: instances below it are left out.
        inputs: what the model takes besides.
        look: options of the pictures, see :class:`~scenewise.draw.look.Look`.

    An image that can't be read, predicted or written ends with its error and leaves no files; the others go on. Where
    the disk is full nothing more is written.
    """
    full: list[StorageError] = []
    drawn = look_of(**look)

    def read(path: Path) -> tuple[Tensor, str | None, dict[str, list[Tensor]]]:
        image, source = as_image(path, predictor.input.channels, predictor.input.bits)
        return image, source, {key: [file[known[path]]] for key, (file, known) in (inputs or {}).items()}

    # The picture is drawn here, too: Python's threads would take turns at it and at the network, and both be slower.
    def see(path: Path, given: tuple[Tensor, str | None, dict[str, list[Tensor]]]) -> tuple[Image.Image, Prediction]:
        image, source, its_inputs = given
        found = predictor([image], inputs=its_inputs)[0].above(score)
        found.source = source
        return found.draw(image, **look), found

    def write(path: Path, seen: tuple[Image.Image, Prediction]) -> Written:
        if full:
            raise full[0]
        picture, found = seen
        try:
            return Written(write_output(picture, found, out, names[path], drawn.class_colors(found.classes))[1], found)
        except StorageError as error:
            full.append(error)
            raise

    return overlapped(names, read, see, write)
