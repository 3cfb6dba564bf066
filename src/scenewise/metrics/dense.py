"""Errors of maps of measures: depth, surface normals, optical flow. Pixels count where the ground truth is known
(finite).

A prediction may leave pixels unknown, too (NaN); they can't be compared, and ``coverage`` is the share of the pixels
with a truth that could.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from scenewise.errors import UsageError
from scenewise.metrics.base import Metric, maps_of, mean
from scenewise.types import Described, Target

Pool = Literal["image", "pixel"]

BINS = 180_000  # of angles, a thousandth of a degree wide: what their median is read from


class DepthMetrics(Metric):
    """The errors of depth that the field reports.

    Args:
        classes: of the model, which depth has no use for.
        pool: whether each score is the mean over images of the score of each (``"image"``, the usual) or one over the
            pixels of all images (``"pixel"``). Published numbers have both; the root of a mean differs between them.
        nearest, farthest: metres; pixels count whose true depth lies within, bounds included.
        least: metres; predictions below it are taken for it in logarithms and ratios, which have no value for 0.

    Source: Eigen, Puhrsch and Fergus, Depth map prediction from a single image using a multi-scale deep network, NIPS
    2014, sec. 4.
    """

    smaller_is_better = frozenset(
        f"depth.{name}" for name in ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "scale_invariant")
    )

    def __init__(
        self,
        classes: Sequence[str] = (),
        *,
        pool: Pool = "image",
        nearest: float = 1e-3,
        farthest: float = math.inf,
        least: float = 1e-3,
    ) -> None:
        if pool not in ("image", "pixel"):
            raise UsageError(f"pool is {pool!r}; expected image or pixel")
        if not 0 < nearest < farthest or not least > 0:
            raise UsageError(
                f"nearest, farthest and least are {nearest}, {farthest} and {least} metres; expected 0 < nearest < "
                "farthest and least > 0"
            )
        self.pool: Pool = pool
        self.nearest, self.farthest, self.least = nearest, farthest, least
        self.sums: list[list[float]] = []  # of each image: pixels with a truth, those compared, and the sums over them

    def update(self, prediction: Described, target: Target) -> None:
        """Count one image: ``prediction.depth`` [H,W] against ``target["depth"]`` [H,W], metres, NaN where unknown.

        Raises:
            UsageError: one of them is missing, or their sizes differ; names the image.
        """
        found, truth = (x.double() for x in maps_of(prediction, target, "depth", "[H,W] in metres"))
        valid = truth.isfinite() & (truth >= self.nearest) & (truth <= self.farthest)
        compared = valid & found.isfinite()
        found, truth = found[compared], truth[compared]
        positive = found.clamp(min=self.least)
        error, log = found - truth, positive.log() - truth.log()
        ratio = torch.maximum(positive / truth, truth / positive)
        terms = (
            error.abs() / truth, error**2 / truth, error**2, log**2, log.abs() / math.log(10), log,
            ratio < 1.25, ratio < 1.25**2, ratio < 1.25**3,
        )  # fmt: skip
        self.sums.append([float(valid.sum()), float(len(truth)), *(float(term.sum()) for term in terms)])

    def merge(self, other: DepthMetrics) -> None:
        """Add what another process counted."""
        mine, theirs = ((m.pool, m.nearest, m.farthest, m.least) for m in (self, other))
        if mine != theirs:
            raise UsageError(
                f"can't merge depth scores of (pool, nearest, farthest, least) {theirs} into those of {mine}"
            )
        self.sums += other.sums

    def compute(self) -> dict[str, Any]:
        """The scores, None where no pixel counts.

        Returns:
            ``depth``: ``abs_rel`` (the mean of |d - t| / t), ``sq_rel`` (of (d - t)^2 / t, metres), ``rmse`` (metres),
            ``rmse_log`` (natural logarithms), ``log10`` (the mean of |log10 d - log10 t|), ``scale_invariant`` (the
            standard deviation of log d - log t), ``delta1``, ``delta2``, ``delta3`` (the share of pixels whose ratio,
            the larger over the smaller, is below 1.25, 1.25^2, 1.25^3), and ``coverage``; and the number of ``images``.
        """
        groups = [self.sums] if self.pool == "pixel" else [[sums] for sums in self.sums]
        rows = [_depth_scores([math.fsum(column) for column in zip(*g, strict=True)]) for g in groups if g]
        known = [row for row in rows if row is not None]
        names = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "scale_invariant", "delta1", "delta2", "delta3")
        scores = {name: mean(row[place] for row in known) for place, name in enumerate(names)}
        scores["coverage"] = _share([sums[1] for sums in self.sums], [sums[0] for sums in self.sums])
        return {"depth": scores, "images": len(self.sums)}


def _depth_scores(sums: Sequence[float]) -> tuple[float, ...] | None:
    """The nine scores of some pixels from the sums over them; None where there are none."""
    _, pixels, *totals = sums
    if not pixels:
        return None
    abs_rel, sq_rel, square, log_square, log10, log, *deltas = (total / pixels for total in totals)
    spread = math.sqrt(max(0.0, log_square - log**2))
    return (abs_rel, sq_rel, math.sqrt(square), math.sqrt(log_square), log10, spread, *deltas)


class NormalMetrics(Metric):
    """The angles between predicted and true surface normals, over the pixels of all images.

    Args:
        classes: of the model, which normals have no use for.
        within: degrees; for each, the share of pixels whose angle is below it.

    The median is exact to a thousandth of a degree.
    Source: Fouhey, Gupta and Hebert, Data-driven 3D primitives for single image understanding, ICCV 2013, sec. 5.
    """

    smaller_is_better = frozenset({"normals.mean", "normals.median", "normals.rmse"})

    def __init__(self, classes: Sequence[str] = (), *, within: Sequence[float] = (11.25, 22.5, 30.0)) -> None:
        self.within = tuple(within)
        self.sums: list[list[float]] = []  # of each image: pixels with a truth, compared, and the sums over them
        self.counts = torch.zeros(BINS + 1, dtype=torch.int64)

    def update(self, prediction: Described, target: Target) -> None:
        """Count one image: ``prediction.normals`` [3,H,W] against ``target["normals"]`` [3,H,W], NaN where unknown. The
        predicted vectors need not be of length 1.

        Raises:
            UsageError: one of them is missing, or their sizes differ; names the image.
        """
        found, truth = (x.double() for x in maps_of(prediction, target, "normals", "[3,H,W] unit vectors"))
        valid = truth.isfinite().all(0) & (truth.norm(dim=0) > 0)
        compared = valid & found.isfinite().all(0) & (found.norm(dim=0) > 0)
        angles = angle_between(found[:, compared], truth[:, compared])
        within = [float((angles < bound).sum()) for bound in self.within]
        self.sums.append(
            [float(valid.sum()), float(len(angles)), float(angles.sum()), float((angles**2).sum()), *within]
        )
        self.counts += (angles * (BINS / 180)).long().bincount(minlength=BINS + 1).cpu()

    def merge(self, other: NormalMetrics) -> None:
        """Add what another process counted."""
        if other.within != self.within:
            raise UsageError(f"can't merge shares of angles within {other.within} into those within {self.within}")
        self.sums += other.sums
        self.counts += other.counts

    def compute(self) -> dict[str, Any]:
        """The scores, None where no pixel counts.

        Returns:
            ``normals``: ``mean``, ``median`` and ``rmse`` of the angles in degrees, ``within_A`` for each bound A (the
            share of pixels), and ``coverage``; and the number of ``images``.
        """
        names = ("mean", "rmse", *(f"within_{bound:g}" for bound in self.within))
        sums = [math.fsum(column) for column in zip(*self.sums, strict=True)] or [0.0] * (2 + len(names))
        pixels = sums[1]
        scores: dict[str, float | None] = {
            name: total / pixels if pixels else None for name, total in zip(names, sums[2:], strict=True)
        }
        if scores["rmse"] is not None:
            scores["rmse"] = math.sqrt(scores["rmse"])
        scores["median"] = self._median()
        scores["coverage"] = pixels / sums[0] if sums[0] else None
        return {"normals": scores, "images": len(self.sums)}

    def _median(self) -> float | None:
        """The middle angle, of an even number the mean of both; each by the middle of its bin."""
        cumulated = self.counts.cumsum(0)
        total = int(cumulated[-1])
        if not total:
            return None
        middles = torch.tensor([(total - 1) // 2, total // 2])
        bins = torch.searchsorted(cumulated, middles, right=True).double()
        return float((bins + 0.5).mean()) * 180 / BINS


def angle_between(a: Tensor, b: Tensor) -> Tensor:
    """The angles in degrees [N] between the vectors of ``a`` and ``b`` [3,N]; exact at small ones, too."""
    cross, dot = torch.linalg.cross(a, b, dim=0).norm(dim=0), (a * b).sum(0)
    return torch.rad2deg(torch.atan2(cross, dot))


class FlowMetrics(Metric):
    """The errors of optical flow, over the pixels of all images.

    Args:
        classes: of the model, which flow has no use for.
        pixels, share: a pixel's vector is an outlier where its end-point error is above this many pixels and above this
            share of the true vector's length.

    Source: the end-point error: Baker et al., A database and evaluation methodology for optical flow, IJCV 2011, sec.
    4; outliers (Fl): Menze and Geiger, Object scene flow for autonomous vehicles, CVPR 2015, sec. 5.
    """

    smaller_is_better = frozenset({"flow.epe", "flow.outliers"})

    def __init__(self, classes: Sequence[str] = (), *, pixels: float = 3.0, share: float = 0.05) -> None:
        self.pixels, self.share = pixels, share
        self.sums: list[list[float]] = []  # of each image: pixels with a truth, compared, and the sums over them

    def update(self, prediction: Described, target: Target) -> None:
        """Count one image: ``prediction.flow`` [2,H,W] against ``target["flow"]`` [2,H,W], NaN where unknown.

        Raises:
            UsageError: one of them is missing, or their sizes differ; names the image.
        """
        found, truth = (x.double() for x in maps_of(prediction, target, "flow", "[2,H,W] in pixels"))
        valid = truth.isfinite().all(0)
        compared = valid & found.isfinite().all(0)
        error = (found - truth).norm(dim=0)[compared]
        outliers = (error > self.pixels) & (error > self.share * truth.norm(dim=0)[compared])
        self.sums.append([float(valid.sum()), float(len(error)), float(error.sum()), float(outliers.sum())])

    def merge(self, other: FlowMetrics) -> None:
        """Add what another process counted."""
        mine, theirs = ((m.pixels, m.share) for m in (self, other))
        if mine != theirs:
            raise UsageError(f"can't merge flow scores of (pixels, share) {theirs} into those of {mine}")
        self.sums += other.sums

    def compute(self) -> dict[str, Any]:
        """The scores, None where no pixel counts.

        Returns:
            ``flow``: ``epe``, the mean end-point error in pixels; ``outliers``, the share of outliers (Fl, 0..1); and
            ``coverage``; and the number of ``images``.
        """
        columns = list(zip(*self.sums, strict=True)) or [()] * 4
        valid, compared, errors, outliers = columns
        scores = {
            "epe": _share(errors, compared),
            "outliers": _share(outliers, compared),
            "coverage": _share(compared, valid),
        }
        return {"flow": scores, "images": len(self.sums)}


def _share(parts: Sequence[float], wholes: Sequence[float]) -> float | None:
    whole = math.fsum(wholes)
    return math.fsum(parts) / whole if whole else None
