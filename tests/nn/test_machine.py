"""What is read of a CPU, and the choices that follow from it."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest
import torch

from scenewise.engine.predict import Predictor, prepare
from scenewise.nn import machine
from scenewise.nn.machine import CPU, cpu_of, split_gradients, this_cpu, warn_of_bf16
from scenewise.systems.segmentation.fcn import FCNResNet

SKYLAKE = "avx2 fma avx512f avx512dq avx512bw avx512vl"
GENOA = f"{SKYLAKE} avx512_bf16"
SAPPHIRE = f"{GENOA} amx_bf16 amx_tile"


def linux(flags: str, limit: str = "", kernels: str = "AVX512", name: str = "ONEDNN_MAX_CPU_ISA") -> CPU:
    text = f"processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu {flags}\n\nprocessor\t: 1\nmodel name\t: Another\n"
    return cpu_of(text, {name: limit} if limit else {}, kernels, "x86_64")


@pytest.mark.parametrize(
    ("cpu", "avx512", "bf16"),
    [
        (linux("avx2 fma", kernels="AVX2"), False, False),
        (linux(SKYLAKE), True, False),
        (linux(GENOA), True, True),
        (linux(GENOA, "AVX2", "AVX2"), False, False),
        (linux(GENOA, "avx2"), False, False),
        (linux(GENOA, "AVX2", name="DNNL_MAX_CPU_ISA"), False, False),
        (linux(GENOA, "AVX512_CORE"), True, False),
        (linux(GENOA, "AVX512_CORE_BF16"), True, True),
        (linux(GENOA, "DEFAULT"), True, True),
        (linux(GENOA, kernels="AVX2"), True, True),  # torch's own kernels are limited, convolutions not
        (linux(SAPPHIRE, "AVX512_CORE_VNNI"), True, False),
        (linux("avx2 fma avx_ne_convert", kernels="AVX2"), False, True),
        (linux("avx2 fma avx_ne_convert", "AVX2_VNNI", kernels="AVX2"), False, False),
        (linux("avx2 avx512f avx512cd", kernels="AVX2"), False, False),  # Knights Landing
    ],
)
def test_instructions_under_limits(cpu, avx512, bf16):
    assert (cpu.avx512, cpu.bf16) == (avx512, bf16)
    assert cpu.model == "Some CPU"


def test_other_systems_and_architectures():
    arm = cpu_of("Features : fp asimd bf16\n", {}, "DEFAULT", "aarch64")
    assert (arm.avx512, arm.bf16, arm.x86) == (False, True, False)
    assert cpu_of("Features : fp asimd\n", {}, "DEFAULT", "aarch64").bf16 is False
    windows = cpu_of("", {}, "AVX512", "AMD64")
    assert (windows.avx512, windows.bf16, windows.x86) == (True, None, True)
    assert cpu_of("", {}, "AVX2", "AMD64").bf16 is False
    mac = cpu_of("", {}, "DEFAULT", "arm64")
    assert (mac.avx512, mac.bf16, mac.x86) == (False, None, False)


def test_its_text_names_model_features_and_limits():
    assert str(linux(GENOA, "AVX2", "AVX2")) == (
        "Some CPU (avx2 fma avx512f avx512_bf16); torch's kernels AVX2, oneDNN up to AVX2"
    )
    assert "features unknown" in str(cpu_of("", {}, "AVX2", "AMD64"))


def test_which_convolutions_split_their_gradients(monkeypatch):
    for cpu, split in (
        (linux("avx2", kernels="AVX2"), "all"),
        (linux(GENOA, "AVX2", "AVX2"), "all"),
        (linux(GENOA), "wide"),
        (cpu_of("Features : asimd\n", {}, "DEFAULT", "aarch64"), "none"),
    ):
        monkeypatch.setattr(machine, "this_cpu", lambda cpu=cpu: cpu)
        assert split_gradients() == split


def test_limits_of_this_process_are_heeded():
    code = "from scenewise.nn.machine import this_cpu as c; print(c().avx512, c().bf16, c().kernels, c().limit)"
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **limits}, capture_output=True, text=True, check=True
    )
    if this_cpu().x86:
        assert done.stdout.split() == ["False", "False", "AVX2", "AVX2"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return FCNResNet(("a", "b"), backbone="resnet18").eval()


@pytest.fixture
def without_bf16(monkeypatch):
    monkeypatch.setattr(machine, "this_cpu", lambda: linux("avx2 fma", kernels="AVX2"))
    warn_of_bf16.cache_clear()
    yield
    warn_of_bf16.cache_clear()


def test_bf16_without_instructions_warns_once_with_the_reason(model, without_bf16):
    with pytest.warns(UserWarning, match=r"no bfloat16 instructions \(Some CPU \(avx2 fma\).*give precision 32"):
        prepare(model, "bf16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Predictor(model, precision="bf16")


def test_no_other_precision_and_no_other_cpu_warns(model, without_bf16, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare(model, "32")
        for cpu in (linux(GENOA), cpu_of("", {}, "DEFAULT", "arm64")):
            monkeypatch.setattr(machine, "this_cpu", lambda cpu=cpu: cpu)
            warn_of_bf16.cache_clear()
            prepare(model, "bf16")
