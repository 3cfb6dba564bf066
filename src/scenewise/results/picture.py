"""Pictures of samples and predictions, made for papers, pages and a quick look alike.

:func:`draw_output` paints all that a prediction has; :func:`draw_sample` does the same for the ground truth of a data
set. Legends stand beside the image, never on it. Lines and letters grow with the image, and tiny images are enlarged by
a whole factor, so that both read well from 64 x 64 to 4000 x 3000 pixels.

Shapes: K instances; H x W is the image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from scenewise.draw.colors import Array, Color
from scenewise.draw.legends import Pen, Row, with_legend
from scenewise.draw.look import Look, Scene
from scenewise.draw.pages import IMAGE_HEIGHT, ImageLike, as_rgb, scaled, side_by_side
from scenewise.draw.strokes import Strokes
from scenewise.draw.tags import paint_tags
from scenewise.errors import UsageError
from scenewise.fields.base import Field
from scenewise.fields.objects import nowhere, sorted_by_score
from scenewise.fields.table import FIELDS, check, count, detached, given, select
from scenewise.types import Described, Skeleton


def draw_output(image: ImageLike, output: Described, look: Look, muted: Array | None = None) -> Image.Image:
    """``image`` with all that ``output`` says about it.

    Classes, boxes, masks and keypoints are painted on one picture; boundaries, depth, normals and flow get one each, in
    a row, where there are several. Without any field, it is the image.

    Args:
        image: a path, a PIL image, an array uint8 [H,W,3] or [H,W], or a tensor [3,H,W], uint8 or float32 in 0..1; see
            :func:`scenewise.files.images.as_image`, which predictions are made with, too.
        output: in the coordinates of this image.
        look: the options.
        muted: bool [K]: the instances that are drawn in grey.

    Returns:
        An RGB picture: the image, enlarged by a whole factor, and the legend beside it. Where instances are many, those
        with lower scores go without a tag, so that tags neither cover each other nor the image.

    Raises:
        DataError: the image's file can't be read.
        UsageError: the image is of no known kind, or not of the output's size, or an option does not fit.
    """
    picture = as_rgb(image)
    height, width = output.size
    if (picture.height, picture.width) != (height, width):
        raise UsageError(
            f"the image is {picture.height} x {picture.width} pixels (height x width); "
            f"the prediction is for one of {height} x {width}"
        )
    check(output)
    output = _as_person_gets(detached(output))
    if output.scores is not None and look.score > 0:
        kept = output.scores >= look.score
        muted = None if muted is None else muted[kept.numpy()]
        output = select(output, kept)
    values = given(output)
    panels = {name: value for name, value in values.items() if FIELDS[name].layer == "panel"}
    over = {name: value for name, value in values.items() if FIELDS[name].layer == "over"}
    if panels and look.legend:
        look = dataclasses.replace(look, legend="right")  # so that the images of a row keep one size
    pen = Pen.of(height, width, look.min_width, look.font)
    picture = scaled(picture, pen.factor)
    scene = _scene(output, look, pen, over, muted)
    pages = [("classes" if "semantic" in over else "instances", _over(picture, over, scene))] if over else []
    pages += [(FIELDS[name].title, FIELDS[name].paint(picture, value, scene)) for name, value in panels.items()]
    if not pages:
        return picture.copy()
    for _, page in pages:
        page.info[IMAGE_HEIGHT] = picture.height
    return pages[0][1] if len(pages) == 1 else side_by_side(pages, font=look.font)


def draw_sample(
    image: ImageLike,
    target: Mapping[str, Any],
    classes: Sequence[str],
    colors: Sequence[Color] | None = None,
    *,
    skeleton: Skeleton | None = None,
    **options: Any,
) -> Image.Image:
    """``image`` with its ground truth, as a prediction is drawn.

    Args:
        image: as in :func:`draw_output`.
        target: a sample's or a batch's. Instances to ignore are grey.
        classes: names, in label order.
        colors: an RGB colour for each class; by default :func:`~scenewise.draw.colors.palette`.
        skeleton: of the keypoints.
        options: those of :class:`~scenewise.draw.look.Look`.
    """
    ignore = target.get("ignore")
    muted = None if ignore is None else ignore.cpu().numpy().astype(np.bool_)
    picture = as_rgb(image)
    shown = _as_output(target, tuple(classes), picture, skeleton)
    return draw_output(picture, shown, look_of(colors=colors, **options), muted)


def look_of(**options: Any) -> Look:
    """The options by name.

    Raises:
        UsageError: there is no such option, or its value does not fit.
    """
    known = [field.name for field in dataclasses.fields(Look)]
    for name in options:
        if name not in known:
            raise UsageError(f"draw: there is no option {name!r}; known: {', '.join(known)}")
    return Look(**options)


def _scene(output: Described, look: Look, pen: Pen, over: Mapping[str, Tensor], muted: Array | None) -> Scene:
    """What the fields of ``output`` are painted with."""
    instances = count(output)
    links = look.links
    if links is None:
        links = output.skeleton.links if output.skeleton is not None else ()
    scene = Scene(
        look,
        pen,
        output.classes,
        look.class_colors(output.classes) if over else [],
        links,
        muted=np.zeros(instances, dtype=np.bool_) if muted is None else muted,
        order=sorted_by_score(output.scores, instances),
    )
    labels = None if output.labels is None else output.labels.tolist()
    if any(FIELDS[name].per_instance for name in over):
        alone = any(FIELDS[name].told_apart for name in over)
        scene.color_instances(labels, instances, single=alone)
    return scene


def _over(picture: Image.Image, values: Mapping[str, Tensor], scene: Scene) -> Image.Image:
    """The fields that are painted over the image, the deeper ones first, then outlines, then tags; with the legend."""
    fields: list[tuple[Field, Tensor]] = sorted(
        ((FIELDS[name], value) for name, value in values.items()), key=lambda item: item[0].depth
    )
    for field, value in fields:
        picture = field.paint(picture, value, scene)
    instances = [(field, value) for field, value in fields if field.per_instance]
    if instances:
        strokes = Strokes(picture.size)
        for field, value in instances:
            rows = value.numpy()
            for i in scene.order:
                field.stroke(strokes, rows[i], scene.instance_colors[i], scene)
        picture = strokes.on(picture)
        _paint_tags(picture, instances, scene)
    rows_of_legend: list[Row] = [row for field, value in fields for row in field.legend(value, scene)]
    if scene.look.legend and rows_of_legend:
        return with_legend(picture, rows_of_legend, scene.look.legend, scene.pen)
    return picture


def _paint_tags(picture: Image.Image, instances: list[tuple[Field, Tensor]], scene: Scene) -> None:
    """A tag for each instance: the words of all its fields, where the first of them says it stands."""
    number = len(scene.order)
    reach = 0.5 * scene.pen.em / scene.pen.factor
    in_order = [item for name in FIELDS for item in instances if item[0].name == name]
    places = (field.tag_boxes(value, reach) for field, value in in_order)
    boxes = next((place for place in places if place is not None), nowhere(number))
    texts = []
    for i in range(number):
        words = [field.words(value, i, scene) for field, value in in_order]
        texts.append(" ".join(word for word in (*words, "(ignored)" if scene.muted[i] else "") if word))
    paint_tags(picture, boxes * scene.pen.factor, texts, scene.instance_colors, scene.order[::-1], scene.pen)


def _as_person_gets(output: Described) -> Described:
    """``output`` with what the user receives in place of fields that only models know, straight from a model."""
    done: dict[str, Any] = {}
    for name, value in given(output).items():
        field = FIELDS[name]
        if field.gives != name:
            done[field.gives] = field.restore(value, output.size, output.size, given(output))
            done[name] = None
    return dataclasses.replace(output, **done) if done else output


def _as_output(
    target: Mapping[str, Any], classes: tuple[str, ...], picture: Image.Image, skeleton: Skeleton | None
) -> Described:
    """What ``target`` says, as if it was predicted, without scores."""
    values: dict[str, Any] = {
        name: value.as_subclass(Tensor).cpu()
        for name, value in target.items()
        if name in FIELDS and isinstance(value, Tensor)
    }
    for field in FIELDS.values():
        if field.name in values:
            field.make_plain(values)
    shown = {name: value for name, value in values.items() if FIELDS[name].output}
    return Described((picture.height, picture.width), classes, skeleton=skeleton, **shown)
