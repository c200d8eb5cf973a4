"""Recordings as samples: windows, rates, channels; and files that are no recordings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from qtool.data import audio
from qtool.data.model_inputs import Axis, ModelInput
from tests.data.helpers import arrays, assert_positions, misused, model_inputs, names, refused, source, write

soundfile = pytest.importorskip("soundfile")
soxr = pytest.importorskip("soxr")


def record(path: Path, wave: np.ndarray, rate: int = 8000, **options: str) -> Path:
    """A recording without loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, **({"subtype": "FLOAT"} if path.suffix == ".wav" else {}) | options)
    return path


def noise(frames: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    made = np.random.default_rng(seed).uniform(-0.9, 0.9, (frames, channels)).astype(np.float32)
    return made[:, 0] if channels == 1 else made


@pytest.mark.parametrize(
    ("frames", "windows"), [(1, 1), (99, 1), (100, 1), (199, 1), (200, 2), (250, 2), (1000, 10)], ids=str
)
def test_a_file_gives_whole_windows_and_one_at_least(tmp_path: Path, frames: int, windows: int) -> None:
    wave = noise(frames)
    result = source(record(tmp_path / "a.wav", wave), model_inputs(x=(1, 100)))
    assert len(result) == windows
    padded = np.pad(wave, (0, max(0, 100 - frames)))
    for k, got in enumerate(arrays(result)):
        np.testing.assert_array_equal(got["x"], padded[None, k * 100 : (k + 1) * 100])
    assert_positions(result)


def test_windows_are_called_by_their_start_and_whole_files_by_their_name(tmp_path: Path) -> None:
    record(tmp_path / "below" / "long.wav", noise(1000))
    record(tmp_path / "below" / "short.flac", noise(399))
    result = source(tmp_path, model_inputs(x=(400,)))
    assert names(result) == ["below/long.wav@0", "below/long.wav@0.05", "below/short.flac"]
    assert_positions(result)


@pytest.mark.parametrize(
    ("shape", "laid"),
    [((100,), (100,)), ((1, 100), (1, 100)), (("N", 100), (1, 100)), ((None, 1, 100), (1, 1, 100))],
    ids=str,
)
def test_the_window_is_the_last_axis(tmp_path: Path, shape: Sequence[Axis], laid: tuple[int, ...]) -> None:
    result = source(record(tmp_path / "a.wav", noise(100)), model_inputs(x=shape))
    assert arrays(result)[0]["x"].shape == laid


@pytest.mark.parametrize("shape", [("N", "T"), ("T",), None], ids=str)
def test_an_open_last_axis_takes_whole_files(tmp_path: Path, shape: Sequence[Axis] | None) -> None:
    record(tmp_path / "a.wav", noise(123))
    record(tmp_path / "b.wav", noise(77))
    result = source(tmp_path, model_inputs(x=shape))
    assert names(result) == ["a.wav", "b.wav"]
    assert [s["x"].size for s in arrays(result)] == [123, 77]
    assert_positions(result)


def test_a_shape_makes_windows_of_an_open_axis(tmp_path: Path) -> None:
    file = record(tmp_path / "a.wav", noise(100))
    assert len(source(file, model_inputs(x=("N", "T")), shape={"x": (1, 20)})) == 5


def test_recordings_over_ten_minutes_need_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "WHOLE_SECONDS", 1)
    file = record(tmp_path / "a.wav", noise(8001))
    error = refused(lambda: source(file, model_inputs(x=("N", "T"))))
    assert "a whole recording may have 1" in error.message
    assert "--shape x=1,16000" in error.hint


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_channels_are_averaged(tmp_path: Path, suffix: str) -> None:
    wave = noise(64, channels=2)
    result = source(record(tmp_path / f"a{suffix}", wave), model_inputs(x=(1, 64)))
    got = arrays(result)[0]["x"]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[0], wave.mean(axis=1), atol=1e-4)


def test_integers_become_floats_in_one(tmp_path: Path) -> None:
    file = record(tmp_path / "a.wav", np.array([-(2**15), 0, 2**14], np.int16), subtype="PCM_16")
    assert arrays(source(file, model_inputs(x=(3,))))[0]["x"].tolist() == [-1, 0, 0.5]


def test_a_model_of_half_precision_gets_it(tmp_path: Path) -> None:
    result = source(record(tmp_path / "a.wav", noise(4)), model_inputs("float16", x=(4,)))
    assert arrays(result)[0]["x"].dtype == np.float16


@pytest.mark.parametrize(("frames", "rate", "to"), [(8000, 8000, 16000), (44100, 44100, 16000), (9001, 11025, 8000), (300_000, 48000, 8000)])  # fmt: skip
def test_a_rate_resamples_as_soxr_does(tmp_path: Path, frames: int, rate: int, to: int) -> None:
    wave = noise(frames)
    result = source(record(tmp_path / "a.wav", wave, rate), model_inputs(x=(1, 500)), rate=to)
    complete = soxr.resample(wave, rate, to)
    assert len(result) == frames * to // rate // 500
    for k, got in enumerate(arrays(result)):
        wanted = complete[k * 500 : (k + 1) * 500]
        np.testing.assert_allclose(got["x"][0, : len(wanted)], wanted, atol=1e-6)
    assert names(result)[1] == f"a.wav@{500 / to:.6f}".rstrip("0")
    assert_positions(result)


def test_a_rate_resamples_whole_files(tmp_path: Path) -> None:
    wave = noise(200_000)
    result = source(record(tmp_path / "a.wav", wave, 16000), model_inputs(x=("N", "T")), rate=8000)
    np.testing.assert_allclose(arrays(result)[0]["x"][0], soxr.resample(wave, 16000, 8000), atol=1e-6)


def test_a_rate_that_the_files_have_changes_nothing(tmp_path: Path) -> None:
    file = record(tmp_path / "a.wav", noise(50))
    np.testing.assert_array_equal(
        arrays(source(file, model_inputs(x=(50,)), rate=8000))[0]["x"],
        arrays(source(file, model_inputs(x=(50,))))[0]["x"],
    )


def test_files_of_several_rates_want_one(tmp_path: Path) -> None:
    record(tmp_path / "a.wav", noise(50), 8000)
    record(tmp_path / "b.wav", noise(50), 16000)
    error = refused(lambda: source(tmp_path, model_inputs(x=(50,))))
    assert "b.wav has 16,000 samples a second, and a.wav 8,000" in error.message
    assert "--rate 8000" in error.hint
    assert len(source(tmp_path, model_inputs(x=(50,)), rate=8000)) == 2


def test_only_the_wanted_window_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = source(record(tmp_path / "a.wav", noise(100_000)), model_inputs(x=(10,)))
    read: list[int] = []
    complete = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile, "read", lambda self, n, **k: read.append(n) or complete(self, n, **k)
    )
    arrays(result, {9_999})
    assert read == [10]


PORTS: dict[str, tuple[dict[str, ModelInput], str]] = {
    "integers": (model_inputs("int64", x=(1, 100)), "no input takes a waveform"),
    "images": (model_inputs(x=(1, 3, 8, 8)), "no input takes a waveform"),
    "spectra": (model_inputs(x=(1, 80, "T")), "no input takes a waveform"),
    "a scalar": (model_inputs(x=()), "no input takes a waveform"),
    "none": ({}, "no input takes a waveform"),
    "two": (model_inputs(x=(1, 100), y=(1, 100)), "2 inputs take a waveform"),
}


@pytest.mark.parametrize("what", PORTS)
def test_a_model_without_one_input_for_a_waveform_is_refused(tmp_path: Path, what: str) -> None:
    wanted, message = PORTS[what]
    record(tmp_path / "a.wav", noise(100))
    assert message in misused(lambda: source(tmp_path, wanted)).message


def test_inputs_that_are_filled_or_no_waves_do_not_count(tmp_path: Path) -> None:
    record(tmp_path / "a.wav", noise(100))
    wanted = model_inputs(x=(1, 100), y=(1, 100), state=(2, "N", 128)) | model_inputs("int64", sr=())
    (got,) = arrays(source(tmp_path, wanted, fill={"y": 0, "state": 0, "sr": 8000}))
    assert {n: a.shape for n, a in got.items()} == {
        "x": (1, 100),
        "y": (1, 100),
        "state": (2, 1, 128),
        "sr": (),
    }


def truncated(folder: Path, suffix: str) -> bytes:
    complete = record(folder / "other" / f"x{suffix}", noise(5000)).read_bytes()
    return complete[: len(complete) // 2]


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
@pytest.mark.parametrize(
    "content", [b"", b"just text", b"RIFF\xff\xff\xff\xffWAVEfmt ", b"fLaC" + bytes(50), b"OggS" + bytes(50)]
)
def test_files_that_are_not_recordings_are_named(tmp_path: Path, suffix: str, content: bytes) -> None:
    write(tmp_path / f"a{suffix}", content)
    error = refused(lambda: arrays(source(tmp_path, model_inputs(x=(100,)))))
    assert f"a{suffix}" in error.message
    assert "<_io" not in error.message


def test_a_truncated_flac_is_refused(tmp_path: Path) -> None:
    content = truncated(tmp_path, ".flac")
    write(tmp_path / "calib" / "a.flac", content)
    error = refused(lambda: arrays(source(tmp_path / "calib", model_inputs(x=(100,)))))
    assert "a.flac" in error.message


def test_a_truncated_wav_is_read_to_its_end(tmp_path: Path) -> None:
    content = truncated(tmp_path, ".wav")
    result = source(write(tmp_path / "calib" / "a.wav", content), model_inputs(x=(100,)))
    assert 0 < len(arrays(result)) == len(result) < 50


def test_nan_in_a_recording_is_found_by_the_sample_check(tmp_path: Path) -> None:
    wave = noise(10)
    wave[3] = np.nan
    result = source(record(tmp_path / "a.wav", wave), model_inputs(x=(10,)))
    assert np.isnan(arrays(result)[0]["x"][3])


def test_a_file_that_changes_is_refused(tmp_path: Path) -> None:
    file = record(tmp_path / "a.wav", noise(100))
    result = source(file, model_inputs(x=(10,)))
    record(file, noise(200))
    assert "changed" in refused(lambda: arrays(result)).message
