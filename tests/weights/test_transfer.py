"""Class layers are carried by the names of the classes, in every system."""

from __future__ import annotations

import pytest
import torch

from scenewise.catalog import build
from scenewise.errors import CheckpointError
from scenewise.fields.table import given
from scenewise.types import OF_CLASSES, Batch
from scenewise.weights.transfer import ClassAxis, class_layers, transfer
from tests.systems.small import SMALL

CLASSES, TURNED = ("ant", "bee", "cat"), ("cat", "ant", "bee")
LABELLED = [name for name in SMALL if build(name, CLASSES, **SMALL[name]).fills & OF_CLASSES]


def seeded(name, classes, seed):
    torch.manual_seed(seed)
    model = build(name, classes, **SMALL[name])
    for value in model.state_dict().values():
        if value.is_floating_point() and value.dim() == 1:
            value += torch.rand(value.shape) * 0.1  # biases that differ
    return model.eval()


@pytest.mark.parametrize("name", LABELLED)
def test_classes_in_another_order_predict_the_same_names(name):
    """All outputs that refer to classes name the same ones, and all others are equal."""
    other, model = seeded(name, CLASSES, 0), seeded(name, TURNED, 1)
    done = transfer(model, other, "other")
    assert (done.carried, done.new, done.dropped, done.left) == (TURNED, (), (), {})
    image = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(2))
    batch = Batch.of([image], size_divisor=model.input.size_divisor)
    for name_of_input in model.takes:
        from scenewise.fields.table import find_input

        batch.inputs[name_of_input] = [find_input(name_of_input).example(image)]
    with torch.no_grad():
        expected, found = given(other.predict(batch)[0]), given(model.predict(batch)[0])
    order = [CLASSES.index(name) for name in TURNED]
    assert expected.keys() == found.keys()
    for field, value in expected.items():
        if field == "semantic_logits":
            torch.testing.assert_close(found[field], value[order], atol=1e-5, rtol=1e-4)
        elif field == "labels":
            assert [TURNED[i] for i in found[field].tolist()] == [CLASSES[i] for i in value.tolist()]
        else:
            torch.testing.assert_close(found[field], value, atol=1e-4, rtol=1e-4)


def test_new_classes_get_new_rows_and_others_are_dropped():
    other, model = seeded("mask-rcnn", CLASSES, 0), seeded("mask-rcnn", ("bee", "dog"), 1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    done = transfer(model, other, "other")
    assert (done.carried, done.new, done.dropped) == (("bee",), ("dog",), ("ant", "cat"))
    after, theirs = model.state_dict(), other.state_dict()
    key = "box_head.box_regressor.weight"  # four rows of each class, the background's first
    assert torch.equal(after[key][4:8], theirs[key][8:12])
    assert torch.equal(after[key][8:], before[key][8:])
    key = "mask_head.mask_logits.bias"
    assert after[key].tolist() == [theirs[key][1].item(), before[key][1].item()]
    assert torch.equal(after["box_head.classifier.bias"][0], theirs["box_head.classifier.bias"][0])


def test_which_rows_belong_to_which_class():
    layers = class_layers(build("r-fcn", CLASSES, **SMALL["r-fcn"]))
    assert layers["class_maps.weight"] == (ClassAxis(0, 9, 9),)
    assert class_layers(build("rpn", CLASSES, **SMALL["rpn"])) == {}


def test_nothing_in_common_is_an_error():
    with pytest.raises(CheckpointError, match=r"other: none of its .* tensors fits a UNet"):
        transfer(seeded("unet", CLASSES, 0), seeded("rpn", CLASSES, 0), "other")


def test_without_a_class_in_common_the_class_layers_are_new_as_a_whole():
    other, model = seeded("faster-rcnn", CLASSES, 0), seeded("faster-rcnn", ("dog", "elk", "fox"), 1)
    before = model.state_dict()["box_head.classifier.bias"].clone()
    done = transfer(model, other, "other")
    assert set(done.left) == set(class_layers(model))
    assert torch.equal(model.state_dict()["box_head.classifier.bias"], before)


def test_matrices_over_the_classes_are_carried_along_both_dimensions():
    old, new = (build("crf-rnn", classes, **SMALL["crf-rnn"]) for classes in (("a", "b", "c"), ("c", "new", "a")))
    with torch.no_grad():
        old.crf.appearance.copy_(torch.arange(9.0).view(3, 3))
    start = new.crf.appearance.detach().clone()
    transfer(new, old, "old")
    found = new.crf.appearance.detach()
    assert torch.equal(found[::2, ::2], torch.tensor([[8.0, 6.0], [2.0, 0.0]]))
    assert torch.equal(found[1], start[1])
    assert torch.equal(found[:, 1], start[:, 1])
