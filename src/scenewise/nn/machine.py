"""What the CPU can do, and the choices that depend on it.

Each choice follows from the instructions that torch's kernels may use, never from a timing: it is the same in every
run on one machine, so that a run that goes on after a stop gives the same numbers. ``ONEDNN_MAX_CPU_ISA`` and
``ATEN_CPU_CAPABILITY``, with which a processor can be told to behave as a lesser one, are heeded as torch heeds them.
"""

from __future__ import annotations

import functools
import os
import platform
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

Split = Literal["none", "wide", "all"]  # which convolutions; see split_gradients

LEVELS = (  # oneDNN's names of instruction sets, from the least
    "SSE41",
    "AVX",
    "AVX2",
    "AVX2_VNNI",
    "AVX2_VNNI_2",
    "AVX512_CORE",
    "AVX512_CORE_VNNI",
    "AVX512_CORE_BF16",
    "AVX10_1_512",
    "AVX512_CORE_FP16",
    "AVX10_1_512_AMX",
    "AVX512_CORE_AMX",
    "AVX10_1_512_AMX_FP16",
    "AVX512_CORE_AMX_FP16",
)
AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})  # what oneDNN calls AVX512_CORE
SHOWN = ("avx2", "fma", "avx512f", "avx512_bf16", "avx_ne_convert", "amx_bf16", "asimd", "sve", "bf16")


@dataclass(frozen=True)
class CPU:
    """A processor as torch may use it.

    Attributes:
        model: its name, such as ``"AMD EPYC 9B14"``.
        features: those of its instructions that matter here, by Linux's names; empty where they are unknown.
        kernels: the instruction set of torch's own kernels, such as ``"AVX2"``.
        limit: the set that oneDNN (convolutions) may not exceed, by its own name; None where there is no limit.
        x86: whether it is an x86-64 processor.
    """

    model: str
    features: tuple[str, ...]
    kernels: str
    limit: str | None
    x86: bool

    def allows(self, level: str) -> bool:
        """Whether oneDNN may use the instruction set ``level``, if the processor has it."""
        return self.limit not in LEVELS or LEVELS.index(level) <= LEVELS.index(self.limit)

    @property
    def avx512(self) -> bool:
        """Whether convolutions use AVX-512."""
        has = "avx512f" in self.features if self.features else self.kernels.startswith("AVX512")
        return self.x86 and has and self.allows("AVX512_CORE")

    @property
    def bf16(self) -> bool | None:
        """Whether convolutions have instructions for bfloat16; None where that is unknown."""
        if not self.features:
            return False if self.x86 and self.kernels == "AVX2" else None
        if not self.x86:
            return "bf16" in self.features
        has = {"avx512_bf16": "AVX512_CORE_BF16", "amx_bf16": "AVX512_CORE_AMX", "avx_ne_convert": "AVX2_VNNI_2"}
        return any(name in self.features and self.allows(level) for name, level in has.items())

    @property
    def amx(self) -> bool:
        """Whether convolutions in bfloat16 use AMX."""
        return self.x86 and "amx_bf16" in self.features and self.allows("AVX512_CORE_AMX")

    def __str__(self) -> str:
        features = " ".join(self.features) or "features unknown"
        limit = f", oneDNN up to {self.limit}" if self.limit else ""
        return f"{self.model} ({features}); torch's kernels {self.kernels}{limit}"


@functools.cache
def this_cpu() -> CPU:
    """The processor of this machine under the limits of this process."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        cpuinfo = ""
    return cpu_of(cpuinfo, os.environ, torch.backends.cpu.get_cpu_capability(), platform.machine())


def cpu_of(cpuinfo: str, environment: Mapping[str, str], kernels: str, machine: str) -> CPU:
    """The processor that ``cpuinfo`` (the text of Linux's /proc/cpuinfo; may be empty) and the rest describe.

    Args:
        cpuinfo: its first processor is read.
        environment: environment variables.
        kernels: torch's CPU capability.
        machine: the architecture, such as ``"x86_64"``.
    """
    found: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    flags = set(found.get("flags", found.get("Features", "")).split())
    if "avx512f" in flags and not flags >= AVX512:
        flags -= {flag for flag in flags if flag.startswith("avx512")}  # an early kind that oneDNN doesn't use
    limit = environment.get("ONEDNN_MAX_CPU_ISA") or environment.get("DNNL_MAX_CPU_ISA")
    limit = limit.upper() if limit else None
    return CPU(
        model=found.get("model name") or platform.processor() or machine,
        features=tuple(name for name in SHOWN if name in flags),
        kernels=kernels,
        limit=limit if limit in LEVELS else None,
        x86=machine.lower() in ("x86_64", "amd64"),
    )


def split_gradients() -> Split:
    """For which convolutions training computes the two gradients in different memory formats.

    Measured with oneDNN 3.12: its gradient of the weights takes four to five times as long in channels-last order as in
    the contiguous one on x86 processors without AVX-512, and 1.1 to 1.4 times with it where a convolution is dilated or
    has a thousand channels. Everything else is faster in channels-last order, or as fast.
    """
    cpu = this_cpu()
    if not cpu.x86:
        return "none"
    return "wide" if cpu.avx512 else "all"


@functools.cache
def warn_of_bf16() -> None:
    """Warn, once per process, where the processor has no instructions for bfloat16, so that it is slow."""
    cpu = this_cpu()
    if cpu.bf16 is False:
        warnings.warn(
            f"precision bf16: this CPU has no bfloat16 instructions ({cpu}), so bf16 is slower than 32 here, by "
            "about eight times without AVX-512; give precision 32",
            stacklevel=3,
        )
