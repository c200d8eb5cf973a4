"""The samples on which two models differ most: the worst first, as an image, a signal or a text."""

from __future__ import annotations

import base64

import numpy as np

from qtool.data.samples import Sample
from qtool.evaluate.worst_samples import WorstSample, WorstSamples

ONES = np.ones(4, np.float32)


def worst(*pairs: tuple[Sample, float]) -> tuple[WorstSample, ...]:
    """Of samples whose output is wrong by a share of it."""
    collected = WorstSamples(["y"])
    for sample, error in pairs:
        collected.add(sample, sample.inputs, [ONES], [ONES * np.float32(1 + error)])
    return collected.samples


def test_the_four_worst_come_first() -> None:
    errors = {"a": 0.1, "b": 0.001, "c": 0.01, "d": 1.0, "e": 0.5, "exact": 0.0}
    samples = worst(*((Sample(name, {}), error) for name, error in errors.items()))
    assert [s.name for s in samples] == ["d", "e", "a", "c"]
    assert round(samples[0].sqnr) == 0


def test_what_a_sample_is_can_be_shown() -> None:
    image = np.linspace(-1, 1, 3 * 130 * 65).reshape(1, 3, 130, 65).astype(np.float32)
    shown = worst(
        (Sample("image", {"ids": np.ones((1, 4), np.int64), "x": image}), 0.4),
        (Sample("signal", {"x": np.linspace(0, 1, 1000, dtype=np.float32)[None]}), 0.3),
        (Sample("text", {"ids": np.ones((1, 99), np.int64)}, "some words"), 0.2),
        (Sample("table", {"x": np.ones((1, 4), np.float32)}), 0.1),
    )
    assert [s.name for s in shown] == ["image", "signal", "text", "table"]
    pixels = np.frombuffer(base64.b64decode(shown[0].pixels), np.uint8).reshape(shown[0].shape)
    assert pixels.shape == (44, 22, 3)
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert len(shown[1].signal) == 250
    assert shown[2].text == "some words" and not shown[2].signal
    assert shown[3] == WorstSample("table", "y", shown[3].sqnr)
