"""FCN has the released sizes, offsets and parameters; FCNResNet equals torchvision's FCN with the same weights."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import segmentation as torchvision_models

from scenewise.catalog import build
from scenewise.errors import UsageError
from scenewise.systems.segmentation.fcn import FCN, FCNResNet, Upsampling, bilinear_kernel
from scenewise.types import IGNORE, Batch
from scenewise.weights.published import PUBLISHED, VOC_CLASSES, fill_published

CLASSES = ("road", "sky", "car")
TINY = {"width_factor": 1 / 16, "padding": "same"}


def scene(count: int, height: int, width: int, classes: int = 3) -> Batch:
    """Random images with random labels, a tenth of them void."""
    torch.manual_seed(0)
    labels = torch.randint(0, classes, (count, height, width))
    labels[torch.rand(labels.shape) < 0.1] = IGNORE
    images = torch.rand(count, 3, height, width)
    return Batch(images, [(height, width)] * count, [{"semantic": row} for row in labels])


def randomise(model: nn.Module) -> nn.Module:
    """Scores other than the zeros at the start, and batch-norms as after training."""
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 0.6)
            nn.init.normal_(module.bias, 0, 0.1)
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif name.startswith("scores."):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.eval()


def tiny_models() -> list[FCN | FCNResNet]:
    torch.manual_seed(0)
    return [
        randomise(FCN(CLASSES, **TINY)),
        randomise(FCN(CLASSES, **TINY, stride=16, upsampling="dense", final_upsampling="learned")),
        randomise(FCN(CLASSES, backbone="test_resnet", stride=8, at_once=True)),
        randomise(FCNResNet(CLASSES, backbone="test_resnet", auxiliary=True)),
    ]


# The released nets


def map_sizes(model: FCN, size: int) -> list[int]:
    """The sizes of all maps of a square image, in the order in which they are made; shapes alone are computed."""
    sizes = []
    layers = [layer for layer in model.backbone.features if isinstance(layer, nn.MaxPool2d)]
    for layer in (*layers, model.backbone.fc6, *model.upsamplings.values(), model.final_upsampling):
        layer.register_forward_hook(lambda layer, inputs, output: sizes.append(output.shape[-1]))
    model.logits(Batch(torch.zeros(1, 3, size, size, device="meta"), [(size, size)]))
    return sizes


@pytest.mark.parametrize(
    ("stride", "offsets", "final_offset", "enlarged"),
    [(32, [], 19, [544]), (16, [5], 27, [34, 560]), (8, [5, 9], 31, [34, 70, 568])],
)
def test_sizes_and_offsets_of_the_release(stride, offsets, final_offset, enlarged):
    """The numbers of the released prototxt files, for an image of 500 x 500 (sheet S4)."""
    with torch.device("meta"):
        model = FCN(CLASSES, stride=stride, width_factor=1 / 64)
        assert map_sizes(model, 500) == [349, 175, 88, 44, 22, 16, *enlarged]
    assert list(model.offsets.values()) == offsets
    assert model.final_offset == final_offset


@pytest.mark.parametrize(("stride", "count"), [(32, 134_346_581), (16, 134_357_354), (8, 134_362_751)])
def test_parameters_of_21_classes(stride, count):
    """VGG16 to fc7 and the score layers with their biases; the fixed upsampling kernels are no parameters."""
    with torch.device("meta"):
        model = FCN(VOC_CLASSES, stride=stride)
    assert sum(p.numel() for p in model.parameters()) == count


def test_learned_upsampling_adds_its_kernels():
    def extra(**options: str) -> int:
        with torch.device("meta"):
            model = FCN(VOC_CLASSES, width_factor=1 / 64, **options)
        return sum(p.numel() for p in model.parameters()) - plain

    plain = 0
    plain = extra()
    assert extra(upsampling="learned") == 2 * 21 * 4 * 4
    assert extra(upsampling="dense") == 2 * 21 * 21 * 4 * 4
    assert extra(final_upsampling="learned") == 21 * 16 * 16
    assert extra(final_upsampling="dense") == 21 * 21 * 16 * 16


def test_equals_the_release_step_by_step():
    """FCN-8s by the prototxt's own layers: kernels 4, 4, 16, crops 5, 9, 31."""
    torch.manual_seed(0)
    model = randomise(FCN(CLASSES, width_factor=1 / 16))
    batch = scene(1, 47, 70)

    def deconvolve(x: Tensor, factor: int) -> Tensor:
        kernel = torch.zeros(3, 3, 2 * factor, 2 * factor)
        kernel[range(3), range(3)] = bilinear_kernel(factor)
        return F.conv_transpose2d(x, kernel, stride=factor)

    def crop(x: Tensor, like: Tensor, offset: int) -> Tensor:
        return x[:, :, offset : offset + like.shape[2], offset : offset + like.shape[3]]

    pixels = model.pixels(batch)
    with torch.no_grad():
        pool3, pool4, fc7 = model.backbone(pixels)
        upscore2 = deconvolve(model.scores["32"](fc7), 2)
        fuse_pool4 = upscore2 + crop(model.scores["16"](pool4), upscore2, 5)
        upscore_pool4 = deconvolve(fuse_pool4, 2)
        fuse_pool3 = upscore_pool4 + crop(model.scores["8"](pool3), upscore_pool4, 9)
        expected = crop(deconvolve(fuse_pool3, 8), pixels, 31)
        torch.testing.assert_close(model.logits(batch), expected, rtol=1e-5, atol=1e-5)  # sums in another order


@pytest.mark.parametrize("padding", ["caffe", "same"])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_logits_have_the_images_size(padding, stride):
    with torch.device("meta"):
        model = FCN(CLASSES, stride=stride, padding=padding, width_factor=1 / 64)
        for size in (1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65):
            logits = model.logits(Batch(torch.zeros(1, 3, size, 2 * size), [(size, 2 * size)]))
            assert logits.shape == (1, 3, size, 2 * size)


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_mirrored_image_gives_mirrored_logits(stride):
    """With kernels that are their own mirror images nothing prefers a side, unless a map is added out of place."""
    torch.manual_seed(0)
    model = randomise(FCN(CLASSES, **TINY, stride=stride))
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            if parameter.dim() == 4:
                parameter.copy_((parameter + parameter.flip(3)) / 2)
        batch = scene(1, 64, 96)
        mirrored = Batch(batch.images.flip(3), batch.sizes)
        torch.testing.assert_close(model.logits(mirrored), model.logits(batch).flip(3), rtol=1e-4, atol=1e-4)


# Upsampling


@pytest.mark.parametrize("factor", [2, 8, 16, 32])
@pytest.mark.parametrize("kind", ["bilinear", "learned", "dense"])
def test_upsampling_starts_bilinear(factor, kind):
    """All kinds equal the transposed convolution with the bilinear kernel; inside, ``interpolate``."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 3, 4)
    found = Upsampling(3, factor, kind)(x)
    kernel = bilinear_kernel(factor).expand(3, 1, -1, -1)
    expected = F.conv_transpose2d(x, kernel, stride=factor, groups=3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found.shape == (2, 3, 4 * factor, 5 * factor)
    plain = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    half = factor // 2  # the border, and within it the half cell where the neighbour is missing
    torch.testing.assert_close(
        found[..., factor:-factor, factor:-factor], plain[..., half:-half, half:-half], rtol=1e-5, atol=1e-5
    )


def test_bilinear_kernel_of_two():
    row = torch.tensor([0.25, 0.75, 0.75, 0.25])
    torch.testing.assert_close(bilinear_kernel(2), row[:, None] * row)
    for factor in (2, 8, 32):  # each output cell gets weights that sum to 1
        kernel = bilinear_kernel(factor)
        sums = kernel.view(2, factor, 2, factor).sum((0, 2))
        torch.testing.assert_close(sums, torch.ones(factor, factor))


def test_learned_upsampling_gets_gradients():
    model = randomise(FCN(CLASSES, **TINY, upsampling="dense", final_upsampling="learned"))
    torch.stack(list(model.losses(scene(1, 40, 40)).values())).sum().backward()
    names = [name for name, p in model.named_parameters() if "upsampling" in name and p.grad.any()]
    assert names == [
        "upsamplings.16.transposed.weight",
        "upsamplings.8.transposed.weight",
        "final_upsampling.transposed.weight",
    ]


# Skips and training


def test_scores_start_at_zero():
    model = FCN(CLASSES, **TINY).eval()
    batch = scene(1, 40, 50)
    assert not model.logits(batch).any()
    assert model.losses(batch)["cross-entropy"].item() == pytest.approx(math.log(3))


@pytest.mark.parametrize(("coarse", "fine"), [(32, 16), (16, 8), (32, 8)])
def test_a_finer_net_starts_from_the_coarser_ones_scores(coarse, fine):
    torch.manual_seed(0)
    options = {**TINY, "upsampling": "learned", "final_upsampling": "learned"}
    coarser = randomise(FCN(CLASSES, stride=coarse, **options))
    finer = FCN(CLASSES, stride=fine, **options).eval()
    finer.load_coarser(coarser)
    for name, value in coarser.state_dict().items():
        if not name.startswith("final_upsampling."):
            assert torch.equal(finer.state_dict()[name], value), name
    batch = scene(1, 64, 64)
    with torch.no_grad():
        one, other = coarser.logits(batch), finer.logits(batch)
        assert other.any()
        inner = (..., slice(16, -16), slice(16, -16))
        # one enlargement by 32 against one by 2 and one by 16: they differ only where the slope changes
        assert (one - other)[inner].abs().mean() < 0.1 * one[inner].std()


def test_a_finer_net_refuses_what_does_not_fit():
    coarser = FCN(CLASSES, **TINY, stride=16)
    with pytest.raises(UsageError, match="stride 16 is not coarser than stride 16"):
        FCN(CLASSES, **TINY, stride=16).load_coarser(coarser)
    with pytest.raises(UsageError, match="other classes"):
        FCN(("a", "b", "c"), **TINY).load_coarser(coarser)
    with pytest.raises(
        UsageError, match=r"features\.0\.weight is \[4, 3, 3, 3\] in the coarser net and \[2, 3, 3, 3\]"
    ):
        FCN(CLASSES, padding="same", width_factor=1 / 32).load_coarser(coarser)
    with pytest.raises(
        UsageError, match=r"upsamplings\.16\.transposed\.weight is \[3, 1, 4, 4\] .* absent in this one"
    ):
        FCN(CLASSES, **TINY).load_coarser(FCN(CLASSES, **TINY, stride=16, upsampling="learned"))


def test_at_once_scales_the_finer_maps():
    torch.manual_seed(0)
    scaled, plain = FCN(CLASSES, **TINY, at_once=True), FCN(CLASSES, **TINY)
    randomise(scaled)
    state = scaled.state_dict()
    state["scores.16.weight"] = state["scores.16.weight"] * 0.01
    state["scores.8.weight"] = state["scores.8.weight"] * 0.0001
    plain.eval().load_state_dict(state)
    batch = scene(1, 40, 40)
    torch.testing.assert_close(scaled.logits(batch), plain.logits(batch), rtol=1e-5, atol=1e-5)


def test_options_that_do_not_fit():
    with pytest.raises(UsageError, match="padding='caffe' is for backbone vgg16; with resnet18"):
        FCN(CLASSES, backbone="resnet18", padding="caffe")
    with pytest.raises(UsageError, match=r"width_factor=0\.5 is for backbone vgg16"):
        FCN(CLASSES, backbone="resnet18", width_factor=0.5)
    with pytest.raises(UsageError, match="backbone vit_tiny_patch16_224 has no map of stride 32; it has"):
        FCN(CLASSES, backbone="vit_tiny_patch16_224")


def test_other_backbones_need_not_tile_the_image():
    """Inception's maps end before the image does."""
    with torch.device("meta"):
        model = FCN(CLASSES, backbone="inception_v3").eval()
        for size in (299, 300, 331):
            assert model.logits(Batch(torch.zeros(1, 3, size, size), [(size, size)])).shape == (1, 3, size, size)


# torchvision's FCN


@pytest.mark.parametrize(("backbone", "auxiliary"), [("resnet50", True), ("resnet50", False), ("resnet101", True)])
def test_equals_torchvision(backbone, auxiliary):
    torch.manual_seed(0)
    make = getattr(torchvision_models, f"fcn_{backbone}")
    reference = randomise(make(weights=None, weights_backbone=None, num_classes=21, aux_loss=auxiliary))
    model = FCNResNet(VOC_CLASSES, backbone=backbone, auxiliary=auxiliary).eval()
    fill_published(model, reference.state_dict(), PUBLISHED[f"torchvision/fcn_{backbone}"], "torchvision")
    batch = scene(2, 41, 56, classes=21)
    target = torch.stack([t["semantic"] for t in batch.targets])
    with torch.no_grad():
        expected = reference(model.pixels(batch))
        logits = torch.stack([p.semantic_logits for p in model.predict(batch)])
        losses = model.losses(batch)
    torch.testing.assert_close(logits, expected["out"], rtol=1e-5, atol=1e-4)
    assert expected["out"].std() > 0.01
    expected_losses = {"cross-entropy": F.cross_entropy(expected["out"], target, ignore_index=IGNORE)}
    if auxiliary:
        expected_losses["auxiliary"] = 0.5 * F.cross_entropy(expected["aux"], target, ignore_index=IGNORE)
    assert set(losses) == set(expected_losses)
    for name, value in expected_losses.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "auxiliary", "count"),
    [
        ("resnet50", False, 32_957_013),
        ("resnet50", True, 35_322_218),
        ("resnet101", False, 51_949_141),
        ("resnet101", True, 54_314_346),
    ],
)
def test_parameters_of_torchvisions_layout(backbone, auxiliary, count):
    with torch.device("meta"):
        model = FCNResNet(VOC_CLASSES, backbone=backbone, auxiliary=auxiliary)
    assert sum(p.numel() for p in model.parameters()) == count


# The contract


def test_one_image_alone_equals_the_same_image_in_a_batch():
    batch = scene(2, 37, 45)
    for model in tiny_models():
        with torch.no_grad():
            together = model.predict(batch)
            for index in range(2):
                one = Batch(batch.images[index : index + 1], batch.sizes[:1], batch.targets[index : index + 1])
                alone = model.predict(one)[0].semantic_logits
                # another batch size may choose another algorithm
                torch.testing.assert_close(alone, together[index].semantic_logits, rtol=1e-4, atol=1e-4)
            twice = Batch(one.images.repeat(2, 1, 1, 1), one.sizes * 2, one.targets * 2)
            losses = model.losses(twice)
            for name, value in model.losses(one).items():
                torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-4)


def test_images_with_only_void_count_nothing():
    for model in tiny_models():
        batch = scene(2, 33, 40)
        void = {"semantic": torch.full((33, 40), IGNORE)}
        with torch.no_grad():
            with_void = model.losses(Batch(batch.images, batch.sizes, [batch.targets[0], void]))
            alone = model.losses(Batch(batch.images[:1], batch.sizes[:1], batch.targets[:1]))
        for name, value in with_void.items():
            torch.testing.assert_close(value, alone[name], rtol=1e-4, atol=1e-4)
        total = torch.stack(list(model.losses(Batch(batch.images, batch.sizes, [void, void])).values())).sum()
        total.backward()
        assert total == 0
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("size", [(1, 1), (17, 64)])
def test_any_size(size):
    for model in tiny_models():
        batch = scene(1, *size)
        with torch.no_grad():
            assert model.predict(batch)[0].semantic_logits.shape == (3, *size)
            assert all(torch.isfinite(v) for v in model.losses(batch).values())


@pytest.mark.parametrize(
    ("system", "options"),
    [
        ("fcn", {"width_factor": 1 / 16, "padding": "same", "at_once": False, "dropout": 0.0}),
        ("fcn-resnet", {"backbone": "test_resnet"}),
    ],
)
def test_learns_colours(system, options):
    """After 30 steps on random two-colour images it tells the colours apart in new ones; a constant gets half."""

    def coloured(count: int, seed: int) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.rand(count, 1, 2, 2, generator=generator).gt(0.5).float()
        labels = F.interpolate(labels, scale_factor=16)[:, 0].long()
        images = torch.stack([labels * 0.8, 1 - labels * 0.8, torch.full(labels.shape, 0.5)], 1)
        images += 0.1 * torch.randn(images.shape, generator=generator)
        return Batch(images, [(32, 32)] * count, [{"semantic": row} for row in labels])

    torch.manual_seed(0)
    model = build(system, ("green", "red"), **options)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    model.train()
    for step in range(30):
        optimizer.zero_grad()
        torch.stack(list(model.losses(coloured(8, step)).values())).sum().backward()
        optimizer.step()
    held_out = coloured(8, 1000)
    model.eval()
    with torch.no_grad():
        found = torch.stack([p.semantic_logits.argmax(0) for p in model.predict(held_out)])
    right = (found == torch.stack([t["semantic"] for t in held_out.targets])).float().mean()
    assert right > 0.8
