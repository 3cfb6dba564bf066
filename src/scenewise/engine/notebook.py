"""What training shows in a notebook: a bar and live curves in one output, without any library but IPython itself."""

from __future__ import annotations

import html
import importlib
import sys
import time
from collections.abc import Sequence
from typing import Any

EVERY = 0.5  # seconds between two changes of the output
POINTS = 200  # of a curve, at most
WIDTH, HEIGHT = 340, 110  # of a curve, in pixels


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return hasattr(shell, "kernel")


class Cell:
    """The output of a cell that trains.

    Args:
        total: the number of steps.
        first: what was done before, as of a run that goes on.
    """

    def __init__(self, total: int, first: int = 0) -> None:
        self.total, self.first, self.done = total, first, first
        self.title = self.note = ""
        self.losses: list[tuple[float, float]] = []  # step, loss
        self.scores: list[tuple[float, float]] = []  # step, the score that chooses
        self.monitor = "score"
        self.start = self.shown = time.monotonic()
        self.handle: Any = None

    def step(self, step: int, title: str, loss: float, note: str) -> None:
        """A step is done."""
        self.done, self.title, self.note = step, title, note
        self.losses.append((step, loss))
        if time.monotonic() - self.shown >= EVERY:
            self.show()

    def validating(self, done: int, total: int) -> None:
        """So many images are validated."""
        self.note = f"validation: image {done} of {total}"
        if time.monotonic() - self.shown >= EVERY:
            self.show()

    def epoch(self, monitor: str | None, score: float | None) -> None:
        """An epoch is done."""
        if monitor is not None and score is not None:
            self.monitor = monitor
            self.scores.append((self.done, score))
            self.note = f"{monitor} {score:.4f}"
        self.show()

    def show(self) -> None:
        """Put the present state into the output."""
        ipython = importlib.import_module("IPython.display")  # of the kernel: no library that scenewise asks for
        self.shown = time.monotonic()
        page = ipython.HTML(self.page())
        if self.handle is None:
            self.handle = ipython.display(page, display_id=True)
        else:
            self.handle.update(page)

    def page(self) -> str:
        """The bar and the curves as HTML."""
        seconds = time.monotonic() - self.start
        rate = (self.done - self.first) / max(seconds, 1e-9)
        words = [self.title, f"step {self.done} of {self.total}"]
        if rate > 0:
            words.append(f"{rate:.1f} a second" if rate >= 1 else f"{1 / rate:.1f} s each")
            if self.done < self.total:
                words.append(f"{(self.total - self.done) / rate:.0f} s left")
        told = html.escape(", ".join(word for word in (*words, self.note) if word))
        bar = f'<progress value="{self.done}" max="{self.total}" style="width: {WIDTH * 2}px"></progress>'
        curves = curve("training loss", self.losses, self.total) + curve(self.monitor, self.scores, self.total)
        return f'<div style="font: 12px sans-serif">{bar}<br>{told}<br>{curves}</div>'


def curve(title: str, points: Sequence[tuple[float, float]], end: float) -> str:
    """A curve of (x, y) as SVG, x from 0 to ``end``, with its least, greatest and last y; nothing without points."""
    if not points:
        return ""
    apart = -(-len(points) // POINTS)
    kept = [*points[::apart], points[-1]]
    low, high = min(y for _, y in points), max(y for _, y in points)
    span = (high - low) or 1.0
    places = " ".join(
        f"{40 + (WIDTH - 50) * x / max(end, 1):.1f},{HEIGHT - 16 - (HEIGHT - 40) * (y - low) / span:.1f}"
        for x, y in kept
    )
    last = places.split()[-1].split(",")
    grey = 'fill="#777" font-size="10" font-family="sans-serif"'
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" xmlns="http://www.w3.org/2000/svg">'
        f'<text x="40" y="12" {grey}>{html.escape(title)}: {points[-1][1]:.4g}</text>'
        f'<text x="36" y="28" text-anchor="end" {grey}>{high:.3g}</text>'
        f'<text x="36" y="{HEIGHT - 14}" text-anchor="end" {grey}>{low:.3g}</text>'
        f'<path d="M40 20V{HEIGHT - 12}H{WIDTH - 6}" fill="none" stroke="#bbb"/>'
        f'<polyline points="{places}" fill="none" stroke="#0072b2" stroke-width="1.5"/>'
        f'<circle cx="{last[0]}" cy="{last[1]}" r="3" fill="#0072b2"/></svg>'
    )
