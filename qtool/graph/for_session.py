"""The form that a session opens a model from: its bytes, or a temporary file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir

from qtool.graph.save import needs_side_file, staged, tensor_bytes, to_bytes
from qtool.graph.shelf import IN_MEMORY
from qtool.runtime.memory import give_back


@contextmanager
def model_for_session(model: ir.Model, *, in_file: bool = False) -> Iterator[bytes | Path]:
    """Yield the argument for a session: bytes, or a temporary file of a large model.

    A session keeps the bytes that it is opened from.

    Args:
        model: any.
        in_file: a file of a small model too if it can be written, where many sessions are open at once.

    Raises:
        EnvironmentFailure: the file of a large model can't be written.
    """
    fits = tensor_bytes(model) <= IN_MEMORY and not needs_side_file(model)
    if fits and not in_file:
        yield to_bytes(model)
        return
    with (
        tempfile.TemporaryDirectory(prefix="qtool-model-") as folder,
        staged(Path(folder) / "m.onnx") as staging,
    ):
        loadable: bytes | Path = staging.path
        try:
            staging.write_unchecked(model)
        except OSError:
            if not fits:
                raise
            loadable = to_bytes(model)
        del model
        give_back()
        yield loadable
