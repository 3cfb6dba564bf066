"""U-Net: its sizes and parameters, whole images from a shrinking map, border weights, overlapping tiles, learning."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms.functional import center_crop

from scenewise import catalog
from scenewise.data import open_data
from scenewise.data.loader import Collate, plain
from scenewise.data.scenes.scenes import CLASSES as SCENES
from scenewise.engine.tiles import Tiles
from scenewise.errors import UsageError
from scenewise.metrics.segmentation import SegmentationMetrics
from scenewise.ops.border_weights import border_weights
from scenewise.results.prediction import Prediction
from scenewise.systems.segmentation.unet import Network, UNet
from scenewise.types import Batch

CLASSES = ("background", "cell")


def tiny(**options):
    return UNet(("a", "b", "c"), **{"width": 2, "depth": 2, **options}).eval()


def batch_of(*sizes, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = [torch.rand(3, h, w, generator=generator) for h, w in sizes]
    targets = [{"semantic": torch.randint(classes, size, generator=generator)} for size in sizes]
    return Batch.of(images, targets)


# --- the network of fig. 1


def test_parameters_of_the_paper():
    model = catalog.build("unet", CLASSES, in_channels=1)
    assert sum(p.numel() for p in model.parameters()) == 31_030_658
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(convolutions) == 23


def test_sizes_of_the_paper():
    network = Network(1, 2, width=1)
    assert network.border == 92
    assert network.input_length(388) == 572
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 572, 188)).shape == (1, 2, 388, 4)
    levels = [tuple(m.weight.shape[:2]) for m in Network(3, 2, width=4).down[-1] if isinstance(m, nn.Conv2d)]
    assert levels == [(64, 32), (64, 64)]


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("up", ["upconv", "bilinear", "nearest"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_input_length_is_the_smallest_that_covers(padding, up, depth):
    network = Network(3, 2, width=1, depth=depth, padding=padding, up=up)
    for wanted in range(1, 2**depth + 3):
        length = network.input_length(wanted)
        with torch.no_grad():
            found = network(torch.zeros(1, 3, length, length)).shape[-1]
        assert found == length - 2 * network.border
        assert wanted <= found < wanted + 2**depth


@pytest.mark.parametrize("up", ["upconv", "bilinear", "nearest"])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_equals_figure_1_written_down(padding, up):
    """Level by level for depth 2, with torchvision's centre crop."""
    torch.manual_seed(0)
    network = Network(3, 4, width=2, depth=2, padding=padding, up=up).eval()
    w = {name: p + 0.1 * torch.randn_like(p) for name, p in network.state_dict().items()}  # biases, too
    network.load_state_dict(w)
    pad, trim = int(padding == "same"), padding == "valid" and up == "bilinear"

    def convs(x, name):
        for layer in (0, 2):
            x = F.conv2d(x, w[f"{name}.{layer}.weight"], w[f"{name}.{layer}.bias"], padding=pad).relu()
        return x

    def double(x, level):
        weight, bias = w[f"up.{level}.conv.weight"], w[f"up.{level}.conv.bias"]
        if up == "upconv":
            return F.conv_transpose2d(x, weight, bias, stride=2).relu()
        x = F.conv2d(F.interpolate(x, scale_factor=2, mode=up), weight, bias).relu()
        return x[..., 1:-1, 1:-1] if trim else x

    def merged(skip, x, level):
        return convs(torch.cat([center_crop(skip, list(x.shape[-2:])), x], 1), f"merge.{level}")

    x = torch.rand(2, 3, network.input_length(10), network.input_length(16))
    first = convs(x, "down.0")
    second = convs(F.max_pool2d(first, 2), "down.1")
    bottom = convs(F.max_pool2d(second, 2), "down.2")
    x_up = merged(second, double(bottom, 0), 0)
    wanted = F.conv2d(merged(first, double(x_up, 1), 1), w["classifier.weight"], w["classifier.bias"])
    with torch.no_grad():
        torch.testing.assert_close(network(x), wanted, rtol=1e-4, atol=1e-5)


def test_a_size_that_does_not_stay_even_is_refused():
    with pytest.raises(UsageError, match=r"input of width 571 does not stay even at each pooling; 572 does"):
        Network(1, 2, width=1)(torch.zeros(1, 1, 572, 571))


def test_he_initialisation():
    torch.manual_seed(0)
    model = UNet(CLASSES, width=32, depth=2)
    convolution, up = model.network.down[1][2], model.network.up[0].conv
    assert convolution.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert up.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.02)  # 128 values meet in each output
    assert not convolution.bias.any()


def test_up_convolution_halves_the_channels_and_every_mode_doubles_the_map():
    x = torch.rand(1, 8, 5, 6)
    for up in ("upconv", "bilinear", "nearest"):
        double = tiny(width=4, up=up, padding="same").network.up[-1]
        assert double(x).shape == (1, 4, 10, 12)
    trimmed = tiny(width=4, up="bilinear", padding="valid").network.up[-1]
    assert trimmed(x).shape == (1, 4, 8, 10)


def test_dropout_acts_on_the_last_encoder_level_and_the_bottom():
    model = UNet(CLASSES, width=2, depth=3, dropout=0.3)
    seen = []
    model.network.dropout.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    model.losses(batch_of((8, 8), classes=2))
    assert seen == [8, 16]
    assert model.network.dropout.p == 0.3


def test_batch_norm_is_an_option():
    model = UNet(CLASSES, width=2, depth=2, norm="batch")
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 10  # one after each 3x3 convolution
    model.losses(batch_of((8, 8), classes=2))["cross-entropy"].backward()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in UNet(CLASSES, width=2, depth=2).modules())


def test_grey_is_the_luma():
    torch.manual_seed(0)
    grey = tiny(in_channels=1)
    color = torch.rand(3, 20, 22)
    luma = (color * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdim=True).expand(3, -1, -1)
    one, other = (grey.predict(Batch.of([image]))[0].semantic_logits for image in (color, luma))
    torch.testing.assert_close(one, other)


# --- whole images


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("size", [(1, 1), (5, 30), (33, 20), (64, 64)])
def test_predictions_have_the_size_of_the_image(padding, size):
    [prediction] = tiny(padding=padding).predict(batch_of(size))
    assert prediction.size == size
    assert prediction.semantic_logits.shape == (3, *size)


@pytest.mark.parametrize("up", ["upconv", "bilinear", "nearest"])
def test_an_image_alone_equals_the_same_in_a_batch(up):
    model = tiny(up=up)
    batch = batch_of((30, 41), (50, 33), (50, 41))
    with torch.no_grad():
        together = model.predict(batch)
        for prediction, image, (h, w) in zip(together, batch.images, batch.sizes, strict=True):
            [alone] = model.predict(Batch.of([image[:, :h, :w]]))
            torch.testing.assert_close(alone.semantic_logits, prediction.semantic_logits, rtol=1e-5, atol=1e-5)


def test_a_pixel_is_predicted_at_its_own_place():
    """The map is moved neither by the border nor by the padding: a lone bright pixel answers where it is."""
    model = tiny(padding="valid").double()
    image = torch.zeros(1, 3, 40, 48, dtype=torch.float64)
    with torch.no_grad():
        dark = model.logits(Batch(image, [(40, 48)]))
        image[:, :, 20, 31] = 1
        changed = (model.logits(Batch(image, [(40, 48)])) - dark)[0].abs().sum(0) > 0
    rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
    # The view of a pixel reaches `border` pixels and, through pooling, up to a stride more to one side.
    reach = model.network.border + 4
    assert 20 - reach <= rows.min() <= 20 <= rows.max() <= 20 + reach
    assert 31 - reach <= columns.min() <= 31 <= columns.max() <= 31 + reach


def test_every_labelled_pixel_counts_once():
    model = tiny(depth=2)
    batch = batch_of((21, 34), (30, 20))
    with torch.no_grad():
        found = model.losses(batch)["cross-entropy"]
        logits = [p.semantic_logits for p in model.predict(batch)]
    terms = [
        F.cross_entropy(z[None], t["semantic"][None], reduction="none").flatten()
        for z, t in zip(logits, batch.targets, strict=True)
    ]
    torch.testing.assert_close(found, torch.cat(terms).mean())


def test_losses_without_labelled_pixels_are_zero():
    batch = batch_of((16, 16))
    batch.targets[0]["semantic"].fill_(255)
    model = tiny()
    loss = model.losses(batch)["cross-entropy"]
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


# --- overlapping tiles (fig. 2)


@pytest.mark.parametrize("up", ["upconv", "bilinear", "nearest"])
def test_tiles_of_the_unpadded_network_equal_the_whole_map(up):
    torch.manual_seed(0)
    network = Network(1, 2, width=1, depth=4, up=up).double().eval()
    image = torch.rand(1, 1, network.input_length(60), network.input_length(60), dtype=torch.float64)
    tile = network.input_length(20)
    with torch.no_grad():
        whole = network(image)
        for step, equal in ((16, True), (32, True), (8, False), (10, False)):
            part = network(image[..., step : step + tile, :tile])
            wanted = whole[..., step : step + part.shape[-2], : part.shape[-1]]
            assert torch.allclose(part, wanted, rtol=0, atol=1e-12) == equal, step


@pytest.mark.parametrize("size", [(90, 61), (32, 130), (9, 100)])
def test_overlapping_tiles_equal_the_whole_image(size):
    """Also where the image is smaller than a tile, and where it is no multiple of the step."""
    torch.manual_seed(1)
    model = tiny(depth=2)
    half = 4 * (model.network.border // 4 + 1)  # a multiple of the stride that a pixel can't look across
    batch = batch_of(size)
    with torch.no_grad():
        [whole] = model.predict(batch)
        for step, equal in ((16, True), (18, False)):
            side = step + 2 * half
            tiled = Tiles((side, side), overlap=2 * half, blend="crop", batch_size=3)(model.predict)
            found = tiled(batch)[0].semantic_logits
            assert torch.allclose(found, whole.semantic_logits, rtol=0, atol=1e-5) == equal, step


# --- border weights (eq. 2)


def cells():
    masks = torch.zeros(2, 24, 30, dtype=torch.bool)
    masks[0, 4:20, 3:12] = True
    masks[1, 4:20, 15:26] = True
    return masks


def test_border_weights_make_the_instance_need_masks():
    assert UNet(CLASSES, width=2).needs == {"semantic"}
    assert UNet(CLASSES, width=2, border_weight=True).needs == {"semantic", "masks"}
    assert UNet.interface().needs == {"semantic"}


@pytest.mark.parametrize("class_weights", [None, (0.5, 2.0)])
def test_the_weighted_loss_is_equation_1_with_the_weights_of_equation_2(class_weights):
    torch.manual_seed(0)
    model = UNet(CLASSES, width=2, depth=1, border_weight=True, w0=7.0, sigma=3.0, class_weights=class_weights).eval()
    batch = batch_of((24, 30), (20, 10), classes=2)
    batch.targets[0]["masks"] = cells()
    batch.targets[0]["semantic"] = cells().any(0).long()
    batch.targets[0]["semantic"][0] = 255
    batch.targets[1]["masks"] = torch.zeros(0, 20, 10, dtype=torch.bool)
    with torch.no_grad():
        found = model.losses(batch)["cross-entropy"]
        total, count = 0.0, 0
        for target, prediction in zip(batch.targets, model.predict(batch), strict=True):
            terms = F.cross_entropy(
                prediction.semantic_logits[None], target["semantic"][None], ignore_index=255, reduction="none"
            )[0]
            weight = torch.tensor(class_weights or (1.0, 1.0))[target["semantic"] % 255]
            weight = weight + border_weights(target["masks"], w0=7.0, sigma=3.0)
            total, count = total + (terms * weight).sum(), count + (target["semantic"] != 255).sum()
    torch.testing.assert_close(found, total / count)


def test_without_close_cells_the_border_weights_change_nothing():
    torch.manual_seed(0)
    plain = UNet(CLASSES, width=2, depth=1).eval()
    weighted = UNet(CLASSES, width=2, depth=1, border_weight=True).eval()
    weighted.load_state_dict(plain.state_dict())
    batch = batch_of((24, 30), classes=2)
    batch.targets[0]["masks"] = cells()[:1]
    with torch.no_grad():
        torch.testing.assert_close(plain.losses(batch), weighted.losses(batch))
        batch.targets[0]["masks"] = cells()
        assert weighted.losses(batch)["cross-entropy"] > plain.losses(batch)["cross-entropy"]


# --- learning


def test_learns_the_built_in_scenes():
    """Mean IoU over nine classes, on unseen scenes; the best constant answer reaches 0.05."""
    torch.manual_seed(0)
    train, test = (open_data(f"scenes:count={n},size=64,fields=semantic", s) for n, s in ((300, "train"), (40, "val")))
    train, test = ([plain(*data[i]) for i in range(len(data))] for data in (train, test))
    model = UNet(SCENES, padding="same", width=8, depth=3, norm="batch", dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=200)
    for _ in range(200):
        optimizer.zero_grad()
        picked = torch.randint(len(train), (8,)).tolist()
        model.losses(Collate()([train[i] for i in picked]))["cross-entropy"].backward()
        optimizer.step()
        schedule.step()
    model.eval()
    metric, constants = SegmentationMetrics(SCENES), [SegmentationMetrics(SCENES) for _ in SCENES]
    with torch.inference_mode():
        for prediction, (_, target) in zip(model.predict(Collate()(test)), test, strict=True):
            prediction.semantic = prediction.semantic_logits.argmax(0)
            metric.update(prediction, target)
            for label, constant in enumerate(constants):
                filled = torch.full_like(target["semantic"], label)
                constant.update(Prediction(prediction.size, SCENES, semantic=filled), target)
    assert max(c.compute()["mean_iou"] for c in constants) < 0.06
    assert metric.compute()["mean_iou"] > 0.15


# --- options


def test_wrong_options_are_refused():
    with pytest.raises(UsageError, match="depth is 0; expected 1 or more"):
        UNet(CLASSES, depth=0)
    with pytest.raises(UsageError, match="border_weight needs the loss term cross-entropy; loss has jaccard"):
        UNet(CLASSES, width=2, border_weight=True, loss={"jaccard": 1.0})
    with pytest.raises(UsageError, match="class_weights has 3 numbers"):
        UNet(CLASSES, width=2, border_weight=True, class_weights=(1.0, 1.0, 1.0))
    with pytest.raises(UsageError, match="padding"):
        catalog.build("unet", CLASSES, padding="full")
