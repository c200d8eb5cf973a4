"""When the SQNR that a precision usually holds is asked of a result: --gate."""

from __future__ import annotations

NONE = "none"
USUAL = "usual"  # where there is anything to judge by
AUTO = "auto"  # always: where nothing can be judged it fails
