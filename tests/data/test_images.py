"""Images as samples: size, colours, normalisation, the file beside the model, and hostile files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from qtool.data.model_inputs import Axis, ModelInput
from qtool.data.open import open_source
from qtool.data.reading import Reading
from qtool.errors import DataError, QtoolError, UsageError

RAW = Reading(preset="raw")


def port(*shape: Axis, dtype: str = "float32", name: str = "x") -> dict[str, ModelInput]:
    return {name: ModelInput(name, shape, dtype)}


def picture(height: int = 5, width: int = 6, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(folder: Path, pixels: np.ndarray, name: str = "a.png", **options: Any) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / name, **options)
    return folder


def read(
    folder: Path, model_inputs: dict[str, ModelInput], reading: Reading = RAW, model: Path | None = None
) -> np.ndarray:
    """The one input of the first sample."""
    sample = next(iter(open_source(folder, model_inputs, reading, kind="images", model=model).read()))
    (array,) = sample.inputs.values()
    return np.asarray(array)


def refused(
    folder: Path, model_inputs: dict[str, ModelInput], reading: Reading = RAW, **more: Any
) -> QtoolError:
    with pytest.raises(QtoolError) as caught:
        read(folder, model_inputs, reading, **more)
    assert "\n" not in caught.value.message
    return caught.value


# The model's side: layout, channels, type


@pytest.mark.parametrize(
    ("shape", "wanted", "dtype"),
    [
        ((1, 3, 5, 6), "NCHW", "float32"),
        (("batch", 3, 5, 6), "NCHW", "float16"),
        ((None, 3, 5, 6), "NCHW", "float64"),
        ((1, 5, 6, 3), "NHWC", "uint8"),
        ((3, 5, 6), "CHW", "int32"),
        ((5, 6, 3), "HWC", "float32"),
    ],
    ids=str,
)
def test_the_layout_and_the_type_are_the_models(
    tmp_path: Path, shape: tuple[Axis, ...], wanted: str, dtype: str
) -> None:
    pixels = picture()
    array = read(save(tmp_path, pixels), port(*shape, dtype=dtype))
    assert array.dtype == dtype
    if wanted.startswith("N"):
        assert array.shape[0] == 1
        array = array[0]
    np.testing.assert_array_equal(array.transpose(1, 2, 0) if wanted.endswith("CHW") else array, pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_any_mode_becomes_the_models_channels(tmp_path: Path, mode: str) -> None:
    made = Image.fromarray(picture()).convert(mode)
    made.save(tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png"))
    for channels, target in ((1, "L"), (3, "RGB"), (4, "RGBA")):
        wanted = np.asarray(made.convert(target))
        array = read(tmp_path, port(1, 5, 6, channels, dtype="uint8"))
        np.testing.assert_allclose(array.reshape(wanted.shape), wanted, atol=2)


@pytest.mark.parametrize("kind", ["png", "tif", "pgm"])
def test_16_bits_become_8(tmp_path: Path, kind: str) -> None:
    wide = np.array([[0, 257, 32896, 65535]], np.uint16)
    Image.fromarray(wide).save(tmp_path / f"a.{kind}")
    assert read(tmp_path, port(1, 1, 1, 4, dtype="uint8")).ravel().tolist() == [0, 1, 128, 255]


def test_transparency_of_a_palette_is_no_colour(tmp_path: Path) -> None:
    made = Image.fromarray(np.array([[0, 1]] * 6, np.uint8), "P")
    made.putpalette([10, 20, 30, 40, 50, 60])
    made.save(tmp_path / "a.png", transparency=b"\x00\xff")
    assert read(tmp_path, port(1, 6, 2, 3, dtype="uint8"))[0, 0].ravel().tolist() == [10, 20, 30, 40, 50, 60]


def test_the_camera_may_have_been_turned(tmp_path: Path) -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        save(tmp_path, picture(), exif=exif)
        upright = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png")))
        np.testing.assert_array_equal(read(tmp_path, port(1, *upright.shape, dtype="uint8"))[0], upright)


@pytest.mark.parametrize("kind", ["gif", "tif", "webp"])
def test_of_several_frames_the_first_counts(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), (level, level, level)) for level in (0, 255)]
    frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:])
    assert read(tmp_path, port(1, 8, 8, 3)).max() < 10


# Arithmetic


@pytest.mark.parametrize(
    ("reading", "formula"),
    [
        (Reading(preset="raw"), lambda x: x),
        (Reading(preset="unit"), lambda x: x / 255),
        (Reading(preset="signed"), lambda x: x / 127.5 - 1),
        (Reading(preset="imagenet", resize="stretch"), lambda x: (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
        (Reading(mean=(127.0,), std=(128.0,)), lambda x: (x - 127) / 128),
        (Reading(mean=(104.0, 117.0, 123.0)), lambda x: x - [104, 117, 123]),
        (Reading(preset="unit", mean=(0.5,), std=(0.25,)), lambda x: (x / 255 - 0.5) / 0.25),
        (Reading(std=(255.0,)), lambda x: x / 255),
        (Reading(preset="raw", mean=(0.5,)), lambda x: x - 0.5),
    ],
    ids=lambda v: str(v.changed) if isinstance(v, Reading) else "",
)  # fmt: skip
def test_the_normalisation_is_that_of_the_options(tmp_path: Path, reading: Reading, formula: Any) -> None:
    pixels = picture()
    array = read(save(tmp_path, pixels), port(1, 5, 6, 3), reading)
    np.testing.assert_allclose(array[0], formula(pixels.astype(np.float64)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("reading", "mean"),
    [
        (Reading(preset="imagenet", resize="stretch", channels="bgr", std=(1.0,)), [0.406, 0.456, 0.485]),
        (Reading(preset="unit", mean=(0.1, 0.2, 0.3), channels="bgr"), [0.1, 0.2, 0.3]),
    ],
    ids=["the preset's are for RGB", "the user's are the model's"],
)
def test_bgr_swaps_channels_and_the_presets_numbers(
    tmp_path: Path, reading: Reading, mean: list[float]
) -> None:
    pixels = picture()
    array = read(save(tmp_path, pixels), port(1, 5, 6, 3), reading)
    np.testing.assert_allclose(array[0], pixels[:, :, ::-1] / 255 - mean, atol=1e-6)


def test_bgr_leaves_alpha_where_it_is(tmp_path: Path) -> None:
    pixels = picture(channels=4)
    array = read(save(tmp_path, pixels), port(1, 5, 6, 4), Reading(preset="raw", channels="bgr"))
    np.testing.assert_array_equal(array[0], pixels[:, :, [2, 1, 0, 3]])


# Size


def test_imagenet_is_torchvisions(tmp_path: Path) -> None:
    """Resize(256), CenterCrop(224): the shorter side is 256, the longer int(256 * ratio)."""
    pixels = picture(300, 421)
    complete = Image.fromarray(pixels).resize((int(256 * 421 / 300), 256), Image.Resampling.BILINEAR)
    left, top = round((complete.width - 224) / 2), round((256 - 224) / 2)
    wanted = np.asarray(complete.crop((left, top, left + 224, top + 224)))
    reading = Reading(preset="imagenet")
    array = read(save(tmp_path, pixels), port(1, 224, 224, 3), reading)[0]
    np.testing.assert_allclose(array * [0.229, 0.224, 0.225] + [0.485, 0.456, 0.406], wanted / 255, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(30, 90), (90, 30), (60, 60), (1, 7)], ids=str)
@pytest.mark.parametrize("resize", ["stretch", "center-crop", "letterbox"])
def test_any_image_becomes_of_the_models_size(tmp_path: Path, resize: str, height: int, width: int) -> None:
    save(tmp_path, np.full((height, width, 3), 200, np.uint8))
    array = read(tmp_path, port(1, 20, 40, 3), Reading(preset="raw", resize=resize))[0]
    assert array.shape == (20, 40, 3)
    inner = {(30, 90): (14, 40), (90, 30): (20, 6), (60, 60): (20, 20), (1, 7): (6, 40)}
    if resize != "letterbox":
        assert (array == 200).all()
    else:
        assert set(np.unique(array)) <= {114.0, 200.0}
        rows, columns = (array[..., 0] == 200).any(1).sum(), (array[..., 0] == 200).any(0).sum()
        assert abs(rows - inner[height, width][0]) <= 1
        assert abs(columns - inner[height, width][1]) <= 1


def test_letterbox_is_in_the_middle(tmp_path: Path) -> None:
    save(tmp_path, np.full((10, 20, 3), 0, np.uint8))
    array = read(tmp_path, port(1, 20, 20, 3), Reading(preset="raw", resize="letterbox"))[0, :, :, 0]
    assert (array[5:15] == 0).all()
    assert (array[:5] == 114).all()
    assert (array[15:] == 114).all()


def test_center_crop_cuts_the_longer_side(tmp_path: Path) -> None:
    pixels = np.repeat(np.arange(40, dtype=np.uint8)[None, :, None], 20, 0).repeat(3, 2)
    array = read(save(tmp_path, pixels), port(1, 20, 20, 3), Reading(preset="raw", resize="center-crop"))
    np.testing.assert_array_equal(array[0, 0, :, 0], np.arange(10, 30))


def test_a_shape_of_ones_own_sets_the_size(tmp_path: Path) -> None:
    reading = Reading(preset="raw", shape={"": (1, 3, 8, 10)})
    assert read(save(tmp_path, picture()), port("n", 3, "h", "w"), reading).shape == (1, 3, 8, 10)


# The file beside the model

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


# Typical mistakes


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


@pytest.mark.parametrize(
    "others",
    [port(1, 1, 5, 6, name="mask"), port(1, 128, 3, name="boxes"), port(1, name="scale")],
    ids=["filled", "rank 3", "rank 1"],
)
def test_other_inputs_are_left_to_others(tmp_path: Path, others: dict[str, ModelInput]) -> None:
    reading = Reading(preset="raw", fill=dict.fromkeys(others, 0.0))
    sample = next(iter(open_source(save(tmp_path, picture()), port(1, 3, 5, 6) | others, reading).read()))
    assert sample.inputs.keys() == {"x"} | others.keys()


# Hostile files


def jpeg(folder: Path) -> bytes:
    save(folder, picture(65, 64), "whole.jpg")
    content = (folder / "whole.jpg").read_bytes()
    (folder / "whole.jpg").unlink()
    return content


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("a.jpg", lambda b: b[: len(b) // 2]),
        ("a.jpg", lambda b: b[:20]),
        ("a.jpg", lambda b: b""),
        ("a.png", lambda b: b"no image"),
        ("a.webp", lambda b: b"RIFF\x00\x00\x00\x00WEBPVP8 "),
        ("a.jpg", lambda b: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"),
        ("a.tif", lambda b: b"II*\x00\x08\x00\x00\x00" + b"\xff" * 200),
        ("a.gif", lambda b: b"GIF89a" + b"\xff" * 30),
    ],
    ids=["half", "head", "empty", "text", "webp", "postscript", "tiff", "gif"],
)
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


# A source


def test_names_are_paths_in_natural_order(tmp_path: Path) -> None:
    for name in ("b/10.png", "b/9.png", "a/1.jpg", "a/.hidden.png"):
        save(tmp_path, picture(), name)
    source = open_source(tmp_path, port(1, 3, 5, 6), RAW)
    assert [s.name for s in source.read()] == ["a/1.jpg", "b/9.png", "b/10.png"]
    assert len(source) == 3


def test_files_that_are_not_chosen_are_not_opened(tmp_path: Path) -> None:
    for index in (0, 2):
        save(tmp_path, picture(seed=index), f"{index}.png")
    (tmp_path / "1.png").write_bytes(b"broken")
    source = open_source(tmp_path, port(1, 3, 5, 6), RAW)
    for _ in range(2):
        assert [s.name for s in source.read({0, 2})] == ["0.png", "2.png"]


def test_notes_say_how_images_are_read(tmp_path: Path) -> None:
    reading = Reading(preset="imagenet", channels="bgr")
    options = "\n".join(open_source(save(tmp_path, picture()), port(1, 3, 224, 224), reading).traits.notes)
    for word in (
        "224 x 224",
        "BGR",
        "NCHW",
        "float32",
        "center-crop",
        "1/0.875",
        "bilinear",
        "--preset",
        "x / 255",
    ):
        assert word in options
