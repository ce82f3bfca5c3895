"""Progress bars of jobs: one per stage, with rate and time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int], None]


@contextmanager
def stage_bars(quiet: bool, unit: str = "Voxel") -> Iterator[Progress]:
    """A function to call with a stage, how much of it is done, and how much there is (in `unit`)."""
    if quiet:
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.filesize import pick_unit_and_suffix
    from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    class Rate(ProgressColumn):
        """So many a second, also at the end."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed or 0.0
            scale, suffix = pick_unit_and_suffix(int(speed), ["", "k", "M", "G", "T"], 1000)
            return Text(f"{speed / scale:.1f} {suffix}{unit}/s" if speed else "")

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        Rate(),
        TimeRemainingColumn(),
    )
    stages: dict[str, TaskID] = {}
    with Bars(*columns, console=console, disable=not console.is_terminal) as bars:

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                # what was done before it began says nothing of the rate
                stages[stage] = bars.add_task(stage, total=total, completed=done)
            bars.update(stages[stage], completed=done, total=total)

        yield progress
