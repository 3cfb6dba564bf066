"""The percentage of correct keypoints (PCK): how many joints lie near their true place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from scenewise.errors import UsageError
from scenewise.metrics.base import Metric, Setting, image_label
from scenewise.metrics.objects import truths_of
from scenewise.types import Described, Skeleton, Target

Float64 = npt.NDArray[np.float64]


class PckMetrics(Metric):
    """The share of labelled joints that are predicted within a distance of their true place.

    The distance is ``alpha`` times a length of the person: the longer side of the box around the labelled joints, as
    Yang and Ramanan have it, or the distance of two joints, such as the torso's (``("left_shoulder", "right_hip")``) or
    the head's. A person whose length is not known (one of both joints is not labelled, or 0) does not count.

    Where an image has several people, predictions take people in the order of their scores, each the nearest that is
    free (by the mean distance of its labelled joints); the joints of people whom none takes are wrong.

    Args:
        classes: of the model; joints are counted whatever the class.
        skeleton: what joints are called, where it is known.
        alpha: the share of the length.
        length: ``"box"``, or the names of two joints.

    Source: Yang and Ramanan, Articulated human detection with flexible mixtures of parts, PAMI 2013, sec. 7.
    """

    def __init__(
        self,
        classes: Sequence[str] = (),
        *,
        skeleton: Skeleton | None = None,
        alpha: float = 0.2,
        length: Literal["box"] | Sequence[str] = "box",
    ) -> None:
        if not alpha > 0:
            raise UsageError(f"alpha is {alpha}; expected a number above 0")
        self.names = skeleton.names if skeleton is not None else ()
        self.alpha = alpha
        self.ends: tuple[int, int] | None = None
        if length != "box":
            wrong = [name for name in length if name not in self.names]
            if isinstance(length, str) or len(length) != 2 or wrong:
                known = ", ".join(self.names) or "none is known"
                raise UsageError(f"length is {length!r}; expected 'box' or the names of two joints: {known}")
            self.ends = (self.names.index(length[0]), self.names.index(length[1]))
        self.hits: npt.NDArray[np.int64] | None = None  # [P] joints that are right
        self.labelled: npt.NDArray[np.int64] | None = None  # [P] joints that count
        self.images = 0

    @classmethod
    def of(cls, setting: Setting, measured: tuple[str, ...], **parameters: Any) -> PckMetrics:
        """With the data set's skeleton."""
        return cls(setting.classes, skeleton=setting.skeleton, **parameters)

    def update(self, prediction: Described, target: Target) -> None:
        """Count one image: ``prediction.keypoints`` [K,P,3] (and ``scores`` [K], where there are any) against
        ``target["keypoints"]`` [G,P,3] and ``target["ignore"]``.

        Raises:
            UsageError: a field is missing or does not fit; names the image.
        """
        where = image_label(prediction, target)
        truth = truths_of(target, where, 0, ("keypoints",), classed=False)
        people = truth["keypoints"][~truth["ignore"]].double().numpy()
        if prediction.keypoints is None:
            raise UsageError(f"{where}: the prediction has no keypoints; expected [K,P,3]")
        found = prediction.keypoints.detach().cpu().double().numpy()
        joints = truth["keypoints"].shape[1]
        expected = joints if self.hits is None else len(self.hits)
        for whose, points in (("prediction", found.shape[1]), ("target", joints)):
            if points != expected:
                raise UsageError(f"{where}: the {whose} has {points} keypoints per instance; expected {expected}")
        if self.hits is None or self.labelled is None:
            self.hits, self.labelled = np.zeros((2, joints), np.int64)
        if prediction.scores is not None:
            found = found[np.argsort(-prediction.scores.detach().cpu().float().numpy(), kind="stable")]
        lengths = self._lengths(people)
        known = lengths > 0
        people, lengths = people[known], lengths[known]
        distances = _taken(found, people)
        seen = people[..., 2] > 0
        self.hits += (seen & (distances <= self.alpha * lengths[:, None])).sum(0)
        self.labelled += seen.sum(0)
        self.images += 1

    def _lengths(self, people: Float64) -> Float64:
        """The length [G] that distances to each of ``people`` [G,P,3] are measured by; 0 where it is not known."""
        seen = people[..., 2] > 0
        if self.ends is not None:
            one, two = self.ends
            span: Float64 = np.linalg.norm(people[:, one, :2] - people[:, two, :2], axis=-1)
            return np.where(seen[:, one] & seen[:, two], span, 0.0)
        points = np.where(seen[..., None], people[..., :2], np.nan)
        sides = np.zeros((len(people), 2))
        some = seen.any(1)
        sides[some] = np.nanmax(points[some], axis=1) - np.nanmin(points[some], axis=1)
        found: Float64 = sides.max(1, initial=0.0)
        return found

    def merge(self, other: PckMetrics) -> None:
        """Add what another process counted."""
        mine, theirs = ((m.alpha, m.ends, m.names) for m in (self, other))
        if mine != theirs:
            raise UsageError(f"can't merge the PCK of (alpha, length, joints) {theirs} into that of {mine}")
        if other.hits is not None and other.labelled is not None:
            self.hits = other.hits + (0 if self.hits is None else self.hits)
            self.labelled = other.labelled + (0 if self.labelled is None else self.labelled)
        self.images += other.images

    def compute(self) -> dict[str, Any]:
        """The scores, 0..1, None where nothing is labelled.

        Returns:
            ``pck``: ``all``, over all joints; ``mean``, over the means of each; ``per_joint``: by name, or number where
            there are no names; and the number of ``images``.
        """
        hits, labelled = ([] if x is None else x.tolist() for x in (self.hits, self.labelled))
        shares = [hit / count if count else None for hit, count in zip(hits, labelled, strict=True)]
        known = [share for share in shares if share is not None]
        names = self.names if len(self.names) == len(shares) else tuple(str(joint) for joint in range(len(shares)))
        scores = {
            "all": sum(hits) / sum(labelled) if sum(labelled) else None,
            "mean": sum(known) / len(known) if known else None,
            "per_joint": dict(zip(names, shares, strict=True)),
        }
        return {"pck": scores, "images": self.images}


def _taken(found: Float64, people: Float64) -> Float64:
    """The distances [G,P] of the joints of ``people`` [G,P,3] in the pose of ``found`` [K,P,3] that takes each;
    infinite for those whom none takes."""
    distances = np.full(people.shape[:2], np.inf)
    free = list(range(len(people)))
    for pose in found:
        if not free:
            break
        apart = np.linalg.norm(people[free, :, :2] - pose[:, :2], axis=-1)  # [free,P]
        seen = people[free, :, 2] > 0
        nearest = int(((apart * seen).sum(1) / np.maximum(seen.sum(1), 1)).argmin())
        distances[free.pop(nearest)] = apart[nearest]
    return distances
