"""Images as samples: channels, types, normalization, size and the order of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from qtool.data.model_inputs import Axis, ModelInput
from qtool.data.open import open_source
from qtool.data.reading import Reading
from tests.data.pictures import RAW, picture, port, read, save


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


def test_palette_transparency_is_ignored(tmp_path: Path) -> None:
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
def test_images_are_resized_to_the_model(tmp_path: Path, resize: str, height: int, width: int) -> None:
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


def test_an_explicit_shape_sets_the_size(tmp_path: Path) -> None:
    reading = Reading(preset="raw", shape={"": (1, 3, 8, 10)})
    assert read(save(tmp_path, picture()), port("n", 3, "h", "w"), reading).shape == (1, 3, 8, 10)


@pytest.mark.parametrize(
    "others",
    [port(1, 1, 5, 6, name="mask"), port(1, 128, 3, name="boxes"), port(1, name="scale")],
    ids=["filled", "rank 3", "rank 1"],
)
def test_inputs_that_are_not_images_are_skipped(tmp_path: Path, others: dict[str, ModelInput]) -> None:
    reading = Reading(preset="raw", fill=dict.fromkeys(others, 0.0))
    sample = next(iter(open_source(save(tmp_path, picture()), port(1, 3, 5, 6) | others, reading).read()))
    assert sample.inputs.keys() == {"x"} | others.keys()


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
