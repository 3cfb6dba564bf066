"""The code in docs/metrics.md runs, and does what the page says."""

import re
from pathlib import Path

import pytest

from scenewise.metrics.coco import OTHER_SIGMA

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def test_the_code_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict = {}
    exec(compile(block, str(PAGE), "exec"), names)
    scores = names["metrics"].compute()
    assert scores["box"]["AP"] == pytest.approx(1.0)
    assert scores["box"]["per_class"]["cat"]["AP"] is None
    assert f"{OTHER_SIGMA}, their mean" in text
    for name in scores["box"]:
        assert f"`{name}`" in text, name
