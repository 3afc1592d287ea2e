"""Live progress of the demo in the terminal."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from driftwheel.demo.witness import Witness
from schemas.events import Deployment, Evaluation, Job

if TYPE_CHECKING:
    from driftwheel.demo.run import Score

LINE_EVERY = 400


class Progress:
    """A live panel on a terminal; a line now and then elsewhere."""

    def __init__(self, console: Console, events: int, shift: int, witness: Witness) -> None:
        self._console, self._events, self._shift, self._witness = console, events, shift, witness
        columns = (TextColumn("asks"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Bar(*columns, console=console)
        self._task = self._bar.add_task("asks", total=events)
        self._live = Live(self._view("starting", None, 0), console=console, refresh_per_second=4, transient=True)
        self._told = 0
        self._lines = 0

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def say(self, text: str) -> None:
        """One line about what goes on."""
        self._console.print(text, style="dim")

    def update(self, score: Score, labels: int) -> None:
        """After every chunk of asks."""
        done = len(score.right)
        self._bar.update(self._task, completed=done)
        self._tell_news()
        accuracy = score.rolling(score.right)[-1][1] if done >= LINE_EVERY // 20 else None
        if self._console.is_terminal:
            self._live.update(self._view("shifted" if done > self._shift else "steady", accuracy, labels))
        elif done // LINE_EVERY > self._lines:
            self._lines = done // LINE_EVERY
            self.say(f"ask {done:,} of {self._events:,}: rolling true accuracy {accuracy:.1%}, {labels} labels")

    def _tell_news(self) -> None:
        story = self._witness.story()
        for line in story[self._told :]:
            self._console.print(f"ask {line['event']:>5,}  {line['what']}: {line['why']}", highlight=False)
        self._told = len(story)

    def _view(self, world: str, accuracy: float | None, labels: int) -> Table:
        grid = Table.grid(padding=(0, 2))
        grid.add_row(self._bar)
        facts = Table.grid(padding=(0, 3))
        job, gate, release = (self._witness.last(kind) for kind in (Job, Evaluation, Deployment))
        facts.add_row(
            f"world {world}",
            f"right {accuracy:.1%}" if accuracy is not None else "right -",
            f"alarms {self._witness.alarm_count()}",
            f"labels {labels}",
            f"job {job.state if job else '-'}",
            f"gate {('passed' if gate.passed else 'refused') if gate else '-'}",
            f"release {release.state if release else '-'}",
        )
        grid.add_row(facts)
        return grid
