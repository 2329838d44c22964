"""The console of rich as it is used everywhere: without markup, and with control characters as escapes.

Which characters these are is in `terminal.py`; sentences stand where they are shown.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from effdet.terminal import CONTROL, printable


class PlainConsole(Console):
    """A console that prints texts as they are: no markup, no highlighting, lines of any length."""

    def __init__(
        self, *, stderr: bool = False, quiet: bool = False, soft_wrap: bool = True, width: int | None = None
    ) -> None:
        """A console of standard output, or of standard error; a quiet one prints nothing."""
        # In a notebook it prints plain lines, too.
        super().__init__(
            stderr=stderr,
            quiet=quiet,
            soft_wrap=soft_wrap,
            width=width,
            markup=False,
            highlight=False,
            force_jupyter=False,
        )

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of what is printed."""
        for segment in super().render(renderable, options):
            if segment.control or not CONTROL.search(segment.text):
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)
