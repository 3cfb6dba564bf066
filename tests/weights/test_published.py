"""Published weights: the table is torchvision's; files are fetched, verified and read; every failure says what helps.

No network: a server in a thread gives out tiny files.
"""

import hashlib
import http.server
import re
import socket
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import segmentation as torchvision_models

from scenewise.errors import CheckpointError, DownloadError, UsageError
from scenewise.files import download
from scenewise.types import Batch
from scenewise.weights import published
from scenewise.weights.published import FCN_NAMES, PUBLISHED, Published, fill_published, load_published

NAME = "test/fcn"
SEGMENTERS = [name for name, row in PUBLISHED.items() if row.system in ("fcn-resnet", "deeplab-v3")]


def their_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """What the publisher of the row below would publish: our network's tensors under torchvision's names."""
    torch.manual_seed(seed)
    tensors = {}
    for key, value in row("x.pth", "").build().state_dict().items():
        for ours, theirs in FCN_NAMES:
            if key.startswith(ours):
                key = theirs + key[len(ours) :]
                break
        tensors[key] = torch.randn(value.shape).abs() if value.is_floating_point() else value
    return tensors


def row(filename: str, sha256: str) -> Published:
    arguments = {"backbone": "test_resnet", "auxiliary": True}
    return Published(
        NAME, "fcn-resnet", arguments, FCN_NAMES, filename, sha256, 2.0, {"mean_iou": 0.5}, classes=("a", "b")
    )


@pytest.fixture
def weights(tmp_path, monkeypatch) -> Path:
    """A file of the publisher's and its row in the table; an empty cache and no place to download from."""
    path = tmp_path / "server" / "tiny-0123.pth"
    path.parent.mkdir()
    torch.save(their_tensors(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(published.PUBLISHED, NAME, row(path.name, digest[:8]))
    monkeypatch.setenv("SCENEWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SCENEWISE_WEIGHTS_URL", "http://127.0.0.1:9")  # nobody listens on the discard port
    return path


class Handler(http.server.SimpleHTTPRequestHandler):
    """Gives out a folder; ``cut`` closes the connection in the middle of a file."""

    cut = False

    def log_message(self, *args):
        pass

    def copyfile(self, source, outputfile):
        content = source.read()
        outputfile.write(content[: len(content) // 2] if self.cut else content)


@pytest.fixture
def server(weights, monkeypatch):
    """The handler's class of a server of the file's folder, which downloads now come from."""
    handler = type("HandlerOfOneTest", (Handler,), {})
    serve = partial(handler, directory=str(weights.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("SCENEWISE_WEIGHTS_URL", f"http://127.0.0.1:{running.server_port}/")
        yield handler
        running.shutdown()
        thread.join()


def cached(weights: Path) -> list[str]:
    """What lies in the cache, hidden files included."""
    folder = weights.parent.parent / "cache"
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


# The table


@pytest.mark.parametrize("name", SEGMENTERS)
def test_rows_state_what_torchvision_states(name):
    stem = name.split("/")[1]
    families = {"fcn": "FCN", "deeplabv3": "DeepLabV3", "resnet50": "ResNet50", "resnet101": "ResNet101"}
    enum = "_".join(families[part] for part in stem.split("_")) + "_Weights"
    theirs = getattr(torchvision_models, enum).DEFAULT
    ours = PUBLISHED[name]
    assert ours.url == theirs.url
    assert theirs.url.endswith(f"-{ours.sha256}.pth")
    assert len(ours.sha256) == 8
    assert list(ours.classes) == theirs.meta["categories"]
    (metrics,) = theirs.meta["_metrics"].values()
    assert ours.metrics == {"mean_iou": metrics["miou"] / 100, "pixel_accuracy": metrics["pixel_acc"] / 100}
    assert ours.size == pytest.approx(theirs.meta["_file_size"], abs=0.06)
    with torch.device("meta"):
        model = ours.build()
    assert sum(p.numel() for p in model.parameters()) == theirs.meta["num_params"]
    assert model.info["published"] == name
    assert "BSD" in model.info["terms"]

    preset = theirs.transforms()
    assert (list(ours.input.mean), list(ours.input.std)) == (preset.mean, preset.std)
    assert [ours.input.short_side] == preset.resize_size
    for size in ((375, 500), (500, 333), (520, 520), (1080, 1920)):
        assert preset(torch.zeros(3, *size, dtype=torch.uint8)).shape[-2:] == ours.input.resized(*size)


@pytest.mark.parametrize("name", SEGMENTERS)
def test_every_tensor_of_torchvisions_network_has_its_place(name):
    make = getattr(torchvision_models, name.split("/")[1])
    with torch.device("meta"):
        theirs = make(weights=None, weights_backbone=None, num_classes=21, aux_loss=True).state_dict()
        model = PUBLISHED[name].build()
        fill_published(model, theirs, PUBLISHED[name], "torchvision")


def test_unknown_name():
    with pytest.raises(
        UsageError, match="no published weights 'torchvision/fcn_resnet5'; did you mean 'torchvision/fcn"
    ):
        load_published("torchvision/fcn_resnet5")


# A local file


def test_a_local_file_fills_the_model(weights, tmp_path):
    """The tensors arrive where they belong, whichever format they come in; the network is not asked."""
    model = load_published(NAME, weights)
    tensors = their_tensors()
    assert torch.equal(model.backbone.network.layer1[0].conv1.weight, tensors["backbone.layer1.0.conv1.weight"])
    assert torch.equal(model.classifier[4].bias, tensors["classifier.4.bias"])
    assert torch.equal(model.auxiliary[0].weight, tensors["aux_classifier.0.weight"])
    assert not model.training
    assert model.classes == ("a", "b")
    assert model.input.short_side == 520
    assert model.info["metrics"]["mean_iou"] == 0.5
    assert model.info["lineage"][0].startswith("data: COCO train2017")

    save_file(tensors, tmp_path / "same.safetensors")
    again = load_published(NAME, str(tmp_path / "same.safetensors"))
    batch = Batch(torch.rand(1, 3, 32, 32), [(32, 32)])
    with torch.no_grad():
        assert torch.equal(again.predict(batch)[0].semantic_logits, model.predict(batch)[0].semantic_logits)


def test_files_of_old_torch_versions_lack_the_step_counters(weights, tmp_path):
    tensors = {k: v for k, v in their_tensors().items() if not k.endswith("num_batches_tracked")}
    assert len(tensors) < len(their_tensors())
    save_file(tensors, tmp_path / "old.safetensors")
    load_published(NAME, tmp_path / "old.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classifier.4.bias": None}, r"lacks 1 tensors of test/fcn, the first 'classifier\.4\.bias'"),
        ({"extra.weight": torch.zeros(1)}, r"has unknown 1 tensors of test/fcn, the first 'extra\.weight'"),
        ({"classifier.4.bias": torch.zeros(21)}, r"classifier\.4\.bias has shape \[21\]; test/fcn needs \[2\]"),
    ],
)
def test_another_networks_file_names_the_first_tensor(weights, tmp_path, change, message):
    tensors = {k: v for k, v in {**their_tensors(), **change}.items() if v is not None}
    torch.save(tensors, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(tmp_path / 'other.pth'))}: {message}"):
        load_published(NAME, tmp_path / "other.pth")


class Trap:
    """Code in a pickle."""

    def __reduce__(self):
        return (Path.touch, (Path("trapped"),))


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_never_run(weights, tmp_path, monkeypatch, legacy):
    monkeypatch.chdir(tmp_path)
    torch.save({"classifier.4.bias": Trap()}, tmp_path / "trap.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"trap\.pth"):
        load_published(NAME, tmp_path / "trap.pth")
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04 cut short", b"\x80\x02}"])
def test_files_of_something_else(weights, tmp_path, content):
    (tmp_path / "page.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"page\.pth"):
        load_published(NAME, tmp_path / "page.pth")


def test_missing_file(weights, tmp_path):
    with pytest.raises(CheckpointError, match=r"absent\.pth: can't be read \(No such file"):
        load_published(NAME, tmp_path / "absent.pth")


# Downloads


def test_a_download_is_verified_kept_and_not_repeated(weights, server, monkeypatch):
    model = load_published(NAME)
    assert cached(weights) == [weights.name]
    monkeypatch.setenv("SCENEWISE_WEIGHTS_URL", "http://127.0.0.1:9")
    again = load_published(NAME)
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_a_folder_can_be_the_mirror(weights, monkeypatch):
    monkeypatch.setenv("SCENEWISE_WEIGHTS_URL", weights.parent.as_uri())
    load_published(NAME)
    assert cached(weights) == [weights.name]


def test_no_network(weights):
    with pytest.raises(
        DownloadError, match=r"127\.0\.0\.1:9/tiny-0123\.pth: could not be fetched \(.*refused\); give a local"
    ):
        load_published(NAME)
    assert cached(weights) == []


def test_not_found(weights, server, monkeypatch):
    monkeypatch.setitem(PUBLISHED, NAME, replace(PUBLISHED[NAME], filename="gone.pth"))
    with pytest.raises(
        DownloadError, match=r"gone\.pth: could not be fetched \(HTTP 404 .*\); give a local copy as weights_file"
    ):
        load_published(NAME)
    assert cached(weights) == []


def test_wrong_checksum(weights, server, monkeypatch):
    digest = PUBLISHED[NAME].sha256
    monkeypatch.setitem(PUBLISHED, NAME, replace(PUBLISHED[NAME], sha256="00000000"))
    with pytest.raises(DownloadError, match=rf"its SHA-256 begins with {digest}; expected 00000000; give a local copy"):
        load_published(NAME)
    assert cached(weights) == []


def test_interrupted_download(weights, server):
    server.cut = True
    size = weights.stat().st_size
    message = f"the connection ended after {size // 2:,} of {size:,} bytes; give a local copy as weights_file"
    with pytest.raises(DownloadError, match=message):
        load_published(NAME)
    assert cached(weights) == []
    server.cut = False
    load_published(NAME)  # nothing is left that stands in the way


def test_a_silent_server_is_given_up(weights, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("SCENEWISE_WEIGHTS_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(DownloadError, match=r"could not be fetched \(.*timed out\); give a local copy"):
            load_published(NAME)
    assert cached(weights) == []


@pytest.mark.parametrize("url", ["nowhere", "gopher://x", "http://"])
def test_a_base_that_is_no_url(weights, monkeypatch, url):
    monkeypatch.setenv("SCENEWISE_WEIGHTS_URL", url)
    with pytest.raises(DownloadError, match="give a local copy"):
        load_published(NAME)


def test_a_cache_that_can_not_be_written(weights, server, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SCENEWISE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match=r"can't be written .*set SCENEWISE_CACHE to a folder .* give a local copy"):
        load_published(NAME)


def test_a_progress_bar_appears_on_a_terminal_only(weights, server, monkeypatch, capsys):
    load_published(NAME)
    assert capsys.readouterr().err == ""
    (weights.parent.parent / "cache" / weights.name).unlink()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    load_published(NAME)
    assert weights.name in capsys.readouterr().err
