"""Metrics, by kind; each equal to the field's reference evaluator."""

from __future__ import annotations

from scenewise.metrics.base import Metric

__all__ = ["Metric"]
