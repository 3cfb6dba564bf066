"""Images and label maps from files, and images from memory."""

import json
import os
import re
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, ImageOps, PngImagePlugin
from torchvision import tv_tensors

from scenewise.errors import DataError, UsageError
from scenewise.files import images
from scenewise.files.images import as_image, image_size, read_bands, read_image, read_label_map

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def written(path: Path, pixels, **options) -> Path:
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(path, **options)
    return path


def hwc(image: torch.Tensor) -> np.ndarray:
    assert image.dtype == torch.uint8
    return image.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", ["a.png", "with space and ünï.png", "猫.bmp", "a.tif", "UPPER.PNG"])
def test_rgb_is_read_as_it_is(tmp_path, name):
    path = written(tmp_path / name, RGB)
    assert (hwc(read_image(path)) == RGB).all()
    assert (hwc(read_image(str(path))) == RGB).all()
    assert image_size(path) == (5, 7)


def test_a_jpeg_is_read_up_to_its_losses(tmp_path):
    blocks = np.kron(RGB, np.ones((16, 16, 1), np.uint8))  # of one colour each, which quality 100 rounds only
    image = hwc(read_image(written(tmp_path / "a.jpg", blocks, quality=100, subsampling=0)))
    assert np.abs(image.astype(int) - blocks).max() <= 3


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "1", "P"])
def test_other_modes_become_rgb_and_alpha_is_dropped(tmp_path, mode):
    colors = np.stack([GREY] * 3, 2) if mode in ("L", "LA") else RGB
    if mode == "1":
        picture = Image.fromarray(GREY > 127)
        colors = np.stack([(GREY > 127) * np.uint8(255)] * 3, 2)
    elif mode == "P":
        picture = Image.fromarray(np.arange(35, dtype=np.uint8).reshape(5, 7))
        picture.putpalette(RGB.tobytes())
    else:
        alpha = np.zeros((5, 7), np.uint8)  # wholly transparent: compositing would lose the colours
        bands = {"L": [GREY], "LA": [GREY, alpha], "RGBA": [*RGB.transpose(2, 0, 1), alpha]}[mode]
        picture = Image.merge(mode, [Image.fromarray(band) for band in bands])
    path = written(tmp_path / "a.png", picture)
    with Image.open(path) as stored:
        assert stored.mode == mode
    assert (hwc(read_image(path)) == colors).all()


@pytest.mark.parametrize("transparency", [3, bytes([0, 255, 7] * 11)])
@pytest.mark.filterwarnings("error")
def test_a_palette_with_transparency_keeps_its_colours(tmp_path, transparency):
    picture = Image.fromarray(np.arange(35, dtype=np.uint8).reshape(5, 7))
    picture.putpalette(RGB.tobytes())
    path = written(tmp_path / "a.png", picture, transparency=transparency)
    assert (hwc(read_image(path)) == RGB).all()


def test_16_bit_grey_is_scaled(tmp_path):
    values = np.array([[0, 255, 256, 32768], [65535, 65279, 65280, 257]], np.uint16)
    expected = [[0, 0, 1, 128], [255, 254, 255, 1]]
    for path in (
        written(tmp_path / "a.png", values),  # Pillow: I;16
        written(tmp_path / "a.tif", values.astype(np.int32)),  # Pillow: I
    ):
        image = hwc(read_image(path))
        assert (image == np.array(expected)[..., None]).all()
    big_endian = Image.fromarray(values).tobytes("raw", "I;16B")
    written(tmp_path / "b.tif", Image.frombytes("I;16B", (4, 2), big_endian))
    assert (hwc(read_image(tmp_path / "b.tif")) == np.array(expected)[..., None]).all()


def test_16_bit_grey_equals_16_bit_colour(tmp_path):
    """A colour PNG of 16 bits keeps its high bytes, too; Pillow can't write one, so its bytes are made here."""
    values = np.arange(0, 65536, 1111, dtype=np.uint16)[None]
    path = tmp_path / "rgb16.png"
    rows = b"".join(b"\0" + np.repeat(row, 3).astype(">u2").tobytes() for row in values)
    path.write_bytes(png(values.shape[1], 1, rows, bits=16, kind=2))
    assert torch.equal(read_image(path), read_image(written(tmp_path / "grey16.png", values)))


@pytest.mark.parametrize("ending", ["jpg", "tif"])
def test_cmyk_is_converted(tmp_path, ending):
    """JPEG stores it inverted, as Adobe does; TIFF does not."""
    colors = np.zeros((16, 24, 3), np.uint8)
    colors[:, :8], colors[:, 8:16], colors[:, 16:] = (250, 20, 20), (240, 240, 250), (10, 90, 30)
    options = {"quality": 100, "subsampling": 0} if ending == "jpg" else {}
    path = written(tmp_path / f"a.{ending}", Image.fromarray(colors).convert("CMYK"), **options)
    with Image.open(path) as stored:
        assert stored.mode == "CMYK"
    assert np.abs(hwc(read_image(path)).astype(int) - colors).max() <= 4  # JPEG's rounding


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "tif", "webp", "jpg"])
def test_exif_orientation_is_applied_and_the_size_agrees(tmp_path, orientation, ending):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"png": {}, "tif": {}, "webp": {"lossless": True}, "jpg": {"quality": 95, "subsampling": 0}}[ending]
    path = written(tmp_path / f"a.{ending}", np.kron(RGB, np.ones((8, 8, 1), np.uint8)), exif=exif, **options)
    image = read_image(path)
    with Image.open(path) as picture:
        expected = np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    assert (hwc(image) == expected).all()
    assert image_size(path) == tuple(image.shape[1:]) == ((40, 56) if orientation < 5 else (56, 40))


def test_a_broken_exif_block_does_no_harm(tmp_path):
    path = written(tmp_path / "a.jpg", RGB, exif=b"Exif\0\0nonsense that is no TIFF")
    assert read_image(path).shape == (3, 5, 7)
    assert image_size(path) == (5, 7)


def test_the_size_needs_no_pixels(tmp_path, monkeypatch):
    path = tmp_path / "header.png"
    path.write_bytes(png(700, 500, b""))
    with monkeypatch.context() as patch:
        patch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("decoded"))
        assert image_size(path) == (500, 700)
    with pytest.raises(DataError, match="truncated or broken"):
        read_image(path)


def test_float_pixels_are_refused(tmp_path):
    path = written(tmp_path / "a.tif", np.ones((4, 4), np.float32))
    with pytest.raises(DataError, match=r"a\.tif: floating-point pixels.*expected 8- or 16-bit"):
        read_image(path)


def test_32_bit_values_beyond_16_bits_are_refused(tmp_path):
    path = written(tmp_path / "a.tif", np.array([[0, 70000]], np.int32))
    with pytest.raises(DataError, match=r"a\.tif: 32-bit grey with values from 0 to 70000"):
        read_image(path)


def png(width: int, height: int, rows: bytes, bits: int = 8, kind: int = 0) -> bytes:
    """A PNG file whose header says width x height, with the given raw rows."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def jpeg(folder: Path) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return written(folder / "whole.jpg", noise).read_bytes()


BROKEN = {
    "missing": (lambda folder: None, "not found"),
    "empty": (lambda folder: b"", r"the file is empty \(0 bytes\)"),
    "truncated.jpg": (lambda folder: jpeg(folder)[:-300], "truncated or broken"),
    "truncated.png": (lambda folder: written(folder / "w.png", RGB).read_bytes()[:-40], "truncated or broken"),
    "header.jpg": (lambda folder: jpeg(folder)[:30], "not an image, or broken|truncated or broken"),
    "text.jpg": (lambda folder: b"<!DOCTYPE html><html>404</html>", r"not an image.*begins with b'<!DOCTYPE"),
    "lfs.png": (lambda folder: b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "Git LFS pointer"),
    "crc.png": (lambda folder: png(3, 3, b"\0abc" * 3).replace(b"IDAT", b"IDAX"), "not an image, or broken"),
    "bomb.png": (lambda folder: png(50_000, 50_000, b""), r"50,000 x 50,000 pixels .*at most 178,956,970"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("read", [read_image, read_label_map])
def test_a_bad_file_gives_one_error_that_names_it(tmp_path, name, read):
    content, message = BROKEN[name]
    path = tmp_path / name
    data = content(tmp_path)
    if data is not None:
        path.write_bytes(data)
    if read is read_label_map and "jpg" in name and "truncated" in name:
        message = "label map as JPEG"
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}: .*({message})"):
        read(path)


def test_postscript_is_not_run(tmp_path):
    path = written(tmp_path / "a.eps", RGB)
    path.rename(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg: PostScript; expected PNG, JPEG or another raster format"):
        read_image(tmp_path / "a.jpg")


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        read_image(tmp_path)


def test_a_bomb_is_refused_without_decoding_even_where_pillows_limit_is_off(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(50_000, 50_000, b""))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("decoded"))
    for read in (read_image, image_size, read_label_map):
        with pytest.raises(DataError, match="50,000 x 50,000"):
            read(path)


def test_the_limit_is_pillows_own():
    assert images.MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_images_up_to_the_limit_are_taken(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(png(images.MAX_PIXELS // 10, 10, b""))
    assert image_size(path) == (10, images.MAX_PIXELS // 10)
    path.write_bytes(png(images.MAX_PIXELS // 10 + 1, 10, b""))
    with pytest.raises(DataError, match=r"17,895,698 x 10"):
        image_size(path)


# --- label maps


def test_label_maps_keep_their_numbers(tmp_path):
    values = np.arange(35, dtype=np.uint8).reshape(5, 7) * 7
    picture = Image.fromarray(values)
    picture.putpalette(np.random.default_rng(1).integers(0, 256, 768, dtype=np.uint8).tobytes())
    for path in (
        written(tmp_path / "grey.png", values),
        written(tmp_path / "palette.png", picture),
        written(tmp_path / "palette_transparent.png", picture, transparency=3),
        written(tmp_path / "grey16.png", values.astype(np.uint16)),
        written(tmp_path / "grey32.tif", values.astype(np.int32)),
    ):
        labels = read_label_map(path)
        assert labels.dtype == torch.uint8
        assert (labels.numpy() == values).all(), path


def test_a_gif_whose_greys_are_renumbered_is_refused(tmp_path):
    """Pillow, as other programs, writes the greys 0 and 2 as numbers 0 and 1 of a palette."""
    path = written(tmp_path / "a.gif", np.array([[0, 2], [2, 2]], np.uint8))
    with pytest.raises(DataError, match=r"a\.gif: number 1 is shown in grey 2.*expected a PNG"):
        read_label_map(path)
    path = written(tmp_path / "b.gif", np.array([[0, 255], [255, 0]], np.uint8))
    assert read_label_map(path).tolist() == [[0, 1], [1, 0]]  # black and white
    path = written(tmp_path / "c.gif", np.array([[0, 1], [2, 0]], np.uint8))
    assert read_label_map(path).tolist() == [[0, 1], [2, 0]]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_palette_of_few_bits_keeps_its_numbers(tmp_path, bits):
    values = (np.arange(35) % 2**bits).astype(np.uint8).reshape(5, 7)
    picture = Image.fromarray(values)
    picture.putpalette([9, 9, 9] * 2**bits)
    path = written(tmp_path / "a.png", picture, bits=bits)
    assert (read_label_map(path).numpy() == values).all()


def test_a_1_bit_label_map_holds_0_and_1(tmp_path):
    path = written(tmp_path / "a.png", Image.fromarray(GREY > 127))
    assert (read_label_map(path).numpy() == (GREY > 127)).all()


def test_a_16_bit_label_map_with_larger_values_is_refused(tmp_path):
    values = np.zeros((4, 5), np.uint16)
    values[2, 3] = 256
    path = written(tmp_path / "a.png", values)
    with pytest.raises(DataError, match=r"a\.png: pixel \(row 2, column 3\).* has value 256; expected 0 to 255"):
        read_label_map(path)


def test_coloured_label_maps_are_refused_with_advice(tmp_path):
    path = written(tmp_path / "a.png", RGB)
    with pytest.raises(DataError, match=r"a\.png: a label map of mode RGB; .*replace each colour by the index"):
        read_label_map(path)
    with pytest.raises(DataError, match="red, green and blue are equal: save one"):
        read_label_map(written(tmp_path / "b.png", np.stack([GREY] * 3, 2)))
    with pytest.raises(DataError, match="mode LA; expected one number per pixel"):
        read_label_map(written(tmp_path / "c.png", Image.merge("LA", [Image.fromarray(GREY)] * 2)))
    with pytest.raises(DataError, match="label map as JPEG, which changes values; expected PNG"):
        read_label_map(written(tmp_path / "d.jpg", GREY))


# --- images from memory


def test_as_image_of_files_and_pictures(tmp_path):
    path = written(tmp_path / "a.png", RGB)
    for source, name in (
        (path, str(path)),
        (str(path), str(path)),
        (Image.open(path), str(path)),
        (Image.fromarray(RGB), None),
        (RGB, None),
        (np.asfortranarray(RGB), None),
        (RGB[:, ::-1].copy()[:, ::-1], None),  # of negative strides
        (torch.from_numpy(RGB).permute(2, 0, 1), None),
        (tv_tensors.Image(torch.from_numpy(RGB).permute(2, 0, 1)), None),
    ):
        image, found = as_image(source)
        assert found == name
        assert type(image) is torch.Tensor
        assert image.shape == (3, 5, 7)
        assert (image.permute(1, 2, 0).numpy() == RGB).all()


def test_as_image_of_grey_and_floats():
    assert (as_image(GREY)[0].numpy() == GREY).all()
    assert (as_image(Image.fromarray(GREY))[0].numpy() == GREY).all()
    scaled = torch.rand(3, 5, 7)
    assert torch.equal(as_image(scaled)[0], scaled)
    assert as_image(scaled)[0].dtype == torch.float32


def test_as_image_does_not_alias_an_array():
    array = RGB.copy()
    image, _ = as_image(array)
    array[:] = 0
    assert (image.permute(1, 2, 0).numpy() == RGB).all()


def test_a_picture_is_taken_as_its_pixels_lie(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = written(tmp_path / "a.png", RGB, exif=exif)
    assert as_image(path)[0].shape == (3, 7, 5)
    assert as_image(Image.open(path))[0].shape == (3, 5, 7)


NAN = torch.full((3, 4, 4), float("nan"))
REFUSED = {
    "type": ([[1, 2]], "image of type list; expected a path, a PIL image, an array or a tensor"),
    "none": (None, "image of type NoneType"),
    "float array": (np.full((4, 4, 3), 2.5), r"values from 2\.5 to 2\.5; expected 0 to 1, divided by 255"),
    "integer array": (np.zeros((4, 4, 3), int), r"\[4, 4, 3\] and int64; expected uint8 in 0\.\.255, or floats in 0"),
    "alpha array": (np.zeros((4, 5, 4), np.uint8), r"shape \[4, 5, 4\] and uint8; expected shape \[height, width, 3\]"),
    "channels first": (np.zeros((3, 4, 5), np.uint8), r"shape \[3, 4, 5\]"),
    "empty array": (np.zeros((0, 5, 3), np.uint8), r"shape \[0, 5, 3\]"),
    "batch": (
        torch.zeros(1, 3, 4, 4),
        r"tensor of shape \[1, 3, 4, 4\] and float32; expected shape \[3, height, width\]",
    ),
    "channels last": (torch.zeros(4, 5, 3), r"permute\(2, 0, 1\) puts the channels first"),
    "grey tensor": (torch.zeros(1, 4, 4), r"shape \[1, 4, 4\]"),
    "empty tensor": (torch.zeros(3, 0, 4), r"shape \[3, 0, 4\]"),
    "double": (torch.zeros(3, 4, 4).double(), r"float64; expected uint8 in 0\.\.255 or float32 in 0\.\.1"),
    "0 to 255": (torch.full((3, 4, 4), 200.0), r"values from 200 to 200; expected 0 to 1, divided by 255"),
    "normalised": (torch.randn(3, 9, 9) * 2, r"values from -.*expected 0 to 1, not yet normalised"),
    "nan": (NAN, r"values from nan to nan; expected 0 to 1"),
    "float picture": (Image.fromarray(np.ones((4, 4), np.float32)), "image: floating-point pixels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_as_image_says_what_it_found_and_expected(case):
    source, message = REFUSED[case]
    with pytest.raises(UsageError, match=message):
        as_image(source)


def test_a_closed_picture_is_refused(tmp_path):
    with Image.open(written(tmp_path / "a.png", RGB)) as picture:
        pass
    with pytest.raises(UsageError, match=r"a\.png: the PIL image can't be decoded"):
        as_image(picture)


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="not found; expected an image file"):
        as_image(tmp_path / "none.jpg")


# --- depth, pages, kinds of files, and what breaks off


@pytest.fixture
def untold(monkeypatch):
    monkeypatch.setattr(images, "_told", set())


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_16_bit_grey_of_fewer_bits_is_seen_as_the_8_bit_picture_is(tmp_path, untold, bits):
    bright = GREY.copy()
    bright[0, 0] = 255
    path = written(tmp_path / "camera.png", bright.astype(np.uint16) << (bits - 8))
    message = rf"camera\.png: 16-bit grey with values from \d+ to {255 << (bits - 8)} only; .* a {bits}-bit picture"
    with pytest.warns(UserWarning, match=message):
        assert (hwc(read_image(path)) == bright[..., None]).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_image(path)  # it is said once


@pytest.mark.parametrize("high", [4096, 0])
def test_other_16_bit_grey_keeps_its_high_byte(tmp_path, untold, high):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_image(written(tmp_path / "a.png", np.array([[0, high]], np.uint16)))
    assert image[0].tolist() == [[0, high >> 8]]


def test_further_pages_are_told_once(tmp_path, untold):
    pages = [Image.fromarray(RGB), Image.fromarray(RGB[::-1]), Image.fromarray(RGB)]
    pages[0].save(tmp_path / "pages.tiff", save_all=True, append_images=pages[1:])
    with pytest.warns(UserWarning, match=r"pages\.tiff: has 3 pages; the first is read"):
        assert (hwc(read_image(tmp_path / "pages.tiff")) == RGB).all()
    assert images.count_pages(tmp_path / "pages.tiff") == 3
    (tmp_path / "broken.tiff").write_bytes((tmp_path / "pages.tiff").read_bytes()[:20])
    Image.fromarray(RGB).save(tmp_path / "a.gif", save_all=True, append_images=pages[1:])
    assert [images.count_pages(tmp_path / name) for name in ("broken.tiff", "a.gif", "nowhere.tif")] == [1, 1, 1]


@pytest.mark.parametrize("ending", ["jfif", "jpe", "avif"])
def test_more_endings(tmp_path, ending):
    if f".{ending}" not in images.IMAGE_SUFFIXES:
        pytest.skip("this Pillow reads none")
    path = tmp_path / f"a.{ending}"
    Image.fromarray(RGB).save(path, format="AVIF" if ending == "avif" else "JPEG")
    assert read_image(path).shape == (3, 5, 7)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64


@pytest.mark.parametrize("name", ["IMG_0001.HEIC", "renamed.jpg"])
def test_heic_is_named_with_the_cure(tmp_path, monkeypatch, name):
    monkeypatch.setattr(images, "HEIF", None)
    (tmp_path / name).write_bytes(HEIC)
    with pytest.raises(DataError, match=rf"{name}: a HEIC picture, which is read once Pillow can: pip install pi-heif"):
        read_image(tmp_path / name)


def test_a_film_is_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypmp42" + b"\0" * 64)
    with pytest.raises(DataError, match=r"a\.jpg: a film or another file of the kind MP4 \('mp42'\); expected PNG"):
        read_image(tmp_path / "a.jpg")


PLUGIN = """
from PIL import Image, ImageFile

class Heif(ImageFile.ImageFile):
    format = "HEIF"
    def _open(self):
        self._mode, self._size = "RGB", (7, 5)
        self.tile = [("raw", (0, 0, 7, 5), 32, ("RGB", 0, 1))]

def register_heif_opener():
    Image.register_open("HEIF", Heif, lambda head: head[4:12] == b"ftypheic")
"""


@pytest.mark.parametrize("module", ["pi_heif", "pillow_heif"])
def test_heic_is_read_where_pillows_plugin_is_installed(tmp_path, module):
    (tmp_path / f"{module}.py").write_text(PLUGIN)
    (tmp_path / "IMG_1.HEIC").write_bytes(HEIC[:32] + RGB.tobytes())
    script = (
        "from scenewise.files.images import IMAGE_SUFFIXES, read_image\n"
        "from scenewise.data.folders import images_in\n"
        "from pathlib import Path\n"
        "assert '.heic' in IMAGE_SUFFIXES and images_in(Path('.')) == {'IMG_1': 'IMG_1.HEIC'}\n"
        "print(read_image('IMG_1.HEIC').permute(1, 2, 0).flatten().tolist())\n"
    )
    places = os.pathsep.join([str(tmp_path), str(Path(images.__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": places},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == RGB.flatten().tolist()


@pytest.mark.parametrize("filling", [False, True])
@pytest.mark.parametrize("ending", ["png", "gif", "jpg", "bmp", "tif"])
def test_what_breaks_off_is_refused_also_where_the_program_fills_it_up(tmp_path, monkeypatch, ending, filling):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    raw = written(tmp_path / f"whole.{ending}", noise).read_bytes()
    path = tmp_path / f"cut.{ending}"
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", filling)
    for share in (0.9, 0.6):
        path.write_bytes(raw[: int(len(raw) * share)])
        for read in (read_image, read_label_map) if ending != "jpg" else (read_image,):
            with pytest.raises(DataError, match=rf"cut\.{ending}: .*(truncated|broken|can't be read)"):
                read(path)
    assert filling == ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("ending", ["png", "gif"])
def test_a_file_without_its_end_mark_is_refused(tmp_path, ending):
    """Its pixels may be there or not: of a picture of one colour nobody can tell."""
    path = written(tmp_path / f"plain.{ending}", np.zeros((40, 40), np.uint8))
    raw = path.read_bytes()
    path.write_bytes(raw + b"\n" * (3 if ending == "gif" else 300))  # what programs append does no harm
    assert (read_label_map(path) == 0).all()
    path.write_bytes(raw[: -12 if ending == "png" else -1])
    with pytest.raises(DataError, match="breaks off before its end mark"):
        read_label_map(path)


def test_a_named_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for read in (read_image, image_size, read_label_map):
        with pytest.raises(DataError, match=r"pipe\.png: no regular file; expected an image file"):
            read(tmp_path / "pipe.png")


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "a.png/b.png"])
def test_names_that_no_file_has(tmp_path, name):
    written(tmp_path / "a.png", RGB)
    with pytest.raises(DataError, match=r"can't be|not found"):
        read_image(tmp_path / name)


def deep_png(path: Path, values: np.ndarray) -> Path:
    """A PNG of 16-bit colours, which Pillow can't write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    path.write_bytes(png(values.shape[1], values.shape[0], rows, bits=16, kind={3: 2, 4: 6}[values.shape[2]]))
    return path


def test_16_bit_colours_of_12_bits_are_seen_as_the_8_bit_picture_is(tmp_path, untold):
    bright = RGB.copy()
    bright[0, 0] = 255
    path = deep_png(tmp_path / "a.png", bright.astype(np.uint16) * 16)
    with pytest.warns(
        UserWarning, match=r"a\.png: 16-bit colours with values from \d+ to 4080 only; .* a 12-bit picture"
    ):
        assert (hwc(read_image(path)) == bright).all()


@pytest.mark.parametrize("bands", [3, 4])
def test_16_bit_colours_are_kept_where_they_are_wanted(tmp_path, bands):
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, bands)).astype(np.uint16)
    path = deep_png(tmp_path / "a.png", values)
    assert torch.equal(read_bands(path, bands, 16), torch.from_numpy((values / np.float32(65535)).transpose(2, 0, 1)))
    assert (hwc(read_bands(path, bands)) == values >> 8).all()
    assert (hwc(read_image(path)) == values[..., :3] >> 8).all()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="truncated or broken"):
        read_bands(path, bands, 16)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_bands_are_upright(orientation):
    turn = images.TURNS.get(orientation)
    picture = Image.fromarray(RGB)
    expected = np.array(picture if turn is None else picture.transpose(turn))
    assert (images.TURNS_OF_ARRAYS[orientation](RGB) == expected).all()
