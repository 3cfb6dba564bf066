"""A toy system of optical flow: one file, as a person's own would be, and a data set for it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import tv_tensors

from scenewise.data.base import DataSet
from scenewise.fields.flow import FlowMap
from scenewise.model import Model
from scenewise.types import Batch, Interface, Output, Sample

REACH = 3  # pixels, the longest shift that it looks for


class Matching(Model):
    """Compares features of each pixel with those of the next image around it; the mean of the shifts, by how alike."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, width, 3, padding=1)
        self.sharpness = nn.Parameter(torch.tensor(0.0))

    @classmethod
    def interface(cls, **arguments: Any) -> Interface:
        return Interface(frozenset({"flow"}), frozenset({"flow"}), frozenset({"next_image"}))

    def flow(self, batch: Batch) -> Tensor:
        """[N,2,H,W]"""
        one, two = (F.normalize(self.features(self.pixels(batch, name)), dim=1) for name in (None, "next_image"))
        height, width = one.shape[-2:]
        padded = F.pad(two, [REACH] * 4)
        shifts = [(dx, dy) for dy in range(-REACH, REACH + 1) for dx in range(-REACH, REACH + 1)]
        alike = torch.stack(
            [
                (one * padded[..., REACH + dy : REACH + dy + height, REACH + dx : REACH + dx + width]).sum(1)
                for dx, dy in shifts
            ],
            1,
        )  # [N,S,H,W]
        weights = (alike * self.sharpness.exp()).softmax(1)
        return torch.einsum("nshw,sc->nchw", weights, weights.new_tensor(shifts)).float()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        truth = batch.stacked("flow", torch.nan)
        error = (self.flow(batch) - truth.nan_to_num()).square().sum(1).add(1e-6).sqrt()
        known = error[truth.isfinite().all(1)]
        return {"epe": known.sum() / max(1, known.numel())}

    def predict(self, batch: Batch) -> list[Output]:
        return [Output((h, w), flow=f[:, :h, :w]) for f, (h, w) in zip(self.flow(batch), batch.sizes, strict=True)]


class Shifts(DataSet):
    """Sixteen pictures of noise, each with the same picture moved by a few pixels."""

    fields = frozenset({"flow"})
    classes = ()

    def __init__(self, split: str = "train", size: tuple[int, int] = (20, 28)) -> None:
        self.split, self.size = split, size

    def __len__(self) -> int:
        return 16

    def image_id(self, index: int) -> str:
        return f"{self.split}-{index}"

    def __getitem__(self, index: int) -> Sample:
        generator = torch.Generator().manual_seed(index + 100 * (self.split == "val"))
        image = torch.randint(0, 256, (3, *self.size), dtype=torch.uint8, generator=generator)
        dx, dy = torch.randint(-REACH, REACH + 1, (2,), generator=generator).tolist()
        flow = torch.empty(2, *self.size)
        flow[0], flow[1] = dx, dy
        height, width = self.size
        rows, columns = torch.arange(height)[:, None] + dy, torch.arange(width) + dx
        outside = (rows < 0) | (rows >= height) | (columns < 0) | (columns >= width)
        return tv_tensors.Image(image), {
            "image_id": self.image_id(index),
            "flow": FlowMap(flow.masked_fill(outside, torch.nan)),  # what has left the picture can't be found
            "next_image": tv_tensors.Image(image.roll((dy, dx), (1, 2))),
        }
