"""Keeping the C library from giving memory back to the system between steps."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h


def keep_memory() -> bool:
    """Let the process keep freed memory for its next use; whether that was possible.

    With glibc's defaults every activation above a few megabytes is mapped anew and touched page by page, which
    takes a good part of a training step on few cores. Only Linux with glibc knows this; elsewhere nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 * 2**20))
    done = [mallopt(name, value) for name, value in settings]
    return all(done)
