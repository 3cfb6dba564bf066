"""Resizing samples to a model's input."""

from __future__ import annotations

import torch

from scenewise import InputSpec, open_data
from scenewise.data.transforms.by_name import ResizeToInput


def test_a_sample_with_keypoints_is_resized():
    data = open_data("scenes:count=6,size=64x96,fields=boxes+labels+keypoints+visibility")
    image, target = next(sample for sample in map(data.__getitem__, range(6)) if len(sample[1]["keypoints"]))
    small, resized = ResizeToInput(InputSpec(short_side=32))(image, target)
    assert small.shape[-2:] == (32, 48)
    assert torch.allclose(
        resized["keypoints"].as_subclass(torch.Tensor), target["keypoints"].as_subclass(torch.Tensor) / 2
    )
    assert torch.equal(resized["visibility"], target["visibility"])
