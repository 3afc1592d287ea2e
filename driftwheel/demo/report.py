"""The demo's one-page report: what happened, with the picture, as HTML that works offline; and ``report.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 960, 380, 48, 24, 64, 36


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line in the picture. ``row`` keeps neighbouring texts apart."""

    event: int
    text: str
    kind: str
    row: int = 0


class Picture:
    """Accuracy over asks, with and without the wheel. Coordinates are SVG user units."""

    width, height, left, edge = WIDTH, HEIGHT, LEFT, WIDTH - RIGHT
    floor = HEIGHT - BOTTOM

    def __init__(
        self,
        events: int,
        wheel: Sequence[tuple[int, float]],
        plain: Sequence[tuple[int, float]],
        marks: Sequence[Mark],
    ) -> None:
        self._events = max(events, 1)
        self.wheel, self.plain = self._points(wheel), self._points(plain)
        self.marks = [(self.x(mark.event), mark.kind, mark.text, 14 + 15 * (n % 3)) for n, mark in enumerate(marks)]
        self.grid = [(self.y(share / 100), f"{share}%") for share in range(0, 101, 20)]
        step = max(1, round(self._events / 8, -2) or 1)
        self.ticks = [(self.x(event), f"{event:,}") for event in range(0, self._events + 1, int(step))]

    def x(self, event: int) -> float:
        """Where an ask stands."""
        return round(LEFT + (WIDTH - LEFT - RIGHT) * event / self._events, 1)

    def y(self, share: float) -> float:
        """Where a share of 1 stands."""
        return round(self.floor - (self.floor - TOP) * share, 1)

    def _points(self, series: Sequence[tuple[int, float]]) -> str:
        return " ".join(f"{self.x(event)},{self.y(value)}" for event, value in series)


def write_report(folder: Path, report: dict[str, Any], picture: Picture) -> tuple[Path, Path]:
    """Write ``report.json`` and ``report.html`` into ``folder`` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = Environment(loader=PackageLoader("driftwheel.demo"), autoescape=select_autoescape())
    page = environment.get_template("report.html").render(report=report, picture=picture)
    machine, human = folder / "report.json", folder / "report.html"
    machine.write_text(json.dumps(report, indent=2) + "\n")
    human.write_text(page)
    return machine, human
