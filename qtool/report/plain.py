"""Foreign text for a terminal."""

from __future__ import annotations

from rich.text import Text

from qtool.errors import printable


def plain(text: str, style: str = "") -> Text:
    """No markup, no emoji codes, no control characters."""
    return Text(printable(text), style=style)
