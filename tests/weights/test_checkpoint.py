"""Checkpoints: what is saved comes back; what does not fit is named, and no pickle is ever run."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from scenewise.catalog import build
from scenewise.errors import CheckpointError, StorageError, UsageError
from scenewise.files.atomic import write_text
from scenewise.files.tensors import CHECKSUM, checksum, read_metadata, read_tensors, write_tensors
from scenewise.types import InputSpec
from scenewise.weights.checkpoint import load_checkpoint, read_header, save_checkpoint
from scenewise.weights.load import load
from scenewise.weights.packaged import PACKAGED


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build(
        "unet", ["straße", "sky"], width=4, depth=2, padding="same", input={"short_side": 64, "mean": [0, 0, 0]}
    )


@pytest.fixture
def saved(model, tmp_path) -> Path:
    path = tmp_path / "model.safetensors"
    save_checkpoint(model, path, metrics={"mean_iou": 0.5})
    return path


def test_everything_comes_back(model, saved):
    again = load_checkpoint(saved)
    assert again.classes == ("straße", "sky")
    assert again.input == InputSpec(short_side=64, mean=(0.0, 0.0, 0.0))
    assert again.info == {"metrics": {"mean_iou": 0.5}}
    assert not again.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    assert read_header(saved)["system"] == "unet"


def test_half_storage_halves_the_file(model, saved, tmp_path):
    path = tmp_path / "half.safetensors"
    save_checkpoint(model, path, half=True)
    assert path.stat().st_size < 0.7 * saved.stat().st_size
    for key, value in load_checkpoint(path).state_dict().items():
        assert value.dtype == model.state_dict()[key].dtype
        torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-3, atol=1e-3)


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("start", [b"\x80", b"PK"])
def test_a_checkpoint_whose_header_is_as_long_as_a_pickles_first_bytes_is_read(tmp_path, start):
    """A safetensors file begins with its header's length, which may begin like a pickle or a zip file."""
    path = tmp_path / "model.safetensors"
    want = int.from_bytes(start, "little")
    save_file({"x": torch.ones(2)}, path, metadata={"note": ""})
    plain = int.from_bytes(path.read_bytes()[:8], "little")
    for length in range(want - plain, want - plain + 8):  # the header is padded to a multiple of 8
        save_file({"x": torch.ones(2)}, path, metadata={"note": "n" * max(0, length)})
        if path.read_bytes().startswith(start):
            break
    assert path.read_bytes().startswith(start)
    assert read_tensors(path)["x"].tolist() == [1, 1]


def test_a_pickle_is_never_run(tmp_path):
    trace = tmp_path / "it ran"
    for name, write in {
        "raw.safetensors": lambda p: p.write_bytes(pickle.dumps(Bomb(trace))),
        "torch.pth": lambda p: torch.save(Bomb(trace), p),
        "old.pth": lambda p: torch.save(Bomb(trace), p, _use_new_zipfile_serialization=False),
    }.items():
        path = tmp_path / name
        write(path)
        with pytest.raises(CheckpointError, match=r"a pickle .* it was not unpickled"):
            load(path)
        with pytest.raises(CheckpointError, match="not unpickled"):
            read_tensors(path)
    assert not trace.exists()


@pytest.mark.parametrize("keep", [0, 5, 40, 0.5, -1])
def test_a_cut_checkpoint_is_named(saved, keep):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: (an empty file|cut short|not a safetensors file)"):
        load(saved)


def test_other_files_are_named(saved, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("these are not the weights you are looking for")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load(text)
    with pytest.raises(CheckpointError, match="a folder"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match=r"neither a file nor a known name; .*street-scenes"):
        load("absent")
    plain = tmp_path / "plain.safetensors"
    write_tensors(plain, {"a": torch.zeros(1)}, {})
    with pytest.raises(CheckpointError, match="not a scenewise checkpoint"):
        load(plain)
    with pytest.raises(UsageError, match="there are no published weights 'torchvison/fcn_resnet50'; did you mean"):
        load("torchvison/fcn_resnet50", weights_file=saved)


def rewrite(path: Path, **changes) -> None:
    import json

    header, tensors = read_header(path), read_tensors(path)
    write_tensors(path, tensors, {"scenewise": json.dumps({**header, **changes})})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "header format 99; this version of scenewise reads formats 1 to 2"),
        ({"system": "unett"}, "holds a 'unett', which scenewise .* does not have; did you mean 'unet'"),
        ({"classes": None}, "its header's 'classes' is None; expected a list"),
        ({"arguments": {"width": 4, "colour": 1}}, "unet has no option 'colour'"),
        ({"arguments": {"width": 4, "depth": 3, "padding": "same"}}, r"lacks \d+ tensors, the first"),
        ({"classes": ["a", "b", "c"]}, r"has shape \[2.*\]; the model needs \[3"),
        ({"input": {"short_sight": 3}}, "unknown entry 'short_sight'"),
    ],
)
def test_what_does_not_fit_is_named(saved, changes, message):
    rewrite(saved, **changes)
    with pytest.raises(CheckpointError, match=message):
        load(saved)


def test_nothing_is_half_written(model, saved, monkeypatch):
    before = saved.read_bytes()

    def fail(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(
        StorageError, match=r"can't be written \(disk full\); the file of that name is as it was before"
    ):
        save_checkpoint(model, saved)
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_an_unwritable_folder_is_named(model, tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(UsageError, match="can't be written"):
        save_checkpoint(model, blocked / "model.safetensors")


def damaged(path: Path, at: int, new: bytes) -> None:
    raw = bytearray(path.read_bytes())
    raw[at : at + len(new)] = new
    path.write_bytes(raw)


def test_every_flipped_bit_is_found(saved):
    """Wherever it is: in the length, the header, or a weight."""
    whole = saved.read_bytes()
    for at in [*range(10), *range(10, len(whole), 97), len(whole) - 1]:
        for bit in (1, 64):
            damaged(saved, at, bytes([whole[at] ^ bit]))
            with pytest.raises(CheckpointError, match="^" + re.escape(str(saved))):
                load(saved)
            saved.write_bytes(whole)
    load(saved)


def test_bytes_that_were_lost_are_found(saved):
    size = saved.stat().st_size
    damaged(saved, size - 500, bytes(400))
    with pytest.raises(
        CheckpointError, match=r"damaged: its content has the checksum \w{32}, and its header says '\w{32}'"
    ):
        load(saved)


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_models_have_a_checksum(name):
    with PACKAGED[name].file() as path:
        assert len(read_metadata(path)[CHECKSUM]) == 32


def test_files_without_a_checksum_are_read(model, saved):
    metadata = read_metadata(saved)
    assert metadata.pop(CHECKSUM)
    save_file(read_tensors(saved), saved, metadata)
    assert torch.equal(next(load(saved).parameters()), next(model.parameters()))


def test_a_training_state_has_a_checksum(tmp_path):
    path = tmp_path / "state.safetensors"
    write_tensors(path, {"model/a": torch.arange(9.0)}, {"progress": "{}"})
    damaged(path, path.stat().st_size - 3, b"x")
    with pytest.raises(CheckpointError, match="damaged"):
        read_tensors(path)


def test_the_checksum_sees_types_shapes_and_names():
    one = torch.arange(4.0)
    found = {
        checksum(tensors, {"a": "b"})
        for tensors in (
            {"x": one},
            {"x": one.view(2, 2)},
            {"x": one.view(torch.int32)},
            {"y": one},
            {"x": one, "y": one},
        )
    }
    assert len(found | {checksum({"x": one}, {"a": "c"})}) == 6
    assert checksum({"x": one.bfloat16(), "y": one[:0], "z": one[0]}, {"checksum": "1"}) == checksum(
        {"z": one[0], "y": one[:0], "x": one.bfloat16()}, {}
    )


def test_a_full_disk_is_named(model, saved):
    """A limit to the size of files stops a writer as a disk without room does."""
    resource = pytest.importorskip("resource")
    before = saved.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"can't be written \(.*too large.*\); the file of that name is as"):
            save_checkpoint(model, saved)
        with pytest.raises(StorageError, match=r"can't be written \(File too large\); there is no file of that name"):
            write_text(saved.with_name("a.txt"), "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ('{"a":' * 100_000, "is nested too deeply")])
def test_a_header_that_is_no_json_is_refused(tmp_path, text, message):
    write_tensors(tmp_path / "bad.safetensors", {"a": torch.zeros(1)}, {"scenewise": text})
    with pytest.raises(CheckpointError, match=f"bad.safetensors: its scenewise header {message}"):
        load(tmp_path / "bad.safetensors")
