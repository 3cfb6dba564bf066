"""Pictures of samples and predictions, made for papers, pages and a quick look alike.

:func:`draw_prediction` paints all that a prediction has; :func:`draw_sample` does the same for what a data set says;
:func:`side_by_side` puts pictures in a row. Legends stand beside the image, never on it. Lines and letters grow with
the image, and tiny images are enlarged by a whole factor, so that both read well from 64 x 64 to 4000 x 3000 pixels.

Shapes: K instances, P keypoints; H x W is the image, F the factor by which it is enlarged.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from scenewise.draw.colors import UNKNOWN, Array, Color, depth_color, normal_color, palette
from scenewise.draw.legends import (
    INK,
    PAGE,
    Pen,
    Row,
    Side,
    beside,
    depth_scale,
    normal_key,
    percent,
    shortened,
    with_legend,
)
from scenewise.draw.tags import paint_tags, tag_text
from scenewise.errors import UsageError
from scenewise.files.images import as_image
from scenewise.results.record import check, detached
from scenewise.types import IGNORE, Prediction, Target

ImageLike = str | Path | Image.Image | Array | Tensor
Links = Sequence[tuple[int, int]]

IGNORED = (150, 150, 150)  # instances that neither training nor metrics count

_IMAGE_HEIGHT = "scenewise.image_height"  # in a picture's `info`: how much of its height is the image, not the legend
MAX_ROWS = 30  # of a legend's classes; the smaller ones are summed up in the last

SKELETONS: dict[str, Links] = {
    # COCO's 17 keypoints: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles; left before right
    "coco": (
        (0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10),
        (5, 11), (6, 12), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16),
    ),
    # LSP's 14 joints: right ankle to hip, left hip to ankle, right wrist to shoulder, left shoulder to wrist, neck, top
    "lsp": (
        (0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (6, 7), (7, 8), (9, 10), (10, 11), (8, 12), (9, 12),
        (12, 13), (8, 2), (9, 3),
    ),
}  # fmt: skip


def draw_prediction(
    image: ImageLike,
    prediction: Prediction,
    *,
    colors: Sequence[Color] | None = None,
    alpha: float = 0.55,
    legend: bool | Side = True,
    score: float = 0.0,
    color_by: Literal["class", "instance"] | None = None,
    skeleton: str | Links = (),
    depth_range: tuple[float, float] | None = None,
    min_width: int = 480,
    font: str | Path | None = None,
) -> Image.Image:
    """``image`` with all that ``prediction`` says about it.

    Classes, boxes, masks and keypoints are painted on one picture; boundaries, depth and normals get one each, in a
    row, where there are several. Without any field, it is the image.

    Args:
        image: a path, a PIL image, an array uint8 [H,W,3] or [H,W], or a tensor [3,H,W], uint8 or float32 in 0..1; see
            :func:`scenewise.files.images.as_image`, which predictions are made with, too.
        prediction: in the coordinates of this image.
        colors: an RGB colour for each class; by default :func:`palette`.
        alpha: how opaque classes and masks are, 0 (outlines alone) to 1.
        legend: whether there is one, or at which side of the image; by default where it takes less room. Beside
            boundaries, depth or normals, legends and scales are always at the right.
        score: instances below it are left out.
        color_by: what the colour of an instance tells; by default the instance where there are masks or keypoints,
            else the class.
        skeleton: the pairs of keypoints to join, or a name in ``SKELETONS``.
        depth_range: metres at the ends of the colour scale; by default the 1st and 99th percentile of the image.
        min_width: narrower images are enlarged by a whole factor to at least this many pixels.
        font: a TrueType file; needed for class names in scripts that Pillow's own Latin font lacks.

    Returns:
        An RGB picture: the image, enlarged by a whole factor, and the legend beside it. Where instances are many, those
        with lower scores go without a tag, so that tags neither cover each other nor the image.

    Raises:
        DataError: the image's file can't be read.
        UsageError: the image is of no known kind, or not of the prediction's size, or an option does not fit.
    """
    options = _Options(colors, alpha, legend, score, color_by, skeleton, depth_range, min_width, font)
    return _draw(image, prediction, options, None)


def draw_sample(
    image: ImageLike,
    target: Target,
    classes: Sequence[str],
    colors: Sequence[Color] | None = None,
    **options: Any,
) -> Image.Image:
    """``image`` with what its data set says about it: :func:`draw_prediction` of the target.

    Args:
        image: as in :func:`draw_prediction`.
        target: a sample's or a batch's. Instances to ignore are grey.
        classes: names, in label order.
        colors: an RGB colour for each class; by default :func:`palette`.
        options: those of :func:`draw_prediction`.
    """
    ignore = target.get("ignore")
    muted = None if ignore is None else ignore.cpu().numpy().astype(np.bool_)
    picture = _as_rgb(image)
    return _draw(picture, _as_prediction(target, classes, picture), _Options(colors, **options), muted)


def side_by_side(
    pictures: Sequence[tuple[str, ImageLike]], *, height: int | None = None, font: str | Path | None = None
) -> Image.Image:
    """``pictures`` in a row, each with its title above it, on a white page.

    Args:
        pictures: titles and images. All images are brought to one height; legends that :func:`draw_prediction` or
            :func:`draw_sample` put beside or below them do not count.
        height: that height in pixels; by default that of the highest image.
        font: as in :func:`draw_prediction`.
    """
    if not pictures:
        raise UsageError("side_by_side: no pictures; expected at least one (title, image)")
    images = [_as_rgb(image) for _, image in pictures]
    heights = [image.info.get(_IMAGE_HEIGHT, image.height) for image in images]
    height = height or max(heights)
    images = [_scaled(image, height / own) for image, own in zip(images, heights, strict=True)]
    pen = Pen.of(height, max(image.width for image in images), 1, font)
    gap, head = pen.em, round(2.1 * pen.em)
    width = sum(image.width for image in images) + gap * (len(images) + 1)
    page = Image.new("RGB", (width, head + max(image.height for image in images) + gap), PAGE)
    ink = ImageDraw.Draw(page)
    x = gap
    for (title, _), image in zip(pictures, images, strict=True):
        text = shortened(title, pen.font, image.width)
        ink.text((x, head / 2), text, fill=INK, font=pen.font, anchor="lm")
        page.paste(image, (x, head))
        x += image.width + gap
    return page


# --- what is drawn -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Options:
    """The options of :func:`draw_prediction`."""

    colors: Sequence[Color] | None = None
    alpha: float = 0.55
    legend: bool | Side = True
    score: float = 0.0
    color_by: Literal["class", "instance"] | None = None
    skeleton: str | Links = ()
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
        if isinstance(self.skeleton, str) and self.skeleton not in SKELETONS:
            raise UsageError(f"there is no skeleton {self.skeleton!r}; known: {', '.join(SKELETONS)}")
        if self.depth_range is not None and not self.depth_range[1] - self.depth_range[0] >= 1e-3:
            raise UsageError(f"depth_range is {self.depth_range}; expected (near, far) in metres with near < far")

    def class_colors(self, classes: Sequence[str]) -> list[Color]:
        """A colour for each of ``classes``."""
        if self.colors is None:
            return palette(len(classes))
        if len(self.colors) != len(classes):
            raise UsageError(f"there are {len(self.colors)} colors; expected one for each of {len(classes)} classes")
        return [(int(r), int(g), int(b)) for r, g, b in self.colors]

    def links(self, points: int) -> Links:
        """The skeleton's pairs, for instances with ``points`` keypoints."""
        links = SKELETONS[self.skeleton] if isinstance(self.skeleton, str) else self.skeleton
        for link in links:
            if not all(0 <= joint < points for joint in link):
                raise UsageError(f"the skeleton joins keypoints {tuple(link)}; the prediction has {points} keypoints")
        return links


def _draw(image: ImageLike, prediction: Prediction, options: _Options, muted: Array | None) -> Image.Image:
    picture = _as_rgb(image)
    height, width = prediction.size
    if (picture.height, picture.width) != (height, width):
        raise UsageError(
            f"the image is {picture.height} x {picture.width} pixels (height x width); "
            f"the prediction is for one of {height} x {width}"
        )
    check(prediction)
    prediction = detached(prediction)
    if prediction.scores is not None and options.score > 0:
        kept = (prediction.scores >= options.score).numpy()
        muted = None if muted is None else muted[kept]
        prediction = prediction.above(options.score)
    pen = Pen.of(height, width, options.min_width, options.font)
    picture = _scaled(picture, pen.factor)
    panels = []
    dense = [field for field in (prediction.boundary, prediction.depth, prediction.normals) if field is not None]
    if dense and options.legend:
        options = dataclasses.replace(options, legend="right")  # so that the images of a row keep one size
    painted = _paint_overlay(picture, prediction, options, pen, muted)
    if painted is not None:
        panels.append(("classes" if prediction.semantic is not None else "instances", painted))
    if prediction.boundary is not None:
        panels.append(("boundaries", _paint_boundary(picture, prediction.boundary, pen)))
    if prediction.depth is not None:
        panels.append(("depth", _paint_depth(prediction.depth, options, pen)))
    if prediction.normals is not None:
        panels.append(("normals", _paint_normals(prediction.normals, bool(options.legend), pen)))
    if not panels:
        return picture.copy()
    for _, panel in panels:
        panel.info[_IMAGE_HEIGHT] = picture.height
    return panels[0][1] if len(panels) == 1 else side_by_side(panels, font=options.font)


def _paint_overlay(
    picture: Image.Image, prediction: Prediction, options: _Options, pen: Pen, muted: Array | None
) -> Image.Image | None:
    """Classes, masks, boxes and keypoints on ``picture``, with the legend; None where there are none of them."""
    semantic = prediction.semantic
    if semantic is None and prediction.semantic_logits is not None:  # straight from a model
        semantic = prediction.semantic_logits.argmax(0)
    drawn = (prediction.boxes, prediction.masks, prediction.keypoints)
    if semantic is None and all(field is None for field in drawn):
        return None
    class_colors = options.class_colors(prediction.classes)
    rows: list[Row] = []
    if semantic is not None:
        labels = semantic.numpy()
        picture = _paint_semantic(picture, labels, class_colors, options.alpha, pen)
        rows += _semantic_rows(labels, prediction.classes, class_colors)
    if any(field is not None for field in drawn):
        if muted is None:
            muted = np.zeros(len(prediction), dtype=np.bool_)
        instance_colors = _instance_colors(prediction, options, class_colors, muted)
        picture = _paint_instances(picture, prediction, instance_colors, options, pen, muted)
        rows += _instance_rows(prediction, instance_colors, muted)
    return with_legend(picture, rows, options.legend, pen) if options.legend and rows else picture


def _instance_colors(prediction: Prediction, options: _Options, class_colors: list[Color], muted: Array) -> list[Color]:
    """A colour for each instance."""
    color_by = options.color_by
    if color_by is None:
        single = prediction.masks is not None or prediction.keypoints is not None or prediction.labels is None
        color_by = "instance" if single else "class"
    if color_by == "class":
        if prediction.labels is None:
            raise UsageError("color_by is 'class'; the prediction has no labels")
        colors = [class_colors[label] for label in prediction.labels.tolist()]
    else:
        colors = palette(len(prediction))
    return [IGNORED if grey else color for color, grey in zip(colors, muted, strict=True)]


# --- classes -----------------------------------------------------------------------------------------------------


def _paint_semantic(picture: Image.Image, labels: Array, colors: list[Color], alpha: float, pen: Pen) -> Image.Image:
    """Each class's colour over ``picture``, thin light lines between regions; pixels to ignore stay as they are.

    The more opaque the colours, the more the image below turns to a lighter grey: over its own colours, and over dark
    ones, a class would not look like its swatch in the legend.
    """
    table = np.zeros((max(IGNORE, len(colors)) + 1, 3), dtype=np.uint8)
    table[: len(colors)] = colors
    tint = Image.fromarray(_enlarged(table[labels], pen.factor))
    grey = ImageOps.grayscale(picture).point([round(70 + level * 185 / 255) for level in range(256)]).convert("RGB")
    mixed = Image.blend(Image.blend(picture, grey, alpha), tint, alpha)
    mixed = Image.composite(mixed, picture, Image.fromarray(_enlarged(labels != IGNORE, pen.factor)))
    lines = _borders(_enlarged(labels, pen.factor), max(1, pen.line // 2))
    mixed.paste(PAGE, mask=Image.fromarray(lines.astype(np.uint8) * 140))
    return mixed


def _semantic_rows(labels: Array, classes: Sequence[str], colors: list[Color]) -> list[Row]:
    """The classes in the image and their shares of it, largest first; last, what has no label."""
    counts = np.bincount(labels.reshape(-1), minlength=max(IGNORE, len(classes)) + 1)
    order = sorted((i for i in range(len(classes)) if counts[i] and i != IGNORE), key=lambda i: -counts[i])
    shown, rest = (order, []) if len(order) <= MAX_ROWS else (order[: MAX_ROWS - 1], order[MAX_ROWS - 1 :])
    rows = [Row((colors[i],), classes[i], percent(counts[i] / labels.size)) for i in shown]
    if rest:
        stripes = tuple(colors[i] for i in rest[:4])
        rows.append(Row(stripes, f"{len(rest)} more classes", percent(counts[rest].sum() / labels.size)))
    if counts[IGNORE]:
        rows.append(Row((), "no label", percent(counts[IGNORE] / labels.size)))
    return rows


# --- instances ---------------------------------------------------------------------------------------------------


def _paint_instances(
    picture: Image.Image,
    prediction: Prediction,
    colors: list[Color],
    options: _Options,
    pen: Pen,
    muted: Array,
) -> Image.Image:
    """Masks, then boxes and keypoints, then tags; what scores higher lies on top."""
    scores = prediction.scores
    order = list(range(len(prediction))) if scores is None else scores.argsort(stable=True).tolist()
    if prediction.masks is not None:
        picture = _paint_masks(picture, prediction.masks.numpy(), colors, options.alpha, pen)
    strokes = _Strokes(picture.size)
    if prediction.boxes is not None:
        boxes = prediction.boxes.numpy() * pen.factor
        for i in order:
            strokes.box(boxes[i], colors[i], pen.line)
    if prediction.keypoints is not None:
        links = options.links(prediction.keypoints.shape[1])
        keypoints = prediction.keypoints.numpy() * np.array([pen.factor, pen.factor, 1], dtype=np.float32)
        for i in order:
            strokes.pose(keypoints[i], links, colors[i], pen.line)
    picture = strokes.on(picture)
    anchors = _anchors(prediction, 0.5 * pen.em / pen.factor) * pen.factor
    named = not (options.legend and len(prediction.classes) == 1)  # the legend says it once for all
    texts = [tag_text(prediction, i, bool(muted[i]), named) for i in range(len(prediction))]
    paint_tags(picture, anchors, texts, colors, order[::-1], pen)
    return picture


def _paint_masks(picture: Image.Image, masks: Array, colors: list[Color], alpha: float, pen: Pen) -> Image.Image:
    """Each mask's colour and outline over ``picture``, larger ones below."""
    canvas = np.array(picture)
    for i in np.argsort(-masks.sum((1, 2)), kind="stable"):
        box = _mask_box(masks[i])
        if box is None:
            continue
        x1, y1, x2, y2 = box
        # a margin shows the outline where its sides are; beyond the image's edge there is nothing to outline
        rows, columns = slice(max(0, y1 - 1), y2 + 1), slice(max(0, x1 - 1), x2 + 1)
        mask = _enlarged(masks[i][rows, columns], pen.factor)
        part = canvas[
            rows.start * pen.factor : rows.start * pen.factor + mask.shape[0],
            columns.start * pen.factor : columns.start * pen.factor + mask.shape[1],
        ]
        color = np.asarray(colors[i], dtype=np.float32)
        part[mask] = (part[mask] * np.float32(1 - alpha) + color * np.float32(alpha)).round()
        part[mask & _grown(~mask, pen.line)] = colors[i]
    return Image.fromarray(canvas)


class _Strokes:
    """Lines and dots to lay over a picture, smoothed by drawing them larger where the picture is small."""

    def __init__(self, size: tuple[int, int]) -> None:
        pixels = size[0] * size[1]
        self.up = 3 if pixels < 1e6 else 2 if pixels < 4e6 else 1  # steps don't show on large pictures
        self.size = size
        self.layer = Image.new("RGBA", (size[0] * self.up, size[1] * self.up), (0, 0, 0, 0))
        self.ink = ImageDraw.Draw(self.layer)

    def box(self, box: Array, color: Color, line: int) -> None:
        """The outline of ``box`` (x1, y1, x2, y2), inside its sides, with a dark hair line around."""
        width, height = self.size
        limit = [width, height, width, height]
        line = max(1, min(line, round(min(box[2] - box[0], box[3] - box[1]) / 24)))  # finer around small objects
        x1, y1, x2, y2 = (round(float(v) * self.up) for v in np.clip(box, -4 * line, np.add(limit, 4 * line)))
        x2, y2 = max(x1 + 1, x2) - 1, max(y1 + 1, y2) - 1
        hair = self.up
        frame = (x1 - hair, y1 - hair, x2 + hair, y2 + hair)
        self.ink.rectangle(frame, outline=(0, 0, 0, 110), width=line * self.up + 2 * hair)
        self.ink.rectangle((x1, y1, x2, y2), outline=(*color, 255), width=line * self.up)

    def pose(self, keypoints: Array, links: Links, color: Color, line: int) -> None:
        """Joints and limbs of ``keypoints`` [P,3]; an unseen joint is a ring, an unknown one is left out."""
        known = keypoints[:, 2] > 0
        if not known.any():
            return
        extent = float(np.ptp(keypoints[known, :2], axis=0).max())
        line = min(2 * line, max(1, round(extent / 110)))  # people far away need finer lines, near ones bolder
        points = [(float(x) * self.up, float(y) * self.up) for x, y, _ in keypoints]
        width, radius = line * self.up, 1.5 * line * self.up
        limbs = [(points[a], points[b]) for a, b in links if known[a] and known[b]]
        # first a dark rim below all limbs, so that they show on any background
        for fill, extra in (((0, 0, 0, 130), 2 * self.up), ((*color, 255), 0)):
            for a, b in limbs:
                self.ink.line([a, b], fill=fill, width=width + extra)
        for (x, y), visible in zip(points, keypoints[:, 2], strict=True):
            if visible > 0:
                rim, inner = (color, PAGE) if visible < 2 else (PAGE, color)
                self._dot(x, y, radius + 0.6 * width, rim)
                self._dot(x, y, radius, inner)

    def _dot(self, x: float, y: float, radius: float, color: Color) -> None:
        self.ink.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(*color, 255))

    def on(self, picture: Image.Image) -> Image.Image:
        """``picture`` with the strokes."""
        layer = self.layer if self.up == 1 else self.layer.resize(self.size, Image.Resampling.BOX)
        picture = picture.copy()
        picture.paste(layer, mask=layer)
        return picture


def _anchors(prediction: Prediction, reach: float) -> Array:
    """The box [K,4] at which each instance's tag stands: its own, its mask's, or ``reach`` around its top keypoint.

    NaN where there is none.
    """
    nowhere = (math.nan,) * 4
    if prediction.boxes is not None:
        return prediction.boxes.numpy()
    if prediction.masks is not None:
        return np.array([_mask_box(mask) or nowhere for mask in prediction.masks.numpy()]).reshape(-1, 4)
    assert prediction.keypoints is not None
    boxes = np.full((len(prediction.keypoints), 4), math.nan)
    for box, points in zip(boxes, prediction.keypoints.numpy(), strict=True):
        known = points[points[:, 2] > 0, :2]
        if len(known):
            x, y = known[known[:, 1].argmin()]
            box[:] = (x, y - reach, x, y + reach)
    return boxes


def _instance_rows(prediction: Prediction, colors: list[Color], muted: Array) -> list[Row]:
    """The classes of the instances and how many of each there are, most first; last, those to ignore."""
    if prediction.labels is None:
        return []
    found: dict[str, list[Color]] = {}
    for label, color, grey in zip(prediction.labels.tolist(), colors, muted, strict=True):
        if not grey:
            found.setdefault(prediction.classes[label], []).append(color)
    rows = [
        Row(tuple(dict.fromkeys(own))[:4], name, str(len(own)))
        for name, own in sorted(found.items(), key=lambda item: -len(item[1]))
    ]
    if muted.any():
        rows.append(Row((IGNORED,), "ignored", str(int(muted.sum()))))
    return rows


# --- boundaries, depth, normals ----------------------------------------------------------------------------------


def _paint_boundary(picture: Image.Image, boundary: Tensor, pen: Pen) -> Image.Image:
    """Boundaries in dark red over a pale grey copy of ``picture``, as opaque as they are strong."""
    pale = Image.blend(ImageOps.grayscale(picture).convert("RGB"), Image.new("RGB", picture.size, PAGE), 0.6)
    strength = _enlarged(boundary.float().clamp(0, 1).nan_to_num(0).numpy(), pen.factor)
    pale.paste((190, 20, 50), mask=Image.fromarray((strength * 255).round().astype(np.uint8)))
    return pale


def _paint_depth(depth: Tensor, options: _Options, pen: Pen) -> Image.Image:
    """Depth in colours, near ones light, with a scale in metres."""
    metres = depth.float().numpy()
    known = np.isfinite(metres)
    if options.depth_range is not None:
        near, far = options.depth_range
    elif known.any():
        near, far = (float(v) for v in np.percentile(metres[known], (1, 99)))
    else:
        near, far = 0.0, 1.0
    if far - near < 1e-3:  # a flat wall
        near, far = near - 0.5, far + 0.5
    place = np.clip((far - np.where(known, metres, far)) / (far - near), 0, 1)
    colors = np.where(known[..., None], depth_color(place), np.uint8(UNKNOWN[0])).astype(np.uint8)
    picture = Image.fromarray(_enlarged(colors, pen.factor))
    if not options.legend:
        return picture
    return beside(picture, depth_scale(picture.height, near, far, not known.all(), pen))


def _paint_normals(normals: Tensor, legend: bool, pen: Pen) -> Image.Image:
    """Normals as colours: red to the right, green up, blue towards the camera."""
    picture = Image.fromarray(_enlarged(normal_color(normals.float().permute(1, 2, 0).numpy()), pen.factor))
    return beside(picture, normal_key(picture.height, pen)) if legend else picture


# --- pixels ------------------------------------------------------------------------------------------------------


def _as_rgb(image: ImageLike) -> Image.Image:
    """``image`` as a PIL image of mode RGB."""
    if isinstance(image, Image.Image) and image.mode == "RGB":
        return image
    pixels, _ = as_image(image)  # [3,H,W]
    if pixels.is_floating_point():
        pixels = (pixels * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def _as_prediction(target: Target, classes: Sequence[str], picture: Image.Image) -> Prediction:
    """What ``target`` says, as if it was predicted, without scores."""
    fields = ("boxes", "labels", "masks", "semantic", "boundary", "depth", "normals", "keypoints")
    values: dict[str, Any] = {
        name: value.as_subclass(Tensor).cpu()
        for name, value in target.items()
        if name in fields and isinstance(value, Tensor)
    }
    if "keypoints" in values and values["keypoints"].shape[-1] == 2:
        points = values["keypoints"].float()
        seen = target.get("visibility", torch.full(points.shape[:-1], 2.0))
        values["keypoints"] = torch.cat([points, seen.as_subclass(Tensor).cpu().float()[..., None]], -1)
    if "masks" in values:
        values["masks"] = values["masks"].bool()
    return Prediction((picture.height, picture.width), tuple(classes), **values)


def _enlarged(array: Array, factor: int) -> Array:
    """``array`` [h,w,...] with each pixel as a square of ``factor`` pixels."""
    return array if factor == 1 else array.repeat(factor, 0).repeat(factor, 1)


def _borders(labels: Array, width: int) -> Array:
    """bool [H,W]: lines of ``width`` pixels where neighbours differ."""
    lines = np.zeros(labels.shape, dtype=np.bool_)
    lines[:, :-1] |= labels[:, 1:] != labels[:, :-1]
    lines[:-1] |= labels[1:] != labels[:-1]
    return _grown(lines, (width - 1) / 2)


def _grown(mask: Array, radius: float) -> Array:
    """``mask`` grown by a square: ``radius`` pixels to each side, a half one to the right and bottom only."""
    before, after = math.floor(radius), math.ceil(radius)
    for axis in (0, 1):
        wider = mask.copy()
        source, grown = np.moveaxis(mask, axis, 0), np.moveaxis(wider, axis, 0)
        for shift in range(1, min(after, len(source) - 1) + 1):
            grown[shift:] |= source[:-shift]
            if shift <= before:
                grown[:-shift] |= source[shift:]
        mask = wider
    return mask


def _mask_box(mask: Array) -> tuple[int, int, int, int] | None:
    """The smallest box x1, y1, x2, y2 around ``mask``; None where it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _scaled(image: Image.Image, factor: float) -> Image.Image:
    if factor == 1:
        return image
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.BICUBIC)
