"""Sensitivity: the error at the outputs when one tensor alone is quantized, for every tensor, in one session.

The errors of tensors are close to uncorrelated, so their powers add up: the error of any choice of tensors is
predicted by a sum (plan/predict.py). One inference for each tensor and sample suffices for all choices.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.data.fit import fit
from qtool.data.samples import Arrays, Samples, evenly
from qtool.evaluate.rows import Rows, matches, row_outputs
from qtool.graph.save import model_for_session
from qtool.plan.fp16.ports import is_float32
from qtool.plan.model import WEIGHTS, Plan, Site
from qtool.plan.predict import TensorNoise, key_of, keys_of
from qtool.plan.resolve import dequantized
from qtool.rewrite.simulate.switched import switched
from qtool.runtime.heartbeat import StepProgress, beat, no_progress
from qtool.runtime.session import Session, running

# The power of an error is a sum over all elements of an output: more samples change it by tenths of a dB.
SAMPLES = 8
_FEWEST = 2
# Inferences at most; with many tensors fewer samples are run.
_PASSES = 1600


def sensitivity(
    model: ir.Model,
    plans: Sequence[Plan],
    source: Samples,
    threads: int = 0,
    progress: StepProgress = no_progress,
    keys: Collection[str] | None = None,
    most: int = SAMPLES,
) -> TensorNoise:
    """Return the error of each tensor that resolved plans quantize, quantized alone.

    Args:
        model: prepared.
        plans: plans of that model; where several quantize a tensor in the same way, the first one's scales
            count.
        source: the select set.
        threads: of the runtime.
        progress: called with the tensors done and the tensors in all.
        keys: the tensors to measure, as plan/predict.py names them; None: all.
        most: samples to run; with many tensors fewer are run.

    Raises:
        DataError: a sample does not fit.
        RuntimeFailure: the model fails on a sample.
    """
    joined = _joined(plans)
    switches = switched(model, joined)
    # Of several sites with one key the first.
    weights = {key_of(s): s for s in reversed(joined.sites) if s.kind in WEIGHTS}
    # Values inside an If or Loop have no switch.
    able = [key for key in keys_of(joined) if key in switches.switches or key in weights]
    measured = [key for key in able if keys is None or key in keys]
    outputs = [v.name or "" for v in model.graph.outputs if is_float32(v)]
    if not outputs:
        return TensorNoise((), np.zeros(0), {key: np.zeros(0) for key in measured}, 0, 0)
    rows = row_outputs(model)
    count = max(_FEWEST, min(most, _PASSES // max(len(measured), 1)))
    with model_for_session(switches.model) as loadable:
        session = Session(loadable, threads=threads, name="the model with switches")
        own = {i.name for i in model.graph.inputs}
        inputs = {n: i for n, i in session.inputs.items() if n in own}
        samples = [
            fit(sample, inputs, session.input_dtypes, source.name)
            for sample in source.read(evenly(len(source), count))
        ]
        float_inputs = {n: np.asarray(False) for n in switches.switches.values()} | switches.weights

        def run(sample: Arrays, extra: Arrays) -> list[NDArray[np.float64]]:
            arrays = session.run(sample | float_inputs | extra, outputs)
            return [np.asarray(a, np.float64) for a in arrays]

        noise: dict[str, NDArray[np.float64]] = {}
        with running(session):
            references = [run(sample, {}) for sample in samples]
            for done, key in enumerate(measured, start=1):
                if key in switches.switches:
                    extra: Arrays = {switches.switches[key]: np.asarray(True)}
                else:
                    site = weights[key]
                    extra = {site.value: dequantized(site, switches.weights[site.value])}
                powers = []
                for sample, reference in zip(samples, references, strict=True):
                    powers.append(_error_power(rows, outputs, reference, run(sample, extra)))
                    beat()
                noise[key] = np.sum(powers, axis=0)
                progress(done, len(measured))
    signal = np.sum([[np.square(a[np.isfinite(a)]).sum() for a in arrays] for arrays in references], axis=0)
    return TensorNoise(tuple(outputs), signal, noise, len(samples), (len(measured) + 1) * len(samples))


def _joined(plans: Sequence[Plan]) -> Plan:
    """A plan with the sites of all plans; of equal sites the first."""
    first, *others = plans
    sites: dict[str, Site] = {}
    for plan in plans:
        for site in plan.sites:
            sites.setdefault(f"{key_of(site)} {site.value} {site.kind}", site)
    return replace(first, sites=tuple(sites.values())) if others else first


def _error_power(
    rows: Mapping[str, Rows],
    names: Sequence[str],
    reference: Sequence[NDArray[np.float64]],
    actual: Sequence[NDArray[np.float64]],
) -> list[float]:
    """The sum of squares of each output's error: of its matching rows, where data decides their number.

    Where shapes differ otherwise, that of the reference.
    """
    powers = []
    matched = matches(rows, names, reference, actual)
    for name, a, b in zip(names, reference, actual, strict=True):
        if name in matched:
            a, b = matched[name].take(a, b)
        with np.errstate(invalid="ignore"):  # infinities of both
            d = a - b if a.shape == b.shape else a
        powers.append(float(np.square(d[np.isfinite(d)]).sum()))
    return powers
