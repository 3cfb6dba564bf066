"""The models that come as packages: where their weights lie, what they find, under which terms.

Weights whose terms forbid commercial use are a distribution of their own, found by its import name; those in the wheel
of scenewise itself are under terms that allow it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from scenewise.errors import MissingExtraError

LITE0 = "backbone: the ImageNet weights of EfficientNet-Lite0 (Google, Apache-2.0), retrained with the rest"


@dataclass(frozen=True)
class Packaged:
    """One row of the table.

    Attributes:
        name: what :func:`~scenewise.weights.load.load` takes.
        system: of the catalog.
        finds: what it finds, and in which images.
        terms: the licence of the weights, and what it follows from.
        lineage: the weights and data that it was made of, the nearest first, each with its terms.
        package: the distribution that brings the weights, where scenewise itself does not; the extra is called as the
            model, the module as the distribution.
    """

    name: str
    system: str
    finds: str
    terms: str
    lineage: tuple[str, ...]
    package: str | None = None

    @property
    def module(self) -> str:
        """The module beside which the weights lie."""
        return "scenewise.weights" if self.package is None else self.package.replace("-", "_")

    @property
    def installed(self) -> bool:
        """Whether the weights are there."""
        return importlib.util.find_spec(self.module) is not None

    @property
    def how(self) -> str:
        """How to install the weights, where they are not there."""
        return (
            f"pip install 'scenewise[{self.name}]' (the package {self.package}), or in a checkout of scenewise: "
            f"pip install ./weights/{self.name}"
        )

    @contextmanager
    def file(self) -> Iterator[Path]:
        """The checkpoint's path, for as long as the block lasts.

        Raises:
            MissingExtraError: the package is not installed; names the extra and the terms.
        """
        if not self.installed:
            raise MissingExtraError(
                f"{self.name}: its weights are a package of their own, for the sake of their terms: {self.terms}. "
                f"If you accept them: {self.how}"
            )
        with resources.as_file(resources.files(self.module) / f"{self.name}.safetensors") as path:
            yield path


PACKAGED: dict[str, Packaged] = {
    row.name: row
    for row in (
        Packaged(
            "blood-cells",
            "faster-rcnn",
            "boxes around red cells, white cells and platelets in photographs of stained blood smears",
            "MIT (the data set)",
            ("data: BCCD (MIT)", LITE0),
        ),
        Packaged(
            "nuclei",
            "mask-rcnn",
            "boxes and masks of cell nuclei under fluorescence microscopes and in stained tissue",
            "CC0 1.0 (the data set)",
            ("data: 2018 Data Science Bowl, stage 1, as corrected by the community (CC0 1.0)", LITE0),
        ),
        Packaged(
            "street-scenes",
            "deeplab-v3-plus",
            "the class of each pixel of a street seen from a car: road, building, car, pedestrian and 7 more",
            "CC BY-NC 4.0 (the data set): not for commercial use",
            ("data: CamVid in the SegNet authors' version (CC BY-NC 4.0)", LITE0),
            package="scenewise-street-scenes",
        ),
    )
}
