"""Label maps beside their images, as Roboflow writes them."""

import numpy as np
import pytest
from PIL import Image

from scenewise.data import check_data, open_data, splits_of
from scenewise.errors import DataError

CSV = "Pixel Value, Class\n0, background\n1, cat\n3, a dog\n"
VALUES = np.array([[0, 1, 3], [3, 255, 0]], np.uint8)


def write(root, splits=("train", "valid"), text=CSV):
    for number, split in enumerate(splits):
        folder = root / split
        folder.mkdir(parents=True)
        for name in ("a_jpg.rf.1", "b_jpg.rf.2"):
            pixels = np.full((2, 3, 3), 9 * number + ord(name[0]), np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}.jpg")
            Image.fromarray(VALUES).save(folder / f"{name}_mask.png")
        (folder / "_classes.csv").write_text(text)
    return root


def test_each_split_is_a_folder(tmp_path):
    root = write(tmp_path, ("valid", "test", "train"))
    assert splits_of(str(root)) == ("train", "valid", "test")
    data = open_data(str(root), "val")
    assert data.source == f"masks:{root}"
    assert data.split == "valid"
    assert data.classes == ("background", "cat", "a dog")
    assert data.class_ids == (0, 1, 3)
    assert [data.image_id(index) for index in range(len(data))] == ["a_jpg.rf.1", "b_jpg.rf.2"]
    assert data[0][1]["semantic"].tolist() == [[0, 1, 2], [2, 255, 0]]
    problems = check_data(str(root)).problems
    assert [problem.message for problem in problems if "same picture" not in problem.message] == []


def test_a_folder_of_one_split(tmp_path):
    root = write(tmp_path, ("train",))
    assert len(open_data(f"masks:{root / 'train'}")) == 2
    (root / "train").rename(root / "export-1")
    assert splits_of(f"masks:{root / 'export-1'}") == ("train",)
    (root / "export-1" / "b_jpg.rf.2_mask.png").unlink()
    with pytest.raises(DataError, match=r"b_jpg\.rf\.2_mask\.png: not found; expected the label map of"):
        open_data(f"masks:{root / 'export-1'}")


def test_what_is_wrong_is_named(tmp_path):
    root = write(tmp_path / "differ")
    (root / "valid" / "_classes.csv").write_text(CSV.replace("cat", "cow"))
    with pytest.raises(DataError, match=r"valid/_classes\.csv: other classes than in .*train/_classes\.csv"):
        open_data(f"masks:{root}")
    for number, (line, found) in enumerate(
        (("x, cow", "x, cow"), ("1, cow", "1, cow"), ("254, cow", "254"), ("2", "2"))
    ):
        root = write(tmp_path / str(number), ("train",), f"{CSV}{line}\n")
        with pytest.raises(DataError, match=rf"_classes\.csv: line 5 is '{found}.*'; expected a pixel value, 0 to 253"):
            open_data(f"masks:{root}")
    root = write(tmp_path / "value", ("train",), "Pixel Value, Class\n0, background\n1, cat\n")
    with pytest.raises(DataError, match=r"a_jpg\.rf\.1_mask\.png: pixel \(row 0, column 2\) has value 3"):
        open_data(f"masks:{root}")[0]


def test_a_table_of_whole_images_is_none_of_pixels(tmp_path):
    """Roboflow writes a _classes.csv for the classes of images, too."""
    root = write(tmp_path, ("train",), "filename, cat, dog\na.jpg, 1, 0\n")
    with pytest.raises(DataError, match="which is no data set of a known format"):
        open_data(str(root))
