"""VGG16 as convolutions: equal to the classifier that it was made of."""

import pytest
import torch
from torch import nn
from torchvision.models.vgg import VGG, make_layers

from scenewise.errors import CheckpointError, DownloadError
from scenewise.nn.vgg import VGG16, Grid

WIDTH = 1 / 32  # 2, 4, 8, 16, 16 channels; fc6 and fc7 have 128


def torchvision_vgg() -> VGG:
    """torchvision's vgg16 with WIDTH of its channels, in evaluation mode."""
    plan = [2, 2, "M", 4, 4, "M", 8, 8, 8, "M", 16, 16, 16, "M", 16, 16, 16, "M"]
    features = make_layers(plan)
    with torch.device("meta"):  # its own classifier is replaced
        reference = VGG(features, num_classes=3, init_weights=False)
    layers = [nn.Linear(16 * 49, 128), nn.ReLU(), nn.Dropout(), nn.Linear(128, 128), nn.ReLU(), nn.Dropout()]
    reference.classifier = nn.Sequential(*layers, nn.Linear(128, 3))
    return reference.eval()


def test_converted_layers_equal_torchvisions():
    """On a 224 x 224 image, fc6's window at the map's centre is the whole pool5 map: the classifier's own input."""
    torch.manual_seed(0)
    reference = torchvision_vgg()
    network = VGG16(padding="same", width_factor=WIDTH).eval()
    network.load_classifier(reference.state_dict(), "test")
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        pool3, pool4, fc7 = network(images)
        expected = reference.classifier[:6](reference.features(images).flatten(1))
        torch.testing.assert_close(fc7[:, :, 3, 3], expected, rtol=1e-5, atol=1e-5)  # sums in another order
        torch.testing.assert_close(pool3, reference.features[:17](images))
        torch.testing.assert_close(pool4, reference.features[:24](images))


def test_caffe_padding_sees_the_image_within_100_zeros():
    """With pad 100, fc7 of an image is the unpadded fc7 of the image within zeros."""
    torch.manual_seed(0)
    caffe = VGG16(padding="caffe", width_factor=WIDTH).eval()
    same = VGG16(padding="same", width_factor=WIDTH).eval()
    same.load_state_dict(caffe.state_dict())
    image = torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        expected = same(nn.functional.pad(image, (99, 99, 99, 99)))[-1][..., 3:-3, 3:-3]
        torch.testing.assert_close(caffe(image)[-1], expected)


def test_timms_names_are_read():
    reference = torchvision_vgg().state_dict()
    names = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2", "classifier.6": "head.fc"}
    shapes = {"pre_logits.fc1.weight": (128, 16, 7, 7), "pre_logits.fc2.weight": (128, 128, 1, 1)}
    timm = {}
    for key, value in reference.items():
        for theirs, ours in names.items():
            key = key.replace(theirs, ours)
        timm[key] = value.reshape(shapes.get(key, value.shape))
    one, two = VGG16(width_factor=WIDTH), VGG16(width_factor=WIDTH)
    one.load_classifier(reference, "test")
    two.load_classifier(timm, "test")
    for key, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[key]), key


def test_parameters_of_the_papers_widths():
    with torch.device("meta"):
        network = VGG16()
    assert sum(p.numel() for p in network.parameters()) == 138_357_544 - 4_097_000  # torchvision's, less its last layer
    assert network.channels == [256, 512, 4096]


@pytest.mark.parametrize(("padding", "sizes"), [("caffe", (88, 44, 16)), ("same", (63, 32, 16))])
def test_sizes_of_a_500_image(padding, sizes):
    with torch.device("meta"):
        maps = VGG16(padding=padding, width_factor=WIDTH)(torch.zeros(1, 3, 500, 500))
    assert tuple(m.shape[-1] for m in maps) == sizes


@pytest.mark.parametrize("pixel", [0, 50, 67])
def test_maps_lie_where_their_grids_say(pixel):
    """One bright pixel lights exactly the cells whose receptive field, around the grid's centre, holds it."""
    network = VGG16(padding="caffe", width_factor=WIDTH).eval()
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.1 if parameter.dim() > 1 else 0.0)
    image = torch.zeros(1, 3, 68, 68)
    image[..., pixel, pixel] = 1
    fields = (44, 100, 404)  # the receptive fields of pool3, pool4 and fc6 in pixels
    with torch.no_grad():
        for grid, cells, field in zip(network.grids, network(image), fields, strict=True):
            centres = grid.start + grid.stride * torch.arange(cells.shape[-1])
            expected = (centres - pixel).abs() <= (field - 1) / 2
            assert torch.equal(cells.sum((0, 1, 2)) > 0, expected)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_grid_follows_a_convolution(kernel, stride):
    """A convolution with equal taps over pixel numbers gives the pixels that its cells are centred on."""
    positions = torch.arange(40.0).view(1, 1, -1)
    layer = nn.Conv1d(1, 1, kernel, stride, bias=False)
    nn.init.constant_(layer.weight, 1 / kernel)
    grid = Grid(1, 0).conv(kernel, stride)
    cells = layer(positions).detach().flatten()
    torch.testing.assert_close(cells, grid.start + grid.stride * torch.arange(len(cells)))
    padded = Grid(1, 0).conv(kernel, stride, padding=2)
    assert padded.start == grid.start - 2


def test_transposing_undoes_a_convolution():
    assert Grid(8, 3.5).conv(4, 2).transposed(4, 2) == Grid(8, 3.5)


def test_a_file_of_something_else_is_refused():
    state = torchvision_vgg().state_dict()
    network = VGG16(width_factor=WIDTH)
    with pytest.raises(
        CheckpointError, match=r"x\.pth: lacks 'features\.10\.weight'; expected torchvision's or timm's"
    ):
        network.load_classifier({k: v for k, v in state.items() if "features.10" not in k}, "x.pth")
    with pytest.raises(
        CheckpointError, match=r"classifier\.0\.weight has shape \[1, 2\]; VGG16 needs 100,352 elements"
    ):
        network.load_classifier({**state, "classifier.0.weight": torch.zeros(1, 2)}, "x.pth")


def test_weights_from_a_file(tmp_path):
    reference = torchvision_vgg()
    torch.save(reference.state_dict(), tmp_path / "vgg.pth")
    network = VGG16(weights=tmp_path / "vgg.pth", width_factor=WIDTH)
    assert torch.equal(network.fc7.weight.flatten(), reference.classifier[3].weight.flatten())
    with pytest.raises(CheckpointError, match=r"absent\.pth"):
        VGG16(weights=tmp_path / "absent.pth", width_factor=WIDTH)


def test_imagenet_weights_say_what_to_do_when_they_can_not_be_had(tmp_path, monkeypatch):
    monkeypatch.setenv("SCENEWISE_CACHE", str(tmp_path))
    monkeypatch.setenv("SCENEWISE_WEIGHTS_URL", (tmp_path / "nothing").as_uri())
    with pytest.raises(DownloadError, match=r"vgg16-397923af\.pth: could not be fetched .* as backbone_weights"):
        VGG16(weights="imagenet", width_factor=WIDTH)


def test_random_weights_keep_the_scale_of_activations():
    """Through all layers the mean square stays within a factor of a hundred; smaller weights would make it vanish."""
    torch.manual_seed(0)
    network = VGG16(padding="same", dropout=0, width_factor=1 / 4).eval()
    with torch.no_grad():
        fc7 = network(torch.randn(1, 3, 64, 64))[-1]
    assert 0.01 < float(fc7.square().mean()) < 100
