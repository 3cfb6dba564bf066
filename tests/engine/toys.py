"""Toy systems of one's own: two players, and depth from a model and data in hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import tv_tensors

from scenewise.data.base import DataSet
from scenewise.model import Model
from scenewise.nn.semantic import outputs
from scenewise.types import Batch, Interface, Output, Sample


class Adversarial(Model):
    """A segmenter and an adversary that tells its maps from true ones (Luc et al. 2016, eq. 1)."""

    def __init__(self, classes: tuple[str, ...], *, weight: float = 0.1, forgotten: bool = False) -> None:
        super().__init__(classes)
        self.weight, self.forgotten = weight, forgotten
        count = len(self.classes)
        self.segmenter = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(8, count, 1)
        )
        self.adversary = nn.Sequential(nn.Conv2d(3 + count, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))

    @classmethod
    def interface(cls, **arguments: Any) -> Interface:
        return Interface(frozenset({"semantic"}), frozenset({"semantic_logits"}))

    def players(self) -> Mapping[str, Iterable[nn.Parameter]]:
        adversary = list(self.adversary.parameters())
        return {"segmenter": self.segmenter.parameters(), "adversary": adversary[1:] if self.forgotten else adversary}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        images, target = self.pixels(batch), batch.stacked("semantic", 255)
        logits = self.segmenter(images)
        known = F.one_hot(target.clamp(max=len(self.classes) - 1), len(self.classes)).movedim(-1, 1).float()
        return {
            "segmenter/cross-entropy": F.cross_entropy(logits, target, ignore_index=255),
            "segmenter/adversarial": self.weight * F.softplus(-self.verdict(images, logits.softmax(1))).mean(),
            "adversary/true": F.softplus(-self.verdict(images, known)).mean(),
            "adversary/segmented": F.softplus(self.verdict(images, logits.softmax(1).detach())).mean(),
        }

    def verdict(self, images: Tensor, maps: Tensor) -> Tensor:
        """Logits of whether the maps are true."""
        found: Tensor = self.adversary(torch.cat([images, maps], 1))
        return found

    def predict(self, batch: Batch) -> list[Output]:
        return outputs(self.segmenter(self.pixels(batch)), batch)


class Nameless(Adversarial):
    """Its losses name no player."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {name.split("/")[1]: value for name, value in super().losses(batch).items()}


class Deep(Model):
    """Depth as a 1x1 convolution of the colours; without classes."""

    @classmethod
    def interface(cls, **arguments: Any) -> Interface:
        return Interface(frozenset({"depth"}), frozenset({"depth"}))

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, width, 1), nn.ReLU(), nn.Conv2d(width, 1, 1))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        depth, truth = self.net(self.pixels(batch))[:, 0], batch.stacked("depth", torch.nan)
        wrong = (depth - truth.nan_to_num()).abs()[truth.isfinite()]
        return {"l1": wrong.sum() / max(1, wrong.numel())}

    def predict(self, batch: Batch) -> list[Output]:
        maps = self.net(self.pixels(batch))[:, 0].float()
        return [Output((h, w), depth=m[:h, :w]) for m, (h, w) in zip(maps, batch.sizes, strict=True)]


class Ramps(DataSet):
    """Twelve pictures whose depth is twice their red."""

    fields = frozenset({"depth"})
    classes = ()
    split = "train"

    def __len__(self) -> int:
        return 12

    def image_id(self, index: int) -> str:
        return f"ramp-{index}"

    def __getitem__(self, index: int) -> Sample:
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, 16, 24), dtype=torch.uint8, generator=generator)
        depth = tv_tensors.Mask(image[0] / 127.5)
        return tv_tensors.Image(image), {"image_id": self.image_id(index), "depth": depth}
