"""Readers (one file a format), transforms, loader and checks."""

from __future__ import annotations

from scenewise.data.base import DataSet, Problem
from scenewise.data.formats import FORMATS, open_data

__all__ = ["FORMATS", "DataSet", "Problem", "open_data"]
