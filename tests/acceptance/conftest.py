"""A folder for hostile models."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.graphs import samples, weights, write_samples


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A folder with samples; a file that a model may name lies above it, and could be read."""
    folder = tmp_path / "in" / "side"
    folder.mkdir(parents=True)
    (tmp_path / "in" / "w.bin").write_bytes(weights(4, 300).tobytes())
    write_samples(folder / "calib", samples(4, x=(1, 4)))
    return folder
