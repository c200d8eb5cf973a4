"""What qtool writes into a model's metadata and reads again."""

from __future__ import annotations

# {name: {"type", "scale", "zero_point"}} of inputs and outputs that are integers (rewrite/ports.py).
PORTS = "qtool.io"
