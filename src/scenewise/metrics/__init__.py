"""Metrics, by kind; each equal to the field's reference evaluator."""

from __future__ import annotations

from typing import Any, Protocol

from scenewise.types import Described, Target


class Metric(Protocol):
    """Counts over many images, in memory that does not grow with pixels, and the scores that follow."""

    def update(self, prediction: Described, target: Target) -> None:
        """Count one image. The prediction and the target have the same size."""

    def merge(self, other: Any) -> None:
        """Add what another process counted."""

    def compute(self) -> dict[str, Any]:
        """The scores by name, ready for JSON; undefined ones are None."""
