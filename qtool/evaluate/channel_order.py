"""A doubt about samples: FP32 is surer of its decisions where their colours are reversed (RGB, BGR)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtool.data.fit import fit
from qtool.data.image_input import Frame, frame_of
from qtool.data.model_inputs import ModelInput
from qtool.data.samples import Samples, synthetic
from qtool.errors import printable
from qtool.evaluate.scored import Scored
from qtool.runtime.session import Model, running

# 64 samples of three trained models (2026-11-30) are surer in the right order by 2.6 to 8 standard errors,
# 16 samples by 1.2 to 5.
_LEAST, _MOST = 16, 64
_RIGHT, _WRONG = 1.0, -3.0
_FLOOR = 1e-3  # nats: below it, a decision is as sure as can be


def reversed_channels(fp32: Model, samples: Samples, scored: Mapping[str, Scored]) -> str:
    """Return the doubt, by at most 64 samples; '' where there is none, or no colours, or no scores.

    A model that was trained on one order is less sure in the other: its entropy is higher, sample by sample.
    Samples in the right order end the trial after 16.

    Args:
        fp32: the model.
        samples: as it gets them.
        scored: output -> how argmax scores it; the only output of [N, classes] counts without.
    """
    frame, axes = _colours(fp32), _axes(fp32, scored)
    if frame is None or not axes or synthetic(samples) or len(samples) < _LEAST:
        return ""
    gains, entropies = [], []
    for sample in samples.read({*range(min(len(samples), _MOST))}):
        inputs = fit(sample, fp32.inputs, fp32.input_dtypes, samples.name)
        reverse = np.ascontiguousarray(np.flip(inputs[frame.name], frame.axis))
        with running(fp32):
            runs = [fp32.run(fed, [*axes]) for fed in (inputs, {**inputs, frame.name: reverse})]
        pair = [_entropy(outputs, [*axes.values()]) for outputs in runs]
        entropies.append(pair)
        gains.append(math.log(pair[1] + _FLOOR) - math.log(pair[0] + _FLOOR))
        if len(gains) >= _LEAST and _errors(gains) > _RIGHT:
            return ""
    if not _errors(gains) < _WRONG:
        return ""
    straight, reverse_mean = np.mean(entropies, axis=0)
    return (
        f"input '{printable(frame.name)}': FP32 is surer of these samples with their channels reversed "
        f"(entropy {reverse_mean:.3g} instead of {straight:.3g} on {len(gains)}): are they BGR where the "
        "model takes RGB?"
    )


def _colours(model: Model) -> Frame | None:
    """The input for images of three channels; None where there is none, or several."""
    frames = [
        frame_of(ModelInput(name, tuple(spec.shape), model.input_dtypes[name] or ""))
        for name, spec in model.inputs.items()
    ]
    coloured = [frame for frame in frames if frame is not None and frame.channels == 3]
    return coloured[0] if len(coloured) == 1 and coloured[0].dtype.startswith("float") else None


def _axes(model: Model, scored: Mapping[str, Scored]) -> dict[str, int]:
    """Output -> the axis of its classes."""
    axes = {name: row.axis for name, row in scored.items() if row.axis is not None and name in model.outputs}
    if not axes and len(model.outputs) == 1 and len(model.output_shapes[model.outputs[0]]) == 2:
        axes = {model.outputs[0]: -1}
    return axes


def _entropy(outputs: Sequence[Any], axes: Sequence[int]) -> float:
    """The mean entropy in nats of what the outputs decide; scores that are no probabilities are logits."""
    means = []
    for output, axis in zip(outputs, axes, strict=True):
        scores = np.moveaxis(np.asarray(output, np.float64), axis, -1)
        shares = scores
        if scores.min(initial=0) < 0 or not np.allclose(scores.sum(-1), 1, atol=1e-3):
            shares = np.exp(scores - scores.max(-1, keepdims=True, initial=-math.inf))
            shares = shares / shares.sum(-1, keepdims=True)
        means.append(-(shares * np.log(np.maximum(shares, 1e-30))).sum(-1).mean())
    return float(np.mean(means))


def _errors(gains: Sequence[float]) -> float:
    """The mean in standard errors."""
    values: NDArray[np.float64] = np.array(gains)
    spread = values.std(ddof=1)
    return float(values.mean() / spread * math.sqrt(len(values))) if spread > 0 else 0.0
