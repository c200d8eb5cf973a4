"""The size and normalization of images from a preprocessor_config.json beside the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qtool.data.reading import Reading
from qtool.errors import DataError
from tests.data.pictures import RAW, picture, port, read, refused, save

NORMAL = {"do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.5, 0.5]}


def processor(folder: Path, **content: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("content", "formula"),
    [
        (NORMAL, lambda x: (x / 255 - [0.5, 0.4, 0.3]) / 0.5),
        ({**NORMAL, "do_rescale": True, "rescale_factor": 0.01}, lambda x: (x * 0.01 - [0.5, 0.4, 0.3]) / 0.5),
        ({"do_rescale": True, "do_normalize": False, **{k: NORMAL[k] for k in ("image_mean", "image_std")}}, lambda x: x / 255),
        ({"do_rescale": False, "do_normalize": True, "image_mean": 127, "image_std": 128}, lambda x: (x - 127) / 128),
        ({"do_rescale": False, "do_normalize": False}, lambda x: x),
        ({"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False}, lambda x: x / 127.5 - 1),
        ({**NORMAL, "do_flip_channel_order": True}, lambda x: (x[:, :, ::-1] / 255 - [0.3, 0.4, 0.5]) / 0.5),
    ],
)  # fmt: skip
def test_the_file_beside_the_model_normalises(tmp_path: Path, content: dict[str, Any], formula: Any) -> None:
    pixels = picture()
    beside = processor(tmp_path / "m", **content)
    array = read(save(tmp_path / "d", pixels), port(1, 5, 6, 3), Reading(), beside)
    np.testing.assert_allclose(array[0], formula(pixels.astype(np.float64)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("content", "size", "resized", "resample"),
    [
        ({"size": 8}, (8, 8), (8, 8), 2),
        ({"size": {"height": 6, "width": 8}, "resample": 3}, (6, 8), (6, 8), 3),
        ({"size": 16, "do_center_crop": True, "crop_size": 8, "resample": 0}, (8, 8), (16, 32), 0),
        ({"size": {"shortest_edge": 16}, "do_center_crop": True, "crop_size": {"height": 8, "width": 8}}, (8, 8), (16, 32), 2),
        ({"size": {"height": 16, "width": 16}, "do_center_crop": True, "crop_size": 8}, (8, 8), (16, 16), 2),
        ({"size": {"shortest_edge": 8}, "crop_pct": 0.5}, (8, 8), (16, 32), 2),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("fixed", [True, False], ids=["fixed", "open"])
def test_the_file_beside_the_model_says_how_large(
    tmp_path: Path,
    content: dict[str, Any],
    size: tuple[int, int],
    resized: tuple[int, int],
    resample: int,
    fixed: bool,
) -> None:
    pixels = picture(20, 40)
    beside = processor(tmp_path / "m", do_rescale=False, do_normalize=False, **content)
    shape = (1, *(size if fixed else ("h", "w")), 3)
    array = read(save(tmp_path / "d", pixels), port(*shape), Reading(), beside)
    complete = np.asarray(Image.fromarray(pixels).resize(resized[::-1], resample))
    top, left = ((have - want) // 2 for have, want in zip(resized, size, strict=True))
    np.testing.assert_array_equal(array[0], complete[top : top + size[0], left : left + size[1]])


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    pixels = picture()
    beside = processor(tmp_path / "m", **NORMAL)
    reading = Reading(mean=(100.0,), std=(2.0,))
    array = read(save(tmp_path / "d", pixels), port(1, 5, 6, 3), reading, beside)
    np.testing.assert_allclose(array[0], (pixels.astype(np.float64) - 100) / 2, atol=1e-5)


def test_a_file_that_is_not_needed_is_not_read(tmp_path: Path) -> None:
    processor(tmp_path / "m")
    (tmp_path / "m" / "preprocessor_config.json").write_text("broken")
    save(tmp_path / "d", picture())
    assert read(tmp_path / "d", port(1, 5, 6, 3), RAW, tmp_path / "m").shape == (1, 5, 6, 3)


@pytest.mark.parametrize(
    "content",
    [
        "broken", "[]", "[" * 100_000, '{"do_normalize": true}', '{"image_mean": "a", "image_std": [1]}',
        '{"image_mean": [0], "image_std": [0]}', '{"do_normalize": false, "rescale_factor": "x"}',
        '{"do_normalize": false, "size": {"height": -1, "width": 3}}', '{"do_normalize": false, "resample": 99}',
        '{"do_normalize": false, "size": 1e9}', '{"do_normalize": false, "do_center_crop": "yes"}',
        '{"do_normalize": false, "rescale_factor": NaN}', '{"image_mean": [1e999], "image_std": [1]}',
        '{"do_normalize": false, "size": [1, 2]}',
    ],
    ids=lambda c: c[:40],
)  # fmt: skip
def test_a_file_that_is_wrong_is_refused_by_its_name(tmp_path: Path, content: str) -> None:
    processor(tmp_path / "m")
    (tmp_path / "m" / "preprocessor_config.json").write_text(content)
    error = refused(save(tmp_path / "d", picture()), port(1, 5, 6, 3), Reading(), model=tmp_path / "m")
    assert isinstance(error, DataError)
    assert "preprocessor_config.json" in error.message
