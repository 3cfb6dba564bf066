"""How fast detectors predict and train, against torchvision's own models: Faster and Mask R-CNN and RetinaNet
(ResNet-50, feature pyramid), SSD300 (VGG16) and SSDLite320 (MobileNet v3).

    python benchmarks/detection_speed.py                                  # all of it, on a photograph of scikit-learn's
    python benchmarks/detection_speed.py --images shared/data/coco_mini/val2017 --count 3
    python benchmarks/detection_speed.py --models mask-rcnn --rounds 5 --only predict stages

    python benchmarks/detection_speed.py --models retinanet ssd300 ssdlite320 --only predict train
    python benchmarks/detection_speed.py --models retinanet --candidates many --only predict

    python benchmarks/detection_speed.py --isa avx2                       # as on a CPU with AVX2 and no more

All run in turn in one process on the same photographs, with the same random weights. They are scaled so that, as with
trained ones, 1,000 proposals of all sizes go into the second stage, which is asserted, and about 100 objects come out.
Timed is what a user waits for from the photograph to boxes, classes, scores and, with Mask R-CNN, bool masks at the
photograph's size: torchvision's model in evaluation and inference mode, and its masks above 0.5, against scenewise's
``Predictor``. Before anything is timed the fp32 outputs are asserted equal;
for bf16 the share of torchvision's objects that are found again is printed. The training step is losses and backward
of one batch of two images from the same seed; the losses of the first stage are asserted equal, those of the second
within 5 %, as rounding changes the order of near-equal proposals, of which the same places are drawn. ``stages``
splits a prediction and sets each part beside its arithmetic limit: its floating-point operations over the machine's
measured peak; it is of two-stage detectors alone. Scores of the one-stage ones are spread so that, as with trained
weights, some hundred of them enter the suppression; with ``--candidates many`` as many as the limits let through, as
with new weights. ``memory`` is the peak of a process of its own. Printed are medians over the rounds, the ratio of the
pairs, and the ratio of CPU time, which other programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from common import add_isa, cpu_label, machine_line, restart_under
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.io import ImageReadMode, decode_image
from torchvision.models import detection, resnet50
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops import box_iou
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.ops.misc import FrozenBatchNorm2d

from scenewise.engine import predict as prediction
from scenewise.engine.allocator import keep_memory
from scenewise.engine.predict import Predictor, predict_images
from scenewise.fields import masks
from scenewise.model import Model
from scenewise.nn.arrange import arrange_for_training
from scenewise.nn.features import FeatureSpec
from scenewise.ops.roi import assign_levels
from scenewise.results.prediction import Prediction
from scenewise.systems.detection import faster_rcnn
from scenewise.types import Batch
from scenewise.weights.published import PUBLISHED, Published, fill_published

PEERS: dict[str, Any] = {"faster-rcnn": detection.FasterRCNN, "mask-rcnn": detection.MaskRCNN}
LOSSES = {
    "objectness": "loss_objectness",
    "rpn_box": "loss_rpn_box_reg",
    "class": "loss_classifier",
    "box": "loss_box_reg",
    "mask": "loss_mask",
}
STAGES = ("resize", "backbone", "pyramid", "RPN head", "proposals", "RoIAlign", "box head", "detections", "mask head")
ONE_STAGE: dict[str, tuple[str, Any]] = {
    "retinanet": ("retinanet_resnet50_fpn", None),
    "ssd300": ("ssd300_vgg16", detection.ssd300_vgg16),
    "ssdlite320": ("ssdlite320_mobilenet_v3_large", detection.ssdlite320_mobilenet_v3_large),
}
ONE_STAGE_LOSSES = {"class": "classification", "box": "bbox_regression"}
SPREADS = {"few": (0.4, 1.0), "many": (1.5, 3.0)}  # of the class logits: RetinaNet's, SSD's
PARTS = ("predict", "train", "stages", "memory")


# ---- the two models


def row_of(name: str) -> Published:
    known = ONE_STAGE.get(name, (f"{name.replace('-', '')}_resnet50_fpn", None))[0]
    return PUBLISHED[f"torchvision/{known}"]


def pair(name: str, side: int, candidates: str = "few") -> tuple[nn.Module, Model]:
    """torchvision's model as its COCO weights are run, and ours, with the same random weights."""
    if name in ONE_STAGE:
        return one_stage_pair(name, side, candidates)
    row = row_of(name)
    torch.manual_seed(0)
    backbone = _resnet_fpn_extractor(resnet50(weights=None, norm_layer=FrozenBatchNorm2d), 3)
    theirs = PEERS[name](backbone, num_classes=len(row.outputs), min_size=side, max_size=side * 5 // 3)
    for module in theirs.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.running_var.uniform_(0.5, 1.5)
            module.running_mean.normal_(0, 0.1)
            module.weight.uniform_(0.3, 0.8)
    heads = {"rpn.head.bbox": 0.005, "rpn.head.cls": 0.1, "box_predictor.bbox": 0.005}
    for key, value in theirs.named_parameters():
        for part, std in heads.items():
            if part in key and key.endswith("weight"):
                nn.init.normal_(value, std=std)
    overwrite_eps(theirs, 0.0)
    propose_on_all_levels(theirs.eval())
    find_objects(theirs.eval(), [i for i, label in enumerate(row.outputs) if label == "N/A"])
    trained = {**row.arguments, "features": FeatureSpec(frozen_levels=2)}  # as torchvision's three trained layers
    ours = dataclasses.replace(row, arguments=trained).build()
    fill_published(ours, theirs.state_dict(), row, name)
    ours.input = dataclasses.replace(ours.input, short_side=side, long_side=side * 5 // 3)
    return theirs, ours


def one_stage_pair(name: str, side: int, candidates: str) -> tuple[nn.Module, Model]:
    """The same of a one-stage detector; SSD's have a size of their own."""
    row = row_of(name)
    torch.manual_seed(0)
    if name == "retinanet":
        body = resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
        backbone = _resnet_fpn_extractor(body, 3, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
        theirs: Any = detection.RetinaNet(backbone, len(row.outputs), min_size=side, max_size=side * 5 // 3)
    else:
        theirs = ONE_STAGE[name][1](weights=None, weights_backbone=None, num_classes=len(row.outputs))
    for key, module in theirs.named_modules():
        if isinstance(module, FrozenBatchNorm2d | nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 1.5)
            module.running_mean.normal_(0, 0.1)
        elif isinstance(module, nn.Conv2d) and not key.startswith("backbone.body"):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    if name == "retinanet":
        overwrite_eps(theirs, 0.0)
    find_one_stage_objects(theirs.eval(), row, SPREADS[candidates][name != "retinanet"])
    arguments = dict(row.arguments)
    if name == "retinanet":
        arguments["features"] = {**arguments["features"], "frozen_levels": 2}
    ours = dataclasses.replace(row, arguments=arguments).build()
    fill_published(ours, theirs.state_dict(), row, name)
    if name == "retinanet":
        ours.input = dataclasses.replace(ours.input, short_side=side, long_side=side * 5 // 3)
    return theirs, ours


def find_one_stage_objects(model: Any, row: Published, spread: float) -> None:
    """Scale the last convolutions of ``model`` so that its class logits vary by ``spread``."""
    heads, unused = model.head, [i for i, label in enumerate(row.outputs) if label == "N/A"]
    retinanet = hasattr(heads.classification_head, "cls_logits")
    if retinanet:
        layers = [(heads.classification_head.cls_logits, spread), (heads.regression_head.bbox_reg, 0.1)]
    else:
        last = [
            [m for m in part.modules() if isinstance(m, nn.Conv2d)][-1]
            for part in heads.classification_head.module_list
        ]
        layers = [(layer, spread) for layer in last]
        last = [
            [m for m in part.modules() if isinstance(m, nn.Conv2d)][-1] for part in heads.regression_head.module_list
        ]
        layers += [(layer, 0.2) for layer in last]
    found: dict[nn.Module, list[Tensor]] = defaultdict(list)
    hooks = [
        layer.register_forward_hook(lambda m, inputs, output: found[m].append(output.std())) for layer, _ in layers
    ]
    run_theirs(model, read_images([], 1)[0])
    with torch.no_grad():
        for (layer, wanted), hook in zip(layers, hooks, strict=True):
            hook.remove()
            layer.weight *= wanted / torch.stack(found[layer]).mean().clone()
            layer.bias.zero_()
            if wanted == spread:
                biases = layer.bias.view(-1, len(row.outputs))
                biases[:] = -4.6 if retinanet else 0.0
                biases[:, 0] = -1e4 if retinanet else 8.0 * spread  # the background, which RetinaNet does not score
                biases[:, unused] = -1e4


def propose_on_all_levels(model: Any) -> None:
    """Scale the maps of ``model``'s pyramid alike, and check that proposals come from all of them.

    New weights make fine maps vary more, so that the best scores, and all proposals, would be there.
    """
    maps: dict[int, float] = {}
    blocks = [block[0] for block in model.backbone.fpn.layer_blocks]
    hooks = [
        block.register_forward_hook(lambda module, inputs, output, i=i: maps.__setitem__(i, output.std().item()))
        for i, block in enumerate(blocks)
    ]
    image = read_images([], 1)[0]
    run_theirs(model, image)
    for i, (hook, block) in enumerate(zip(hooks, blocks, strict=True)):
        hook.remove()
        with torch.no_grad():
            block.weight *= maps[0] / maps[i]
    found: list[Tensor] = []
    hook = model.rpn.register_forward_hook(lambda module, inputs, output: found.append(output[0][0]))
    run_theirs(model, image)
    hook.remove()
    levels = torch.bincount(assign_levels(found[0], 2, 5) - 2, minlength=4).tolist()
    assert len(found[0]) == 1000, f"{len(found[0])} proposals; expected 1000"
    assert min(levels) > 0, f"proposals of the four levels: {levels}; expected some of each"


def find_objects(model: Any, unused: list[int]) -> None:
    """Scale and shift the classifier of ``model`` so that a photograph's boxes are of many classes.

    New weights give all boxes the same class. The outputs ``unused`` have no class and are never the largest.
    """
    seen: list[Tensor] = []
    hook = model.roi_heads.box_head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    side, model.transform.min_size = model.transform.min_size, (320,)
    run_theirs(model, read_images([], 1)[0])
    model.transform.min_size = side
    hook.remove()
    layer = model.roi_heads.box_predictor.cls_score
    with torch.inference_mode(False), torch.no_grad():
        logits = seen[0].clone() @ layer.weight.T
        scale = 3 / (logits - logits.mean(0)).std()
        layer.weight *= scale
        layer.bias.copy_(-scale * logits.mean(0))
        layer.bias[unused] = -1e4


def run_theirs(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """torchvision's objects in ``image``, uint8 [3,H,W], with bool masks."""
    with torch.inference_mode():
        found = model([image / 255])[0]
        if "masks" in found:
            found["masks"] = found["masks"][:, 0] > 0.5
    return found


# ---- equality


def pairs_of(theirs: dict[str, Tensor], ours: Prediction, row: Published, iou: float, score: float) -> Tensor:
    """bool [T,O]: which of torchvision's objects are ours: same class, IoU above ``iou``, score within ``score``."""
    labels = torch.tensor(row.kept[1:])[ours.labels]
    same = (theirs["labels"][:, None] == labels) & (box_iou(theirs["boxes"], ours.boxes) > iou)
    return same & ((theirs["scores"][:, None] - ours.scores).abs() < score)


def found_again(theirs: dict[str, Tensor], ours: Prediction, row: Published, iou: float, score: float) -> float:
    """The share of torchvision's objects that ours has, too; see :func:`pairs_of`."""
    return pairs_of(theirs, ours, row, iou, score).any(1).float().mean().item()


def assert_equal(theirs: dict[str, Tensor], ours: Prediction, row: Published) -> None:
    """As many objects as torchvision's, and nine in ten of them the same to 1e-3 of score.

    The others may be neighbours of theirs: where a new network's proposals overlap by almost the suppression threshold,
    the last bit of a score decides which of them stays. The tests compare object by object.
    """
    count = len(theirs["boxes"])
    assert count >= 50, f"{count} objects are too few to be like a photograph's"
    assert abs(len(ours) - count) <= count // 100, f"{len(ours)} objects, torchvision has {count}"
    share = found_again(theirs, ours, row, 0.99, 1e-3)
    assert share >= 0.9, f"only {share:.1%} of torchvision's objects were found"
    if "masks" in theirs:
        pairs = pairs_of(theirs, ours, row, 0.99, 1e-3)
        found = pairs.any(1)
        expected, masks = theirs["masks"][found], ours.masks[pairs[found].int().argmax(1)]
        differ = (expected != masks).sum().item() / max(1, expected.sum().item())
        assert differ < 1e-2, f"{differ:.1%} of the masks' pixels differ"


# ---- timing


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the clock and of the CPU."""
    start, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start, time.process_time() - cpu


def in_turn(runs: dict[str, Callable[[], Any]], rounds: int, warm: bool = True) -> list[dict[str, Any]]:
    """For each of ``runs`` its median seconds, and the median ratios of the first one's seconds to its own."""
    if warm:
        for run in runs.values():
            run()
    times = [{name: timed(run) for name, run in runs.items()} for _ in range(rounds)]
    first = next(iter(runs))
    return [
        {
            "who": name,
            "seconds": round(statistics.median(t[name][0] for t in times), 3),
            "ratio": round(statistics.median(t[first][0] / t[name][0] for t in times), 2),
            "ratio of CPU time": round(statistics.median(t[first][1] / t[name][1] for t in times), 2),
        }
        for name in runs
    ]


def report(what: str, name: str, **values: Any) -> None:
    print(json.dumps({"what": what, "model": name, **values, "cpu": cpu_label()}), flush=True)


# ---- the parts


def predict_part(name: str, images: list[Tensor], side: int, rounds: int, candidates: str = "few") -> None:
    theirs, ours = pair(name, side, candidates)
    row = row_of(name)
    full, half = Predictor(ours), Predictor(ours, precision="bf16")
    shares, counts = [], []
    for image in images:
        expected = run_theirs(theirs, image)
        assert_equal(expected, full([image])[0], row)
        shares.append(found_again(expected, half([image])[0], row, 0.8, 0.1))
        counts.append(len(expected["boxes"]))
    runs: dict[str, Callable[[], Any]] = {
        "torchvision fp32": lambda: [run_theirs(theirs, image) for image in images],
        "scenewise fp32": lambda: [full([image]) for image in images],
        "scenewise bf16": lambda: [half([image]) for image in images],
    }
    for line in in_turn(runs, rounds, warm=False):
        report(
            "predict", name, **line, images=len(images), objects=counts, found_with_bf16=[round(s, 2) for s in shares]
        )


def train_part(name: str, images: list[Tensor], side: int, rounds: int) -> None:
    theirs, ours = pair(name, side)
    theirs.train()
    arrange_for_training(ours.train())  # as the engine does
    row = row_of(name)
    generator = torch.Generator().manual_seed(1)
    photograph = images[0]
    sizes = [ours.input.size] * 2 if ours.input.size else [(side, side * 5 // 4), (side, side)]
    fed = [side_by(p, *size) / 255 for p, size in zip((photograph, photograph.flip(2)), sizes, strict=True)]
    targets = [objects(image, len(row.classes), generator) for image in fed]
    batch = Batch.of(fed, targets, size_divisor=ours.input.size_divisor)
    kept = torch.tensor(row.kept[1:])
    their_targets = [{**t, "labels": kept[t["labels"]], "masks": t["masks"].to(torch.uint8)} for t in targets]

    def losses_theirs() -> dict[str, Tensor]:
        torch.manual_seed(0)
        return theirs(fed, their_targets)

    def losses_ours() -> dict[str, Tensor]:
        torch.manual_seed(0)
        for _ in fed:
            torch.empty(1).uniform_()  # torchvision draws the size of each image, also from one
        return ours.losses(batch)

    def step(model: nn.Module, losses: Callable[[], dict[str, Tensor]]) -> dict[str, float]:
        model.zero_grad()
        terms = losses()
        torch.stack(list(terms.values())).sum().backward()
        return {key: value.item() for key, value in terms.items()}

    expected, found = step(theirs, losses_theirs), step(ours, losses_ours)
    for key, value in found.items():
        other = expected[(ONE_STAGE_LOSSES if name in ONE_STAGE else LOSSES)[key]]
        share = 1e-3 if key in ("objectness", "rpn_box") or name in ONE_STAGE else 0.05  # see the head of this file
        assert abs(value - other) <= share * max(abs(other), 1e-2), f"{key} is {value}; torchvision's is {other}"
    runs = {
        "torchvision fp32": lambda: step(theirs, losses_theirs),
        "scenewise fp32": lambda: step(ours, losses_ours),
    }
    for line in in_turn(runs, rounds, warm=False):
        report("losses and backward of 2 images", name, **line, sizes=[list(image.shape[-2:]) for image in fed])


def side_by(image: Tensor, height: int, width: int) -> Tensor:
    return torchvision.transforms.v2.functional.resize(image, [height, width], antialias=True)


def objects(image: Tensor, classes: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Eight made-up objects in ``image``: boxes, labels, elliptic masks."""
    height, width = image.shape[-2:]
    corner = torch.rand(8, 2, generator=generator) * torch.tensor([width, height]) * 0.6
    sides = (0.05 + 0.3 * torch.rand(8, 2, generator=generator)) * torch.tensor([width, height])
    boxes = torch.cat([corner, corner + sides], 1)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    center, half = (corner + sides / 2)[:, :, None, None], (sides / 2)[:, :, None, None]
    masks = ((x - center[:, 0]) / half[:, 0]) ** 2 + ((y - center[:, 1]) / half[:, 1]) ** 2 <= 1
    return {"boxes": boxes, "labels": torch.randint(0, classes, (8,), generator=generator), "masks": masks}


class Stopwatch:
    """Adds up the seconds, and the floating-point operations where they are counted, of wrapped functions."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.operations: dict[str, int] = defaultdict(int)
        self.counter: FlopCounterMode | None = None

    def wrap(self, owner: Any, attribute: str, stage: str) -> None:
        """Let calls of ``owner.attribute`` count as ``stage``."""
        original = getattr(owner, attribute)

        def run(*arguments: Any, **options: Any) -> Any:
            before = self.counter.get_total_flops() if self.counter else 0
            start = time.perf_counter()
            result = original(*arguments, **options)
            self.seconds[stage] += time.perf_counter() - start
            if self.counter:
                self.operations[stage] += self.counter.get_total_flops() - before
            return result

        setattr(owner, attribute, run)

    def once(self, run: Callable[[], Any]) -> dict[str, float]:
        """The seconds of each stage and of ``all`` in one run."""
        self.seconds.clear()
        self.seconds["all"] = timed(run)[0]
        return dict(self.seconds)

    def count(self, run: Callable[[], Any]) -> dict[str, int]:
        """The operations of each stage; a product and its sum are two."""
        with FlopCounterMode(display=False) as self.counter:
            run()
        self.counter = None
        return dict(self.operations)


def watch_ours(model: Any) -> Stopwatch:
    watch = Stopwatch()
    watch.wrap(model.features.backbone, "forward", "backbone")
    watch.wrap(model.features.pyramid, "forward", "pyramid")
    watch.wrap(model.rpn, "forward", "RPN head")
    watch.wrap(model.rpn, "proposals", "proposals")
    watch.wrap(model, "_pool", "RoIAlign")
    watch.wrap(model.box_head, "forward", "box head")
    if hasattr(model, "mask_head"):
        watch.wrap(model.mask_head, "forward", "mask head")
    return watch


def watch_theirs(model: Any) -> Stopwatch:
    watch = Stopwatch()
    watch.wrap(model.transform, "forward", "resize")
    watch.wrap(model.backbone.body, "forward", "backbone")
    watch.wrap(model.backbone.fpn, "forward", "pyramid")
    watch.wrap(model.rpn.head, "forward", "RPN head")
    watch.wrap(model.rpn.anchor_generator, "forward", "proposals")
    watch.wrap(model.rpn.box_coder, "decode", "proposals")
    watch.wrap(model.rpn, "filter_proposals", "proposals")
    heads = model.roi_heads
    watch.wrap(heads.box_roi_pool, "forward", "RoIAlign")
    watch.wrap(heads.box_head, "forward", "box head")
    watch.wrap(heads.box_predictor, "forward", "box head")
    watch.wrap(heads, "postprocess_detections", "detections")
    if heads.has_mask():
        watch.wrap(heads.mask_roi_pool, "forward", "RoIAlign")
        watch.wrap(heads.mask_head, "forward", "mask head")
        watch.wrap(heads.mask_predictor, "forward", "mask head")
    watch.wrap(model.transform, "postprocess", "paste")
    return watch


def peak(dtype: torch.dtype) -> tuple[float, float]:
    """The machine's best operations a second, of a 3x3 convolution (256 channels, channels-last) and of a product."""
    layer = nn.Conv2d(256, 256, 3, padding=1).to(dtype).to(memory_format=torch.channels_last)
    x = torch.randn(1, 256, 100, 152).to(dtype).to(memory_format=torch.channels_last)
    matrix = torch.randn(1536, 1536).to(dtype)
    with torch.inference_mode():
        best = [min(timed(run)[0] for _ in range(6)) for run in (lambda: layer(x), lambda: matrix @ matrix)]
    return 2 * 100 * 152 * 256 * 256 * 9 / best[0], 2 * 1536**3 / best[1]


def stages_part(name: str, image: Tensor, side: int, rounds: int) -> None:
    theirs, ours = pair(name, side)
    predictors = {"fp32": Predictor(ours), "bf16": Predictor(ours, precision="bf16")}
    watches = {precision: watch_ours(predictor.model) for precision, predictor in predictors.items()}
    their_watch = watch_theirs(theirs)
    kept = prediction.fit, masks.paste_masks, faster_rcnn.detections
    columns: dict[str, dict[str, float]] = {}
    try:
        times: dict[str, list[dict[str, float]]] = defaultdict(list)
        for _ in range(rounds + 1):
            times["torchvision"].append(their_watch.once(lambda: run_theirs(theirs, image)))
            for precision, predictor in predictors.items():
                prediction.fit, masks.paste_masks, faster_rcnn.detections = kept
                watches[precision].wrap(prediction, "fit", "resize")
                watches[precision].wrap(masks, "paste_masks", "paste")
                watches[precision].wrap(faster_rcnn, "detections", "detections")
                times[precision].append(watches[precision].once(lambda p=predictor: p([image])))
    finally:
        prediction.fit, masks.paste_masks, faster_rcnn.detections = kept
    for who, found in times.items():
        columns[who] = {key: statistics.median(t.get(key, 0.0) for t in found[1:]) for key in found[0]}
    with torch.no_grad():
        predictor = predictors["fp32"]
        operations = watches["fp32"].count(lambda: predict_images(predictor.run, predictor.input, [image]))
    peaks = {"fp32": max(peak(torch.float32)), "bf16": max(peak(torch.bfloat16))}
    print(
        f"## stages of {name}, seconds; peak {peaks['fp32'] / 1e9:.0f} (fp32), {peaks['bf16'] / 1e9:.0f} (bf16) GFLOP/s"
    )
    print("| stage | GFLOP | torchvision | scenewise fp32 | limit fp32 | scenewise bf16 | limit bf16 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    operations["all"] = sum(operations.values())
    for stage in (*STAGES, "paste", "all"):
        count = operations.get(stage, 0)
        cells = [f"{count / 1e9:.1f}", f"{columns['torchvision'].get(stage, 0):.3f}"]
        for precision, best in peaks.items():
            cells += [f"{columns[precision].get(stage, 0):.3f}", f"{count / best:.3f}"]
        print("| " + " | ".join((stage, *cells)) + " |", flush=True)


def memory_part(name: str, arguments: argparse.Namespace) -> None:
    for who in ("torchvision", "fp32", "bf16"):
        command = [sys.executable, __file__, "--memory-of", who, "--models", name, "--side", str(arguments.side)]
        command += ["--images", *arguments.images, "--count", "1"] if arguments.images else []
        peak_mib = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
        report("peak memory of two predictions", name, who=who, MiB=peak_mib)


def peak_memory_of(who: str, name: str, image: Tensor, side: int) -> int:
    """The peak of this process in MiB, with the imports, after two predictions."""
    theirs, ours = pair(name, side)
    if who == "torchvision":
        del ours
        for _ in range(2):
            run_theirs(theirs, image)
    else:
        del theirs
        predictor = Predictor(ours, precision="bf16" if who == "bf16" else "32")
        del ours
        for _ in range(2):
            predictor([image])
    # not getrusage, whose peak a process takes over from the one that started it
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def read_images(places: list[str], count: int) -> list[Tensor]:
    """uint8 [3,H,W] of the files, and of the first files of the folders, that are named; else scikit-learn's China."""
    if not places:
        return [torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1).contiguous()]
    files = [f for place in map(Path, places) for f in (sorted(place.glob("*.jpg")) if place.is_dir() else [place])]
    return [decode_image(str(file), ImageReadMode.RGB) for file in files[:count]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=list(PEERS), choices=[*PEERS, *ONE_STAGE])
    parser.add_argument("--images", nargs="*", default=[], help="files or folders of .jpg; else a built-in photograph")
    parser.add_argument("--count", type=int, default=2, help="how many of the images")
    parser.add_argument(
        "--side", type=int, default=800, help="the shorter side that the networks see; the longer is at most 5/3 of it"
    )
    parser.add_argument("--train-side", type=int, default=480)
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--memory-of", choices=("torchvision", "fp32", "bf16"), help=argparse.SUPPRESS)
    parser.add_argument("--candidates", choices=list(SPREADS), default="few", help="of one-stage detectors")
    add_isa(parser)
    arguments = parser.parse_args()
    restart_under(arguments.isa)
    images = read_images(arguments.images, arguments.count)
    if arguments.memory_of:
        print(peak_memory_of(arguments.memory_of, arguments.models[0], images[0], arguments.side))
        return
    keep_memory()  # for both, so that the one that runs first gains nothing by it
    print(machine_line(arguments.rounds), flush=True)
    for name in arguments.models:
        if "predict" in arguments.only:
            predict_part(name, images, arguments.side, arguments.rounds, arguments.candidates)
        if "stages" in arguments.only and name not in ONE_STAGE:
            stages_part(name, images[0], arguments.side, max(1, arguments.rounds - 1))
        if "train" in arguments.only:
            train_part(name, images, arguments.train_side, max(1, arguments.rounds - 1))
        if "memory" in arguments.only:
            memory_part(name, arguments)


if __name__ == "__main__":
    main()
