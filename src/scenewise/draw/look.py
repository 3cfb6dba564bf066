"""How a picture looks: the user's options, and the scene that all kinds of output are drawn into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from scenewise.draw.colors import Array, Color, palette, shades
from scenewise.draw.legends import Pen, Side
from scenewise.draw.strokes import Links
from scenewise.errors import UsageError

MANY = 12  # instances; more of one class are shades of its colour, or the picture is a carnival
IGNORED = (150, 150, 150)  # instances that neither training nor metrics count


@dataclass(frozen=True)
class Look:
    """The options of a drawing.

    Attributes:
        colors: an RGB colour for each class; by default :func:`~scenewise.draw.colors.palette`.
        alpha: how opaque classes and masks are, 0 (outlines alone) to 1.
        legend: whether there is one, or at which side of the image; by default where it takes less room. Beside maps
            that have pictures of their own (boundaries, depth, ...), legends and scales are always at the right.
        score: instances below it are left out.
        color_by: what the colour of an instance stands for; by default the instance where there are masks or keypoints,
            else the class. Of a dozen and more of one class it is a shade of the class's colour.
        boxes: whether boxes are drawn.
        links: pairs of keypoints to join; None: those of the prediction's skeleton.
        depth_range: metres at the ends of the colour scale; by default the 1st and 99th percentile of the image.
        min_width: narrower images are enlarged by a whole factor to at least this many pixels.
        font: a TrueType file; needed for class names in scripts that Pillow's own Latin font lacks.
    """

    colors: Sequence[Color] | None = None
    alpha: float = 0.55
    legend: bool | Side = True
    score: float = 0.0
    color_by: Literal["class", "instance"] | None = None
    boxes: bool = True
    links: Links | None = None
    depth_range: tuple[float, float] | None = None
    min_width: int = 480
    font: str | Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"alpha is {self.alpha}; expected 0 to 1")
        if self.legend not in (True, False, "right", "bottom"):
            raise UsageError(f"legend is {self.legend!r}; expected True, False, 'right' or 'bottom'")
        if self.color_by not in (None, "class", "instance"):
            raise UsageError(f"color_by is {self.color_by!r}; expected 'class' or 'instance'")
        if self.depth_range is not None and not self.depth_range[1] - self.depth_range[0] >= 1e-3:
            raise UsageError(f"depth_range is {self.depth_range}; expected (near, far) in metres with near < far")

    def class_colors(self, classes: Sequence[str]) -> list[Color]:
        """A colour for each of ``classes``."""
        if self.colors is None:
            return palette(len(classes))
        if len(self.colors) != len(classes):
            raise UsageError(f"there are {len(self.colors)} colors; expected one for each of {len(classes)} classes")
        return [(int(r), int(g), int(b)) for r, g, b in self.colors]


@dataclass
class Scene:
    """What each kind of output is painted with.

    Attributes:
        look: the options.
        pen: sizes that fit the picture; ``pen.factor`` is how much larger than the image the picture is.
        classes: their names.
        class_colors: an RGB colour for each.
        links: pairs of keypoints to join.
        instance_colors: an RGB colour for each instance.
        muted: bool [K]: instances to ignore, which are grey.
        order: the instances' indices, the ones on top last.
    """

    look: Look
    pen: Pen
    classes: tuple[str, ...] = ()
    class_colors: list[Color] = field(default_factory=list)
    links: Links = ()
    instance_colors: list[Color] = field(default_factory=list)
    muted: Array = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    order: list[int] = field(default_factory=list)

    def checked_links(self, points: int) -> Links:
        """The links, for instances with ``points`` keypoints."""
        for link in self.links:
            if not all(0 <= joint < points for joint in link):
                raise UsageError(f"the skeleton joins keypoints {tuple(link)}; the prediction has {points} keypoints")
        return self.links

    def color_instances(self, labels: Sequence[int] | None, count: int, single: bool) -> None:
        """Choose the instances' colours: by class, or one of its own for each; shades of one, for many of one class.

        Args:
            labels: of the ``count`` instances, where they have any.
            count: K.
            single: whether instances are told apart unless ``look.color_by`` says otherwise.
        """
        color_by = self.look.color_by or ("instance" if single or labels is None else "class")
        if color_by == "instance":
            alike = labels is not None and len(set(labels)) == 1 and count > MANY
            colors = shades(self.class_colors[labels[0]], count) if labels and alike else palette(count)
        elif labels is None:
            raise UsageError("color_by is 'class'; the prediction has no labels")
        else:
            colors = [self.class_colors[label] for label in labels]
        self.instance_colors = [IGNORED if grey else color for color, grey in zip(colors, self.muted, strict=True)]
