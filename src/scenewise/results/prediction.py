"""Prediction: what the user holds of one image, in that image's own coordinates."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scenewise.errors import MissingExtraError, UsageError
from scenewise.fields.semantic import shares
from scenewise.fields.table import above, count, detached, moved_to, restore, select, summary
from scenewise.results.coco import to_coco
from scenewise.results.folder import read_output, write_output
from scenewise.results.picture import draw_output, look_of
from scenewise.results.record import from_record, instance_records, to_record
from scenewise.types import Described, Output, Skeleton

NOTEBOOK_SIDE = 1024  # pixels of a picture in a notebook, at most


@dataclass(repr=False)
class Prediction(Described):
    """What was found in one image: an :class:`~scenewise.types.Output` with the names of its classes.

    It can be drawn, indexed, filtered by score, moved between devices, written and read back. In a notebook it shows
    its picture.

    Example:
        >>> result = scenewise.predict(model, "street.jpg")
        >>> result.draw().save("street.png")
        >>> result.above(0.5).names
        ['car', 'car', 'person']
    """

    @classmethod
    def of(
        cls,
        output: Output,
        size: tuple[int, int],
        classes: tuple[str, ...] = (),
        skeleton: Skeleton | None = None,
        source: str | None = None,
    ) -> Prediction:
        """What a model's ``output`` is for the image of ``size`` (height, width) that was resized for it; on the
        CPU."""
        values = restore(output, size)
        known = skeleton if "keypoints" in values else None
        return cls(size, classes, skeleton=known, source=source, **values)

    def __len__(self) -> int:
        """The number of instances; 0 where the prediction has none."""
        return count(self)

    def __bool__(self) -> bool:
        """True: a prediction without instances is one, too."""
        return True

    def __getitem__(self, index: Any) -> Prediction:
        """The prediction with the instances that ``index`` (int, slice, index or bool tensor) selects."""
        return select(self, [index] if isinstance(index, int) else index)

    def __iter__(self) -> Iterator[Prediction]:
        """Its instances, one by one."""
        return (self[i] for i in range(len(self)))

    def above(self, score: float) -> Prediction:
        """The prediction with the instances whose score is at least ``score``; itself where it has no scores."""
        return above(self, score)

    def to(self, device: torch.device | str) -> Prediction:
        """The same prediction with all its tensors on ``device``."""
        return moved_to(self, device)

    @property
    def names(self) -> list[str]:
        """The class of each instance."""
        return [] if self.labels is None else [self.classes[label] for label in self.labels.tolist()]

    def shares(self) -> dict[str, float]:
        """The share of the image's pixels that each class in ``semantic`` covers, largest first."""
        if self.semantic is None:
            return {}
        found = shares(self.semantic, len(self.classes))
        return {self.classes[label]: share for label, share in found.items()}

    # ---- pictures

    def draw(self, image: Any = None, **options: Any) -> Image.Image:
        """A picture of the image with this prediction on it.

        Args:
            image: a path, PIL image, array or tensor; by default the file that the prediction was made of.
            options: see :class:`~scenewise.draw.look.Look`.

        Raises:
            UsageError: the image is not of the prediction's size; or none is given, and the prediction was not made of
                a file.
            DataError: the file can't be read.
        """
        if image is None:
            if self.source is None:
                raise UsageError("draw: the prediction was not made of a file; give the image it was made of")
            image = self.source
        return draw_output(image, self, look_of(**options))

    def __repr__(self) -> str:
        """Its size and what was found, in a line."""
        found = summary(moved_to(self, "cpu"))
        shown = [*found[:6], f"{len(found) - 6} more"] if len(found) > 7 else found
        return f"Prediction({self.size[0]}x{self.size[1]}: {', '.join(shown) or 'nothing'})"

    def _repr_png_(self) -> bytes | None:
        """The picture as a notebook shows it, and keeps it in its file: of a photograph a smaller one. None where the
        image is not at hand."""
        if self.source is None or not Path(self.source).is_file():
            return None
        picture = self.draw()
        picture.thumbnail((NOTEBOOK_SIDE, NOTEBOOK_SIDE))
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        return buffer.getvalue()

    # ---- files and other forms

    def save(self, out_dir: str | Path, name: str | None = None, *, image: Any = None, **options: Any) -> Path:
        """Write the picture ``name.png`` and the record ``name.json`` into a folder; of dense float maps ``name.npz``,
        too, and of a class map ``name.classes.png``, whose pixel values are the class numbers, 255 for none.

        Args:
            out_dir: the folder; it is made where it is not there.
            name: without its ending; by default that of the image's file.
            image: as in :meth:`draw`.
            options: as in :meth:`draw`.

        Returns:
            The path of the record; :meth:`read` reads it back.
        """
        if name is None:
            if self.source is None:
                raise UsageError("save: the prediction was not made of a file; give a name")
            name = Path(self.source).stem
        colors = look_of(**options).class_colors(self.classes)
        return write_output(self.draw(image, **options), self, out_dir, name, colors)[1]

    @classmethod
    def read(cls, path: str | Path) -> Prediction:
        """The prediction whose record is in ``path``, with the dense maps beside it.

        Raises:
            DataError: a file is missing or malformed.
        """
        return cls(**read_output(path))

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for ``json.dump``; see :mod:`scenewise.results.record`."""
        return to_record(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any], *, where: str = "prediction") -> Prediction:
        """The prediction that :meth:`to_json` wrote, without the fields that it omitted.

        Raises:
            DataError: the record is malformed; the message begins with ``where``.
        """
        return cls(**from_record(record, where=where))

    def to_coco(self, image_id: int | str, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """Entries of a COCO results file; see :func:`scenewise.results.coco.to_coco`."""
        return to_coco(self, image_id, category_ids)

    def to_pandas(self) -> Any:
        """A pandas data frame with one row per instance: class, label, score, x1, y1, x2, y2, as far as they are there.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise MissingExtraError("to_pandas needs pandas: pip install 'scenewise[interop]'") from None
        rows = []
        for record in instance_records(detached(self)):
            row = {key: record[key] for key in ("class", "label", "score") if key in record}
            rows.append(row | dict(zip(("x1", "y1", "x2", "y2"), record.get("box", ()), strict=False)))
        return pandas.DataFrame(rows)

    def to_supervision(self) -> Any:
        """The instances as ``supervision.Detections``: boxes, masks, scores, labels and class names.

        Raises:
            MissingExtraError: supervision is not installed.
            UsageError: the prediction has no boxes.
        """
        try:
            import supervision
        except ImportError:
            raise MissingExtraError("to_supervision needs supervision: pip install 'scenewise[interop]'") from None
        if self.boxes is None:
            raise UsageError("to_supervision: the prediction has no boxes, which its detections are made of")
        plain = detached(self)
        return supervision.Detections(
            xyxy=_array(plain.boxes),
            mask=_array(plain.masks),
            confidence=_array(plain.scores),
            class_id=_array(plain.labels),
            data={"class_name": np.array(self.names)} if self.labels is not None else {},
        )


def _array(value: Tensor | None) -> Any:
    return None if value is None else value.numpy()
