"""The catalog: options that several systems share are documented once; what is wrong in an argument is named."""

from __future__ import annotations

import inspect

import pytest

from scenewise.catalog import build, check_arguments, find, options, plain_arguments
from scenewise.errors import UsageError
from scenewise.ops.matching import HardExamples
from tests.systems.options import small

TWO_STAGES = ("faster-rcnn", "mask-rcnn", "keypoint-rcnn")


@pytest.mark.parametrize("name", TWO_STAGES[1:])
def test_shared_arguments_are_those_of_the_parent(name):
    parent, own = options("faster-rcnn"), options(name)
    assert set(own) - set(parent) == {"mask-rcnn": {"mask", "keypoints"}, "keypoint-rcnn": {"keypoints"}}[name]
    for key, option in parent.items():
        assert own[key] == option
        assert f"\n    {key}:" not in find(name).load().__doc__, "written twice"
    assert next(iter(own)) == "classes"
    assert not any(key.startswith("_") or key == "shared" for key in own)


def test_a_class_shows_all_its_arguments():
    """In help(), in notebooks, and to the constructor's own check."""
    cls = find("mask-rcnn").load()
    assert list(inspect.signature(cls).parameters) == list(options("mask-rcnn"))
    with pytest.raises(UsageError, match="MaskRCNN: got an unexpected keyword argument 'bakcbone'"):
        cls(("a",), bakcbone="resnet18")
    with pytest.raises(UsageError, match="FasterRCNN: too many positional arguments"):
        find("faster-rcnn").load()(("a",), [])


def test_arguments_hold_what_the_parent_was_given():
    model = small("mask-rcnn", hard_examples={"count": 4})
    assert model.arguments["backbone"] == "resnet10t"
    assert model.arguments["roi"] == "align"
    assert model.arguments["hard_examples"] == HardExamples(4)
    plain = plain_arguments(model)
    assert plain["hard_examples"] == {"count": 4, "nms_iou": None}
    assert "shared" not in plain


@pytest.mark.parametrize(
    ("system", "arguments", "message"),
    [
        (
            "mask-rcnn",
            {"mask": {"convz": 3}},
            r"mask-rcnn: mask has no entry 'convz'; did you mean 'convs'\?; known: head",
        ),
        ("mask-rcnn", {"mask": {"size": "big"}}, r"mask-rcnn: mask\.size is 'big'; expected int \(.*integer"),
        ("mask-rcnn", {"mask": {"head": "fnc"}}, r"mask\.head is 'fnc'; expected Literal\['fcn', 'mlp'\]"),
        ("mask-rcnn", {"mask": 3}, r"mask-rcnn: mask is 3; expected MaskSpec \| None"),
        ("mask-rcnn", {"mask": {"boundary_fusion": True}}, "mask: boundary_fusion is true and boundary is false"),
        ("faster-rcnn", {"anchors": {"ratio": [1]}}, r"anchors has no entry 'ratio'; did you mean 'ratios'\?"),
        ("faster-rcnn", {"anchors": {"sizes": [[32], ["x"]]}}, r"anchors\.sizes\[1\]\[0\] is 'x'; expected float \("),
        ("faster-rcnn", {"anchors": {"sizes": 32}}, r"anchors\.sizes is 32; expected tuple"),
        ("faster-rcnn", {"hard_examples": {"cuont": 3}}, r"hard_examples has no entry 'cuont'; did you mean 'count'"),
        ("faster-rcnn", {"hard_examples": {"nms_iou": 0.7}}, r"hard_examples\.count is missing; expected int"),
        ("faster-rcnn", {"hard_examples": "many"}, r"hard_examples is 'many'; expected int \| HardExamples \| None"),
        ("faster-rcnn", {"loss_weights": {"box": "x"}}, r"faster-rcnn: loss_weights\.box is 'x'; expected float \("),
        ("faster-rcnn", {"bakcbone": "resnet18"}, r"faster-rcnn has no option 'bakcbone'; did you mean 'backbone'\?"),
        ("faster-rcnn", {}, "faster-rcnn: classes is missing"),
        ("fast-rcnn", {"search": {"modee": "fast"}}, r"fast-rcnn: search has no entry 'modee'; did you mean 'mode'\?"),
    ],
)
def test_what_is_wrong_is_named(system, arguments, message):
    given = {"classes": ("a",), **arguments} if arguments else {}
    with pytest.raises(UsageError, match=message):
        check_arguments(system, given)


def test_a_number_of_classes_names_them():
    assert build("unet", 3, width=4, depth=1).classes == ("class-0", "class-1", "class-2")
    with pytest.raises(UsageError, match="classes is -1; expected class names, or how many there are"):
        build("unet", -1)
