"""Errors of images: options that contradict each other, models without an image input, damaged files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qtool.data.model_inputs import ModelInput
from qtool.data.reading import Reading
from qtool.errors import DataError, UsageError
from tests.data.pictures import RAW, picture, port, refused, save


@pytest.mark.parametrize(
    ("reading", "word", "hint"),
    [
        (Reading(), "can't be guessed", "--preset"),
        (Reading(resize="letterbox"), "can't be guessed", "--mean and --std"),
        (Reading(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)), "pixels in 0..1", "--preset unit"),
        (Reading(mean=(0.5,), std=(0.5,)), "pixels in 0..1", "--preset unit"),
        (Reading(std=(0.229, 0.224, 0.225)), "pixels in 0..1", "--preset unit"),
        (Reading(preset="unit", mean=(127.0,), std=(128.0,)), "outside", "leave out --preset"),
        (Reading(mean=(127.0, 128.0), std=(1.0,)), "3 channels", "--mean"),
        (Reading(mean=(127.0,), std=(1.0, 2.0)), "3 channels", "--std"),
        (Reading(preset="unti"), "no 'unti'", "unit"),
        (Reading(preset="raw", resize="crop"), "no 'crop'", "stretch"),
        (Reading(preset="raw", channels="gbr"), "no 'gbr'", "rgb"),
        (Reading(preset="raw", layout="nhwc"), "--layout", ""),
    ],
    ids=lambda v: str(v.changed) if isinstance(v, Reading) else v,
)
def test_options_that_contradict_each_other_are_refused(
    tmp_path: Path, reading: Reading, word: str, hint: str
) -> None:
    error = refused(save(tmp_path, picture()), port(1, 3, 5, 6), reading)
    assert isinstance(error, UsageError)
    assert word in error.message
    assert hint in error.hint


@pytest.mark.parametrize(
    ("model_inputs", "reading", "word", "hint"),
    [
        (port(1, 3, "h", "w"), RAW, "height and width open", "--shape x=1,3,224,224"),
        (port(1, None, None, 3), RAW, "height and width open", "--shape x=1,224,224,3"),
        (port("h", 10, 3), RAW, "height and width open", "--shape x=224,224,3"),
        (port("n", "c", "h", "w"), RAW, "no input", "--shape x="),
        (port(1, 128), RAW, "no input", ".npz"),
        (port(1, 3, 5, 6, dtype="str"), RAW, "no input", ".npz"),
        ({"x": ModelInput("x", None, "float32")}, RAW, "no input", "--shape x="),
        ({}, RAW, "it has none", ""),
        (port(8, 3, 5, 6), RAW, "8 images at once", "open batch"),
        (port(1, 3, 5, 6) | port(1, 1, 5, 6, name="mask"), RAW, "2 inputs", "--fill 'mask=0'"),
        (port(1, 3, 5, 6, dtype="uint8"), Reading(preset="unit"), "as they are", "leave out"),
        (port(1, 3, 5, 6, dtype="uint8"), Reading(mean=(127.0,)), "as they are", "leave out"),
        (port(1, 3, 5, 6, dtype="int8"), RAW, "int8", ".npz"),
        (port(1, 1, 5, 6), Reading(preset="imagenet"), "1 channel", "--mean"),
        (port(1, 1, 5, 6), Reading(preset="raw", channels="bgr"), "one channel", ""),
    ],
)  # fmt: skip
def test_a_model_that_takes_no_such_images_is_refused(
    tmp_path: Path, model_inputs: dict[str, ModelInput], reading: Reading, word: str, hint: str
) -> None:
    error = refused(save(tmp_path, picture()), model_inputs, reading)
    assert isinstance(error, UsageError)
    assert word in error.message
    assert hint in error.hint


def jpeg(folder: Path) -> bytes:
    save(folder, picture(65, 64), "whole.jpg")
    content = (folder / "whole.jpg").read_bytes()
    (folder / "whole.jpg").unlink()
    return content


DAMAGED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "half": ("a.jpg", lambda b: b[: len(b) // 2]),
    "head": ("a.jpg", lambda b: b[:20]),
    "empty": ("a.jpg", lambda b: b""),
    "text": ("a.png", lambda b: b"no image"),
    "webp": ("a.webp", lambda b: b"RIFF\x00\x00\x00\x00WEBPVP8 "),
    "postscript": ("a.jpg", lambda b: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"),
    "tiff": ("a.tif", lambda b: b"II*\x00\x08\x00\x00\x00" + b"\xff" * 200),
    "gif": ("a.gif", lambda b: b"GIF89a" + b"\xff" * 30),
}


@pytest.mark.parametrize(("name", "spoil"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused_by_its_name(tmp_path: Path, name: str, spoil: Any) -> None:
    (tmp_path / name).write_bytes(spoil(jpeg(tmp_path)))
    error = refused(tmp_path, port(1, 3, 5, 6))
    assert isinstance(error, DataError)
    assert name in error.message
    assert "tempfile" not in error.message


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    Image.new("1", (15_000, 10_000)).save(tmp_path / "bomb.png")
    error = refused(tmp_path, port(1, 3, 5, 6))
    assert isinstance(error, DataError)
    assert "bomb.png: too many pixels" in error.message


def test_pixels_without_a_range_are_refused(tmp_path: Path) -> None:
    save(tmp_path, np.zeros((5, 6), np.float32), "a.tif")
    assert "floats" in refused(tmp_path, port(1, 3, 5, 6)).message


def test_a_line_of_pixels_is_not_blown_up(tmp_path: Path) -> None:
    Image.new("L", (1_000_000, 1)).save(tmp_path / "line.png")
    error = refused(tmp_path, port(1, 224, 224, 3), Reading(preset="raw", resize="center-crop"))
    assert "line.png" in error.message
    assert error.hint == "--resize stretch"
