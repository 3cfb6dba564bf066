"""TIFFs of many channels and of deep colours."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import tifffile
import torch
from PIL import ExifTags, Image

from scenewise.errors import DataError, MissingExtraError
from scenewise.files import images
from scenewise.files.images import image_size, read_bands, read_image
from scenewise.files.tiffs import tiff_layout


def noise(*shape: int, dtype=np.uint8, high: int | None = None) -> np.ndarray:
    return np.random.default_rng(0).integers(0, high or np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def many(path, pixels, **options):
    tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig", **options)
    return path


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [2, 3, 4, 5, 13])
def test_channels_side_by_side(tmp_path, channels, dtype, compression):
    pixels = noise(6, 8, channels, dtype=dtype)
    path = many(tmp_path / "a.tif", pixels, compression=compression)
    found = read_bands(path, channels, 16)
    expected = torch.from_numpy(pixels.astype(np.float32) / np.iinfo(dtype).max).permute(2, 0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
    high = (pixels >> 8).astype(np.uint8) if dtype == np.uint16 else pixels
    assert torch.equal(read_bands(path, channels), torch.from_numpy(high).permute(2, 0, 1))
    assert image_size(path) == (6, 8)


def test_planes_one_after_the_other_are_the_same_image(tmp_path):
    pixels = noise(6, 8, 5)
    tifffile.imwrite(tmp_path / "a.tif", pixels.transpose(2, 0, 1), photometric="minisblack", planarconfig="separate")
    assert tiff_layout(tmp_path / "a.tif")[:3] == (6, 8, 5)
    assert torch.equal(read_bands(tmp_path / "a.tif", 5), torch.from_numpy(pixels).permute(2, 0, 1))


@pytest.mark.parametrize("meaning", [0, 2])
def test_a_fourth_channel_beside_rgb_is_kept_whatever_it_means(tmp_path, meaning):
    pixels = noise(6, 8, 4)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=[meaning])
    assert torch.equal(read_bands(tmp_path / "a.tif", 4), torch.from_numpy(pixels).permute(2, 0, 1))
    assert torch.equal(read_image(tmp_path / "a.tif"), torch.from_numpy(pixels[..., :3]).permute(2, 0, 1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_channels_are_turned_as_rgb_is(tmp_path, orientation):
    pixels = noise(6, 8, 5)
    path = many(tmp_path / "five.tif", pixels, extratags=[(274, "H", 1, orientation, True)])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(pixels[..., :3]).save(tmp_path / "three.png", exif=exif)
    found = read_bands(path, 5)
    assert torch.equal(found[:3], read_image(tmp_path / "three.png"))
    assert image_size(path) == tuple(found.shape[1:])


def test_more_channels_than_asked_for_are_never_left_out(tmp_path):
    rgb_and_more = tmp_path / "b.tif"
    tifffile.imwrite(rgb_and_more, noise(6, 8, 5), photometric="rgb", extrasamples=[0, 0])
    for path in (many(tmp_path / "a.tif", noise(6, 8, 5)), rgb_and_more):
        with pytest.raises(DataError, match=r"\.tif: has 5 channels; expected 3, .* state input\.channels: 5"):
            read_image(path)
        with pytest.raises(DataError, match="has 5 channels; expected 4"):
            read_bands(path, 4)


def test_12_bit_colours_are_seen_as_8_bit_colours_are(tmp_path, monkeypatch):
    colors = noise(6, 8, 3)
    tifffile.imwrite(tmp_path / "a.tif", colors.astype(np.uint16) << 4, photometric="rgb")
    monkeypatch.setattr(images, "_told", set())
    with pytest.warns(UserWarning, match="taken for a 12-bit picture"):
        found = read_image(tmp_path / "a.tif")
    assert torch.equal(found, torch.from_numpy(colors).permute(2, 0, 1))
    monkeypatch.setattr(images, "has_tifffile", lambda: False)
    with pytest.warns(UserWarning, match=r"nearly black; pip install 'scenewise\[tiff\]'"):
        read_image(tmp_path / "a.tif")


def test_broken_files_and_other_kinds_of_numbers_are_named(tmp_path):
    path = many(tmp_path / "a.tif", noise(40, 40, 5))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError, match=r"a\.tif: "):
        read_bands(path, 5)
    for dtype in (np.float32, np.int16):
        path = many(tmp_path / "a.tif", np.ones((6, 8, 5), dtype))
        with pytest.raises(DataError, match=r"a\.tif: (float32|int16) values of shape \[6, 8, 5\]"):
            read_bands(path, 5)


def test_a_bomb_is_refused_from_its_header(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 40)
    with pytest.raises(DataError, match=r"a\.tif: its header says 8 x 6 pixels"):
        read_bands(many(tmp_path / "a.tif", noise(6, 8, 5)), 5)


def test_without_tifffile_the_extra_is_named(tmp_path, monkeypatch):
    path = many(tmp_path / "a.tif", noise(6, 8, 5))
    monkeypatch.setattr("scenewise.files.tiffs.has_tifffile", lambda: False)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(MissingExtraError, match=r"a\.tif: a TIFF of 5 channels of 8 bits; .*scenewise\[tiff\]"):
        read_bands(path, 5)
