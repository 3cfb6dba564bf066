"""What the benchmarks of speed share: which instructions the CPU may use, and the line that says so."""

from __future__ import annotations

import argparse
import os
import platform
import sys

LIMITS = {"avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}}


def add_isa(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--isa",
        choices=("native", *LIMITS),
        default="native",
        help="avx2: measure as a CPU does that has AVX2 and no more, as most desktops",
    )


def restart_under(isa: str) -> None:
    """Start this script again, in place of itself, where ``isa`` asks for limits that this process doesn't have.

    torch reads them once, when it is loaded.
    """
    wanted = LIMITS.get(isa, {})
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})


def machine_line(rounds: int) -> str:
    """What the figures below it were measured on."""
    import torch
    import torchvision

    from scenewise.nn.machine import this_cpu

    return (
        f"# {platform.machine()}, {this_cpu()}, {torch.get_num_threads()} threads, "
        f"load {os.getloadavg()[0]:.1f} at the start, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, "
        f"medians of {rounds}"
    )


def cpu_label() -> str:
    """The CPU in a few words, for each line of results."""
    from scenewise.nn.machine import this_cpu

    cpu = this_cpu()
    return f"{cpu.model}, {'AVX-512' if cpu.avx512 else cpu.limit or cpu.kernels}{', bf16' if cpu.bf16 else ''}"
