"""DeepLabV3 equals torchvision's with the same weights; its dilations are the paper's; V3 and V3+ keep the contract."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import segmentation as torchvision_models

from scenewise.catalog import build, plain_arguments
from scenewise.errors import UsageError
from scenewise.nn.backbone import dilation, resnet_stages
from scenewise.systems.segmentation.deeplab_v3 import DeepLabV3, DeepLabV3Plus
from scenewise.types import IGNORE, Batch
from scenewise.weights.published import DEEPLAB, PUBLISHED, VOC_CLASSES, fill_published

CLASSES = ("road", "sky", "car")
TINY = {"backbone": "test_resnet", "aspp_channels": 8}


def scene(count: int, height: int, width: int, classes: int = 3, seed: int = 0) -> Batch:
    """Random images with random labels, a tenth of them void."""
    torch.manual_seed(seed)
    labels = torch.randint(0, classes, (count, height, width))
    labels[torch.rand(labels.shape) < 0.1] = IGNORE
    images = torch.rand(count, 3, height, width)
    return Batch(images, [(height, width)] * count, [{"semantic": row} for row in labels])


def randomise(model: nn.Module) -> nn.Module:
    """Batch-norms as after training; timm starts the last one of each unit at zero, which would hide the unit."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 0.6)
            nn.init.normal_(module.bias, 0, 0.1)
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def tiny_models() -> list[DeepLabV3 | DeepLabV3Plus]:
    torch.manual_seed(0)
    return [
        randomise(DeepLabV3(CLASSES, **TINY, multi_grid=None, auxiliary=True)),
        randomise(DeepLabV3(CLASSES, backbone="resnet18", multi_grid=(1, 2), design="cascade", cascade_blocks=1)),
        randomise(DeepLabV3(CLASSES, **TINY, multi_grid=(1,), image_pooling=False, rates=(3,), head_conv=True)),
        randomise(DeepLabV3Plus(CLASSES, **TINY, decoder_channels=8)),
        randomise(
            DeepLabV3Plus(
                CLASSES, **TINY, decoder_channels=8, decoder_strides=(8, 4), skip_channels=(4, 4), separable=False
            )
        ),
    ]


@pytest.mark.parametrize(("backbone", "auxiliary"), [("resnet50", True), ("resnet50", False), ("resnet101", True)])
def test_equals_torchvision(backbone, auxiliary):
    torch.manual_seed(0)
    make = getattr(torchvision_models, f"deeplabv3_{backbone}")
    reference = randomise(make(weights=None, weights_backbone=None, num_classes=21, aux_loss=auxiliary))
    model = DeepLabV3(VOC_CLASSES, **{**DEEPLAB, "backbone": backbone, "auxiliary": auxiliary}).eval()
    fill_published(model, reference.state_dict(), PUBLISHED[f"torchvision/deeplabv3_{backbone}"], "torchvision")
    batch = scene(2, 41, 56, classes=21)
    target = torch.stack([t["semantic"] for t in batch.targets])
    with torch.no_grad():
        expected = reference(model.pixels(batch))
        logits = torch.stack([p.semantic_logits for p in model.predict(batch)])
        losses = model.losses(batch)
    # the same operations; at some of them timm chooses another order
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
        ("resnet50", False, 39_638_869),
        ("resnet50", True, 42_004_074),
        ("resnet101", False, 58_630_997),
        ("resnet101", True, 60_996_202),
    ],
)
def test_parameters_of_torchvisions_layout(backbone, auxiliary, count):
    with torch.device("meta"):
        model = DeepLabV3(VOC_CLASSES, **{**DEEPLAB, "backbone": backbone, "auxiliary": auxiliary})
    assert sum(p.numel() for p in model.parameters()) == count


def stage_rates(model: DeepLabV3) -> list[list[int]]:
    return [[dilation(unit) for unit in stage] for stage in resnet_stages(model.backbone, "test")]


def aspp_rates(model: DeepLabV3) -> list[int]:
    return [dilation(conv) for conv in model.context.convs]


def test_multi_grid_and_aspp_rates_are_the_papers():
    """Sec. 3.2.1: base rate x (1, 2, 4) is 2, 4, 8 at output stride 16; sec. 3.3: the ASPP's rates double at 8."""
    with torch.device("meta"):
        at16 = DeepLabV3(CLASSES)
        at8 = DeepLabV3(CLASSES, output_stride=8)
        equal = DeepLabV3(CLASSES, output_stride=8, multi_grid=(1, 1, 1))
        none = DeepLabV3(CLASSES, output_stride=8, multi_grid=None)
    assert stage_rates(at16)[2:] == [[1] * 6, [2, 4, 8]]
    assert stage_rates(at8)[2:] == [[2] * 6, [4, 8, 16]]
    assert stage_rates(equal)[2:] == [[2] * 6, [4, 4, 4]]
    assert stage_rates(none)[2:] == [[1, 2, 2, 2, 2, 2], [2, 4, 4]]
    assert aspp_rates(at16) == [1, 6, 12, 18, 1]
    assert aspp_rates(at8) == [1, 12, 24, 36, 1]


@pytest.mark.parametrize("output_stride", [8, 16])
def test_cascade_doubles_the_rates_from_block_to_block(output_stride):
    """Sec. 3.2, fig. 3 (b): block4 to block7 at rates 2, 4, 8, 16 at output stride 16, each times the multi-grid."""
    with torch.device("meta"):
        model = DeepLabV3(CLASSES, design="cascade", output_stride=output_stride, multi_grid=(1, 2, 1))
        maps = model.context(torch.zeros(1, 2048, 5, 6))
    base = 32 // output_stride
    assert stage_rates(model)[3] == [base, 2 * base, base]
    blocks = [[dilation(unit) for unit in block] for block in model.context[:-1]]
    assert blocks == [[base * f, 2 * base * f, base * f] for f in (2, 4, 8)]
    assert maps.shape == (1, 2048, 5, 6)


def test_cascade_starts_from_the_last_stages_weights():
    torch.manual_seed(0)
    model = DeepLabV3(CLASSES, backbone="resnet18", multi_grid=(1, 2), design="cascade", cascade_blocks=2)
    last = resnet_stages(model.backbone, "test")[-1]
    for block in model.context[:2]:
        for unit, original in ((block[0], last[1]), (block[1], last[1])):  # the first unit of a stage has another shape
            assert torch.equal(unit.conv1.weight, original.conv1.weight)
            assert unit.conv1.weight is not original.conv1.weight
    assert model.classifier[0].in_channels == 512


def test_one_set_of_weights_fits_both_output_strides():
    torch.manual_seed(0)
    at16 = randomise(DeepLabV3(CLASSES, backbone="resnet18", multi_grid=(1, 2), aspp_channels=8))
    at8 = DeepLabV3(CLASSES, backbone="resnet18", multi_grid=(1, 2), aspp_channels=8, output_stride=8).eval()
    at8.load_state_dict(at16.state_dict())
    batch = scene(1, 33, 49)
    assert at16.backbone(at16.pixels(batch))[-1].shape[-2:] == (3, 4)
    assert at8.backbone(at8.pixels(batch))[-1].shape[-2:] == (5, 7)
    assert at8.predict(batch)[0].semantic_logits.shape == (3, 33, 49)


def test_one_image_alone_equals_the_same_image_in_a_batch():
    batch = scene(3, 37, 45)
    for model in tiny_models():
        with torch.no_grad():
            together = model.predict(batch)
            for index in range(3):
                one = Batch(batch.images[index : index + 1], batch.sizes[:1], batch.targets[index : index + 1])
                alone = model.predict(one)[0].semantic_logits
                # another batch size may choose another algorithm
                torch.testing.assert_close(alone, together[index].semantic_logits, rtol=1e-4, atol=1e-5)
            twice = Batch(one.images.repeat(2, 1, 1, 1), one.sizes * 2, one.targets * 2)
            for name, value in model.losses(one).items():
                torch.testing.assert_close(model.losses(twice)[name], value, rtol=1e-4, atol=1e-5)


def test_losses_are_the_same_in_training_mode_but_for_torchs_own_layers():
    model = tiny_models()[0]
    batch = scene(2, 33, 33)
    expected = model.losses(batch)
    model.train()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.Dropout)):
            module.eval()
    found = model.losses(batch)
    assert {k: v.item() for k, v in found.items()} == {k: v.item() for k, v in expected.items()}


def test_images_with_only_void_count_nothing():
    for model in tiny_models():
        batch = scene(2, 33, 40)
        with_void = Batch(batch.images, batch.sizes, [batch.targets[0], {"semantic": torch.full((33, 40), IGNORE)}])
        alone = Batch(batch.images[:1], batch.sizes[:1], batch.targets[:1])
        for name, value in model.losses(with_void).items():
            torch.testing.assert_close(value, model.losses(alone)[name], rtol=1e-4, atol=1e-5)
        void = Batch(batch.images, batch.sizes, [{"semantic": torch.full((33, 40), IGNORE)}] * 2)
        total = torch.stack(list(model.losses(void).values())).sum()
        total.backward()
        assert total == 0
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("size", [(1, 1), (17, 64), (65, 33)])
def test_any_size(size):
    for model in tiny_models():
        batch = scene(1, *size)
        with torch.no_grad():
            assert model.predict(batch)[0].semantic_logits.shape == (3, *size)
            assert all(torch.isfinite(v) for v in model.losses(batch).values())


def test_padding_is_cut_off_and_does_not_count():
    model = tiny_models()[0]
    images = [torch.rand(3, 30, 41), torch.rand(3, 37, 20)]
    targets = [{"semantic": torch.randint(0, 3, tuple(image.shape[-2:]))} for image in images]
    batch = Batch.of(images, targets, size_divisor=8)
    assert batch.images.shape[-2:] == (40, 48)
    with torch.no_grad():
        logits = [p.semantic_logits for p in model.predict(batch)]
        found = model.losses(batch)["cross-entropy"]
    assert [row.shape for row in logits] == [(3, 30, 41), (3, 37, 20)]
    scores = torch.cat([row.flatten(1) for row in logits], 1).T  # [pixels of both images,C]
    labels = torch.cat([t["semantic"].flatten() for t in targets])
    torch.testing.assert_close(found, F.cross_entropy(scores, labels), rtol=1e-5, atol=1e-5)


def test_training_on_one_image_is_refused():
    model = DeepLabV3(CLASSES, **TINY, multi_grid=None)
    with pytest.raises(UsageError, match="batch of one image"):
        model.losses(scene(1, 32, 32))


def test_options_that_do_not_fit():
    with pytest.raises(
        UsageError, match=r"multi_grid=\[1, 2, 4\] \(give null for none\) needs a ResNet .*lite0 is none"
    ):
        DeepLabV3(CLASSES, backbone="efficientnet_lite0")
    with pytest.raises(
        UsageError, match=r"multi_grid has 3 factors; expected one for each of the 2 units .* of resnet18"
    ):
        DeepLabV3(CLASSES, backbone="resnet18")
    with pytest.raises(UsageError, match="design='cascade' needs a ResNet"):
        DeepLabV3(CLASSES, backbone="efficientnet_lite0", multi_grid=None, design="cascade")
    with pytest.raises(UsageError, match=r"design='cascade' needs two or more units .* test_resnet has 1"):
        DeepLabV3(CLASSES, backbone="test_resnet", multi_grid=None, design="cascade")
    with pytest.raises(UsageError, match="no map of stride 3"):
        DeepLabV3Plus(CLASSES, backbone="test_resnet", decoder_strides=(3,))
    with pytest.raises(UsageError, match="skip_channels has 1 numbers; expected one for each of the 2"):
        DeepLabV3Plus(CLASSES, backbone="test_resnet", decoder_strides=(8, 4))


def test_arguments_build_the_same_network_again():
    """None is a value of multi_grid, not its absence: it must survive the checkpoint's header."""
    with torch.device("meta"):
        for options in ({}, {"multi_grid": None}, {"design": "cascade", "output_stride": 8, "multi_grid": (1, 2, 1)}):
            model = build("deeplab-v3", CLASSES, **options)
            again = build("deeplab-v3", CLASSES, **plain_arguments(model))
            assert stage_rates(again) == stage_rates(model)
            assert again.arguments == model.arguments


def test_decoder_adds_the_finer_map():
    """V3+ with its skips cut (zero weights behind them) no longer depends on the finer map; with them it does."""
    model = tiny_models()[3]
    batch = scene(1, 32, 32)
    maps = model.backbone(model.pixels(batch))
    changed = [m + 1 if i == model.levels[0] else m for i, m in enumerate(maps)]

    def logits(given: list[Tensor]) -> Tensor:
        x = model.aspp(given[-1])
        finer = model.skips[0](given[model.levels[0]])
        return model.steps[0](torch.cat([F.interpolate(x, finer.shape[-2:], mode="bilinear"), finer], 1))

    with torch.no_grad():
        torch.testing.assert_close(model.classifier(logits(maps)), model.logits(batch))
        assert not torch.allclose(logits(maps), logits(changed))
    assert model.logits(batch).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("system", ["deeplab-v3", "deeplab-v3-plus"])
def test_learns_colours(system):
    """After 25 steps on random two-colour images it tells the colours apart in new ones; a constant gets half."""

    def coloured(count: int, seed: int) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.rand(count, 1, 2, 2, generator=generator).gt(0.5).float()
        labels = F.interpolate(labels, scale_factor=16)[:, 0].long()
        images = torch.stack([labels * 0.8, 1 - labels * 0.8, torch.full(labels.shape, 0.5)], 1)
        images += 0.1 * torch.randn(images.shape, generator=generator)
        return Batch(images, [(32, 32)] * count, [{"semantic": row} for row in labels])

    torch.manual_seed(0)
    options = {"multi_grid": None} if system == "deeplab-v3" else {"decoder_channels": 16}
    model = build(
        system, ("green", "red"), backbone="test_resnet", aspp_channels=16, output_stride=8, dropout=0, **options
    )
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    model.train()
    for step in range(25):
        optimizer.zero_grad()
        torch.stack(list(model.losses(coloured(8, step)).values())).sum().backward()
        optimizer.step()
    held_out = coloured(8, 1000)
    model.eval()
    with torch.no_grad():
        found = torch.stack([p.semantic_logits.argmax(0) for p in model.predict(held_out)])
    right = (found == torch.stack([t["semantic"] for t in held_out.targets])).float().mean()
    assert right > 0.8
