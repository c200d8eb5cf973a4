"""How fast samples pass."""

from __future__ import annotations

from rich.progress import ProgressColumn, Task
from rich.text import Text


class RateColumn(ProgressColumn):
    """Samples a second, or seconds a sample where they are slow."""

    def render(self, task: Task) -> Text:
        """The rate over the last moments; empty before the second sample."""
        speed = task.speed or 0.0
        if not speed:
            return Text("")
        return Text(
            f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each", style="progress.data.speed"
        )
