"""The table of kinds of output is that of the dataclass, the targets and the records."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest
import torch

import scenewise
from scenewise import Prediction
from scenewise.errors import UsageError
from scenewise.fields.table import FIELDS, INPUTS, from_crop, from_view, given, misfit, restore
from scenewise.ops.views import View
from scenewise.types import Described, Output, Target

SOURCE = Path(scenewise.__file__).parent
SIZE = (6, 9)


def test_the_table_is_the_dataclass():
    fields = {field.name for field in dataclasses.fields(Output)} - {"size"}
    assert {name for name, field in FIELDS.items() if field.output} == fields
    known = {name for name, field in FIELDS.items() if field.target}
    assert set(Target.__annotations__) == known | set(INPUTS) | {"image_id"}
    assert all(field.gives in FIELDS for field in FIELDS.values())


def test_no_list_of_field_names_stands_outside():
    """Three names of outputs in one literal list, tuple or set are a list by hand."""
    allowed = (
        "fields/",
        "systems/",
        "types.py",
        "data/readers/",
        "data/writers/",
        "data/scenes/",
        "metrics/",
        "losses/",
        "nn/",
    )
    found = []
    for path in SOURCE.rglob("*.py"):
        place = path.relative_to(SOURCE).as_posix()
        if place.startswith(allowed):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.List | ast.Tuple | ast.Set):
                names = [e.value for e in node.elts if isinstance(e, ast.Constant) and e.value in FIELDS]
                if len(names) >= 3:
                    found.append(f"{place}:{node.lineno}: {names}")
    assert not found, "\n".join(found)


def values():
    """A value of each kind that fits an image of SIZE and two classes."""
    generator = torch.Generator().manual_seed(0)
    normals = torch.randn(3, *SIZE, generator=generator)
    return {
        "labels": torch.tensor([0, 1]),
        "scores": torch.tensor([0.5, 0.25]),
        "boxes": torch.tensor([[1.0, 1, 4, 5], [2, 0, 9, 6]]),
        "masks": torch.rand(2, *SIZE, generator=generator) > 0.5,
        "roi_masks": torch.rand(2, 4, 4, generator=generator),
        "keypoints": torch.rand(2, 3, 3, generator=generator) * 5,
        "semantic": torch.randint(0, 2, SIZE, generator=generator),
        "semantic_logits": torch.randn(2, *SIZE, generator=generator),
        "boundary": torch.rand(SIZE, generator=generator),
        "depth": torch.rand(SIZE, generator=generator) + 1,
        "normals": normals / normals.norm(dim=0),
        "flow": torch.randn(2, *SIZE, generator=generator),
        "embedding": torch.randn(4, *SIZE, generator=generator),
    }


def test_every_kind_comes_back_to_the_image_and_is_drawn_and_kept(tmp_path):
    """From the size that a model was fed, each alone: nothing is left at another size."""
    assert set(values()) == {name for name, field in FIELDS.items() if field.output}
    for name, value in values().items():
        also = {"boxes": values()["boxes"]} if name == "roi_masks" else {}
        done = restore(Output(SIZE, **also, **{name: value}), (12, 18))
        assert FIELDS[name].gives in done
        whole = Prediction((12, 18), ("a", "b"), **done)
        assert misfit(whole) is None, name
        record = whole.save(tmp_path, name, image=torch.zeros(3, 12, 18, dtype=torch.uint8))
        again = given(Prediction.read(record))
        assert again.keys() == given(whole).keys()
        for key, kept in given(whole).items():
            torch.testing.assert_close(again[key], kept, msg=key)
        assert "Prediction(12x18" in repr(whole)


def test_flow_and_boxes_scale_with_the_image_and_depth_does_not():
    done = restore(Output(SIZE, **{n: values()[n] for n in ("boxes", "flow", "depth")}), (12, 9))
    assert done["boxes"][0].tolist() == [1, 2, 4, 10]
    constant = restore(Output(SIZE, flow=torch.ones(2, *SIZE), depth=torch.full(SIZE, 3.0)), (12, 9))
    assert constant["flow"][:, 0, 0].tolist() == [1, 2]
    assert (constant["depth"] == 3).all()


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_a_view_is_undone_for_every_map(turns, flip):
    view = View.of(SIZE, turns, flip)
    for name in ("boundary", "depth", "semantic", "semantic_logits", "masks"):
        value = values()[name]
        found = from_view(Output(view.size, **{name: view.map(value)}), view, SIZE, None)
        assert torch.equal(getattr(found, name), value), name


@pytest.mark.parametrize(("left", "top"), [(0, 0), (3, 5), (-2, -1), (17, 9), (20, 2), (2, -4), (-6, 30)])
def test_what_a_crop_has_is_put_into_the_image(left, top):
    """A crop of 4 x 6 pixels that was fed at twice its size, in an image of 12 x 20; also where it leaves the image."""
    masks = torch.zeros(1, 8, 12, dtype=torch.bool)
    masks[0, 2:4, 6:10] = True
    crop = Output(
        (8, 12),
        boxes=torch.tensor([[6.0, 2, 10, 4]]),
        labels=torch.tensor([1]),
        masks=masks,
        keypoints=torch.tensor([[[7.0, 3, 2]]]),
    )
    found = from_crop(crop, left, top, (4, 6), (12, 20))
    assert found.size == (12, 20)
    assert found.boxes.tolist() == [[left + 3, top + 1, left + 5, top + 2]]
    assert found.keypoints.tolist() == [[[left + 3.5, top + 1.5, 2]]]
    assert found.labels is crop.labels
    wanted = [[top + 1, x] for x in (left + 3, left + 4) if 0 <= x < 20 and 0 <= top + 1 < 12]
    assert found.masks.shape == (1, 12, 20)
    assert found.masks[0].nonzero().tolist() == wanted


def test_what_has_no_place_in_another_image_is_refused():
    assert {name for name, field in FIELDS.items() if field.shifts} == {
        "labels", "scores", "boxes", "masks", "keypoints",
    }  # fmt: skip
    with pytest.raises(UsageError, match="depth of a crop can't be put into the whole image"):
        from_crop(Output((4, 6), depth=torch.ones(4, 6)), 1, 2, (4, 6), (12, 20))


def test_what_does_not_fit_is_named():
    assert "depth is [3, 9]; expected [H,W] with H = 6, W = 9" in misfit(Described(SIZE, depth=torch.zeros(3, 9)))
    assert "boundary has a value that is not finite" in misfit(Described(SIZE, boundary=torch.full(SIZE, torch.nan)))
    assert misfit(Described(SIZE, depth=torch.full(SIZE, torch.nan))) is None  # not known
