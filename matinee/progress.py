"""Stages of a run, each with a bar, a time and a word on what it did."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


@dataclass
class Stage:
    """One stage while it runs; `note` is what it says of itself when it is done."""

    name: str
    stages: Stages
    note: str = ""
    skipped: bool = False

    def step(self, done: float, of: float, what: str = "") -> None:
        """Show how far the stage has come."""
        self.stages.show(self.name, done, of, what)

    def say(self, what: str) -> None:
        """Print a line at once, of something that is not seen every time."""
        self.stages.console.print(f"[dim]{self.name}: {what}[/dim]", highlight=False)

    def skip(self, note: str) -> None:
        """Say that nothing had to be done."""
        self.note, self.skipped = note, True


@dataclass
class Stages:
    """Progress of a run on a console. As a context manager it owns the live display."""

    console: Console
    seconds: dict[str, float] = field(default_factory=dict)
    _progress: Progress | None = None
    _task: TaskID | None = None

    def __enter__(self) -> Self:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=self.console, transient=True)
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()
            self._progress = None

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Time one stage and print a line when it is done; an error passes through, its stage named."""
        stage, began = Stage(name, self), time.perf_counter()
        if self._progress:
            self._task = self._progress.add_task(name, total=None)
        try:
            yield stage
        except BaseException:
            self.console.print(f"[red]✗[/red] {name:<22} {time.perf_counter() - began:6.1f} s")
            raise
        finally:
            if self._progress and self._task is not None:
                self._progress.remove_task(self._task)
                self._task = None
        self.seconds[name] = time.perf_counter() - began
        mark = "[dim]↷[/dim]" if stage.skipped else "[green]✓[/green]"
        self.console.print(
            f"{mark} {name:<22} {self.seconds[name]:6.1f} s  [dim]{stage.note}[/dim]", highlight=False
        )

    def show(self, name: str, done: float, of: float, what: str) -> None:
        """Move the bar of the running stage."""
        if self._progress and self._task is not None:
            self._progress.update(self._task, description=f"{name} {what}", completed=done, total=of)


def peak_memory_gb() -> float:
    """The most memory this process, or the largest of its children, has held, in GB."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1e6
