"""Readers (one file per format), transforms, loader and checks."""

from __future__ import annotations

from scenewise.data.base import DataSet, Problem
from scenewise.data.check import DataReport, check_data
from scenewise.data.formats import FORMATS, open_data, splits_of
from scenewise.data.instances import InstanceDataSet, describe_repairs

__all__ = [
    "FORMATS",
    "DataReport",
    "DataSet",
    "InstanceDataSet",
    "Problem",
    "check_data",
    "describe_repairs",
    "open_data",
    "splits_of",
]
