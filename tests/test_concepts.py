"""The code in docs/concepts.md runs, and does what the page says."""

import re
from pathlib import Path

import torch

PAGE = Path(__file__).resolve().parents[1] / "docs" / "concepts.md"


def test_the_code_on_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    result, again = names["result"], names["again"]
    assert len(result) == 2
    assert len(result.above(0.5)) == 1
    assert result.classes[result.labels[0]] == "dog"
    assert torch.equal(again.boxes, result.boxes)
    assert torch.equal(again.scores, result.scores)
    assert [entry["category_id"] for entry in result.to_coco(17, [17, 18])] == [18, 17]
    assert (tmp_path / "pets.png").stat().st_size > 0
    assert tuple(names["batch"].images.shape) == (2, 3, 64, 96)
    assert names["batch"].sizes == [(64, 96), (48, 80)]
    assert names["prediction"].size == (48, 80)
    assert sum(names["prediction"].shares().values()) > 0.999


def test_the_page_names_what_there_is():
    import scenewise
    from scenewise import results

    text = PAGE.read_text(encoding="utf-8")
    for name in re.findall(r"`scenewise\.(\w+)`", text):
        assert hasattr(scenewise, name), name
    for name in re.findall(r"`scenewise\.results\.(\w+)`", text):
        assert hasattr(results, name), name
