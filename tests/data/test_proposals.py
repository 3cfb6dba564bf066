"""Files of proposals: what is written comes back with the samples, in the frame that the model sees."""

from __future__ import annotations

import pickle
from typing import ClassVar

import numpy as np
import pytest
import torch

from scenewise.catalog import build
from scenewise.data import open_data
from scenewise.data.inputs import TensorFile, save_tensors_by_image, with_inputs
from scenewise.data.loader import Epochs, training_batches
from scenewise.data.transforms.by_name import build_transforms
from scenewise.engine.evaluate import evaluate
from scenewise.engine.proposals import write_proposals
from scenewise.errors import DataError, UsageError
from scenewise.model import Model
from scenewise.types import InputSpec, Interface, Output

SCENES = "scenes:count=3,size=32x48,fields=boxes+labels"


class Echo(Model):
    """Gives out the proposals that it is fed, or else the box of the whole image."""

    @classmethod
    def interface(cls, **arguments):
        return Interface({"boxes", "labels"}, {"boxes", "scores"}, {"proposals"})

    seen: ClassVar[list[torch.Tensor]] = []

    def __init__(self, classes, *, input: InputSpec | None = None) -> None:
        super().__init__(classes, input)
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def losses(self, batch):
        return {"none": self.weight.sum()}

    def predict(self, batch):
        self.seen.extend(batch.inputs.get("proposals", []))
        given = batch.inputs.get("proposals") or [torch.tensor([[0.0, 0.0, w, h]]) for h, w in batch.sizes]
        return [
            Output(size, boxes=boxes, scores=torch.ones(len(boxes)))
            for boxes, size in zip(given, batch.sizes, strict=True)
        ]


@pytest.fixture
def data():
    return open_data(SCENES)


@pytest.fixture
def path(data, tmp_path):
    path = tmp_path / "proposals.safetensors"
    save_tensors_by_image(
        {data.image_id(i): torch.tensor([[1.0, 2, 20 + i, 30], [0, 0, 5, 5]]) for i in range(3)}, path
    )
    return path


def test_they_come_with_the_samples_and_move_with_the_image(data, path):
    opened = pickle.loads(pickle.dumps(with_inputs(data, {"proposals": path})))  # as a loader's process gets it
    assert "proposals" not in data.sample(0)[1]
    assert opened.sample(2)[1]["proposals"].tolist() == [[1, 2, 22, 30], [0, 0, 5, 5]]
    order = Epochs(3, 3, seed=0, epoch=0)
    flip = build_transforms([{"RandomHorizontalFlip": {"p": 1.0}}])
    (batch,) = training_batches(
        opened, order, transform=flip, seed=0, needs=frozenset({"boxes", "labels"}), takes=frozenset({"proposals"})
    )
    assert sorted(boxes.tolist() for boxes in batch.inputs["proposals"])[0] == [[26, 2, 47, 30], [43, 0, 48, 5]]
    assert type(batch.inputs["proposals"][0]) is torch.Tensor


def test_evaluation_feeds_them_in_the_frame_of_the_resized_image(data, path):
    model = Echo(data.classes, input=InputSpec(size=(64, 48)))
    Echo.seen.clear()
    scores = evaluate(model, SCENES, "train", inputs={"proposals": path})
    assert Echo.seen[0].tolist() == [[1, 4, 20, 60], [0, 0, 5, 10]]
    assert scores["images"] == 3


def test_a_model_writes_what_it_finds(data, tmp_path):
    path = tmp_path / "whole.safetensors"
    write_proposals(Echo(data.classes, input=InputSpec(size=(64, 48))), SCENES, "train", path, count=1)
    assert TensorFile(path, "proposals")[data.image_id(1)].tolist() == [[0, 0, 48, 32]]


def test_errors_name_the_file_and_the_image(data, path, tmp_path):
    with pytest.raises(DataError, match=r"none.safetensors: not found; expected a file of proposals"):
        with_inputs(data, {"proposals": tmp_path / "none.safetensors"})
    (tmp_path / "text.safetensors").write_text("no")
    with pytest.raises(DataError, match=r"text.safetensors: not a safetensors file"):
        with_inputs(data, {"proposals": tmp_path / "text.safetensors"})
    other = open_data("scenes:count=3,size=32x48", "val")
    with pytest.raises(DataError, match=rf"no proposals for 3 of the 3 images of .*, the first '{other.image_id(0)}'"):
        with_inputs(other, {"proposals": path})
    save_tensors_by_image({"a": torch.zeros(2, 3)}, path)
    with pytest.raises(DataError, match=r"a: proposals: found \[2, 3\]; expected finite boxes \[P,4\]"):
        TensorFile(path, "proposals")["a"]


def test_a_model_without_boxes_writes_none(data, tmp_path):
    model = build("unet", data.classes, width=1, depth=1)
    with pytest.raises(UsageError, match="expected one that fills boxes"):
        write_proposals(model, data, "train", tmp_path / "x.safetensors")


def test_each_damage_of_a_file_is_named(data, path):
    """Flipped bits of boxes, of names, of checksums; nulls; and a file that was cut off: never other boxes."""
    raw = path.read_bytes()
    names = [data.image_id(i) for i in range(3)]
    before = {name: TensorFile(path, "proposals")[name] for name in names}
    rng = np.random.default_rng(0)
    places = [*rng.choice(len(raw), 150, replace=False).tolist(), raw.find(b"checksums") + 14, len(raw) - 1]
    messages = []
    for place in places:
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 64]) + raw[place + 1 :])
        try:
            file = TensorFile(path, "proposals")
            after = {name: file[name] for name in names}
        except DataError as error:
            messages.append(str(error))
        else:
            assert all(torch.equal(after[name], before[name]) for name in names), place
    assert len(messages) > 0.9 * len(places)
    assert all(message.startswith(f"{path}: ") for message in messages)
    path.write_bytes(raw[:-16] + bytes(16))
    with pytest.raises(
        DataError, match=r"damaged: '\S+' has the checksum [0-9a-f]{16}, and the header says '[0-9a-f]{16}'"
    ):
        [TensorFile(path, "proposals")[name] for name in names]
    path.write_bytes(raw[:-16])
    with pytest.raises(DataError, match="not a safetensors file, or damaged"):
        TensorFile(path, "proposals")


def test_files_without_checksums_are_read(data, path):
    """Those of older versions, or of other programs."""
    from safetensors.torch import load_file, save_file

    before = load_file(path)
    save_file(before, path)
    assert all(
        torch.equal(TensorFile(path, "proposals")[name].as_subclass(torch.Tensor), value)
        for name, value in before.items()
    )
