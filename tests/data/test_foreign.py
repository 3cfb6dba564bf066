"""Forms of annotations that no reader takes are named with what to do; those that are read are not among them."""

import json
import time

import pytest

from scenewise.data import open_data
from scenewise.data.foreign import foreign_format
from scenewise.errors import DataError

FILES = {
    "CreateML's JSON": ("_annotations.createml.json", json.dumps(
        [{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": {"x": 2, "y": 2, "width": 1}}]}])),
    "Label Studio's own JSON": ("project-1.json", json.dumps(
        [{"id": 1, "annotations": [{"result": [{"type": "rectanglelabels", "from_name": "label"}]}]}])),
    "VIA 3's projects": ("via3.json", json.dumps({"project": {"pid": "__VIA_PROJECT_ID__", "vid_list": ["1"]}})),
    "VoTT's JSON": ("x-export.json", json.dumps(
        {"name": "x", "assets": {"1": {"asset": {"name": "a.jpg"}, "regions": [{"tags": ["cat"]}]}}})),
    "Labelbox's NDJSON": ("export.ndjson", '{"data_row": {"id": "x"}}\n'),
    "CVAT's XML (CVAT for images)": ("annotations.xml", '<?xml version="1.0"?>\n<annotations>\n<version>1.1</version>'),
    "Open Images' CSV": ("boxes.csv", "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\n"),
    "TensorFlow's CSV of boxes": ("_annotations.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\n"),
    "KITTI's text files": ("000000.txt", "Car 0.00 0 -1.58 5.0 6.0 20.0 30.0 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59\n"),
    "TFRecord": ("train.tfrecord", "\x10"),
}  # fmt: skip


@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize("folder", ["", "train", "export/train"])
def test_a_form_that_is_not_read_is_named(tmp_path, form, folder):
    name, text = FILES[form]
    file = tmp_path / folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    with pytest.raises(DataError) as caught:
        open_data(str(tmp_path))
    assert f"{file} has the form of {form}, which is not read: " in str(caught.value)
    if not folder:
        assert foreign_format(file) == foreign_format(tmp_path) != ""


def test_other_files_are_not(tmp_path):
    for name, text in {
        "a.json": '{"a": [1, 2]}', "b.xml": "<annotation><object/></annotation>", "c.csv": "a,b\n1,2\n",
        "d.txt": "0 0.5 0.5 0.1 0.1\n" * 50, "e.txt": "word " * 500, "f.txt": "A" + " 1" * 400 + "x",
    }.items():  # fmt: skip
        (tmp_path / name).write_text(text)
        assert foreign_format(tmp_path / name) == ""
    assert foreign_format(tmp_path / "nowhere") == ""


def test_hostile_beginnings_take_no_time(tmp_path):
    start = time.process_time()
    for text in (
        '[{"coordinates"' * 300,
        '"assets":{' * 400,
        "<annotations>" * 300,
        "A " + "1." * 2000,
        "A" + " -1" * 1300,
    ):
        for ending in ("json", "xml", "csv", "txt", "ndjson"):
            (tmp_path / f"a.{ending}").write_text(text)
            foreign_format(tmp_path / f"a.{ending}")
    assert time.process_time() - start < 2
