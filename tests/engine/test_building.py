"""What a training run is made of."""

from __future__ import annotations

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from scenewise.data.transforms.by_name import ResizeToInput, build_transforms
from scenewise.engine.building import InputThen
from scenewise.fields.run_masks import RunMasks
from scenewise.ops.runs import Runs
from scenewise.types import InputSpec


def test_what_transforms_are_told_of_masks_holds_for_run_masks(monkeypatch):
    """The fill for masks, of a recipe's transforms and of one's own."""
    mask = torch.zeros(1, 4, 6, dtype=torch.bool)
    mask[0, 1, 2] = True
    runs = RunMasks.of(Runs.of_bitmaps(mask.numpy()))
    for transform in (
        v2.Compose([v2.Pad(2, fill={tv_tensors.Mask: 1, "others": 0})]),
        build_transforms([{"Pad": {"padding": 2, "fill": {"Mask": 1, "others": 0}}}]),
    ):
        image = tv_tensors.Image(torch.zeros(3, 4, 6, dtype=torch.uint8))
        _, target = InputThen(ResizeToInput(InputSpec()), transform)(image, {"masks": runs})
        found = target["masks"].as_subclass(torch.Tensor).bool()
        assert found.shape == (1, 8, 10)
        assert torch.equal(found[:, 2:-2, 2:-2], mask)
        assert int(found.sum()) == 8 * 10 - 4 * 6 + 1
