"""How wrong each tensor alone makes the outputs when it is quantized: one session, a pass a tensor.

The errors of tensors are close to uncorrelated, so their powers add up: what any choice of tensors comes
to is predicted by a sum (plan/predict.py), and one inference a tensor and sample judges more choices than
could ever be built.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.data.fit import fit
from qtool.data.samples import Samples, evenly
from qtool.graph.save import model_for_session
from qtool.plan.fp16.ports import is_float32
from qtool.plan.model import WEIGHTS, Plan, Site
from qtool.plan.predict import Errors, key_of, keys_of
from qtool.plan.resolve import restored
from qtool.rewrite.switched import Switched, switched
from qtool.runtime.heartbeat import beat
from qtool.runtime.session import Session, running

# The power of an error is a sum over all elements of an output: more samples change it by tenths of a dB.
SAMPLES = 8
_FEWEST = 2
# Inferences, where there are many tensors.
_PASSES = 1600

Progress = Callable[[int, int], None]


def sensitivity(
    model: ir.Model,
    plans: Sequence[Plan],
    source: Samples,
    threads: int = 0,
    progress: Progress = lambda done, total: None,
    only: Collection[str] | None = None,
    most: int = SAMPLES,
) -> Errors:
    """The errors of everything that resolved plans quantize, each alone.

    It takes an inference a tensor and sample; of a model of many tensors fewer samples are taken.

    Args:
        model: prepared.
        plans: that differ in what they quantize, or to what; their scales are those of the first to name one.
        source: the select set; `most` samples of it are run, fewer for many tensors.
        threads: of the runtime.
        progress: called with how many passes of how many are done.
        only: what to measure; None: everything.
        most: samples that are taken, where there are few tensors.

    Raises:
        DataError: samples that do not fit.
        RuntimeFailure: the model fails on one.
    """
    whole = _joined(plans)
    chosen = switched(model, whole)
    # Of several sites with one key the first.
    fed = {key_of(s): s for s in reversed(whole.sites) if s.kind in WEIGHTS}
    # What is made inside an If or Loop can't be switched from outside.
    keys = [key for key in keys_of(whole) if key in chosen.switches or key in fed]
    keys = keys if only is None else [key for key in keys if key in only]
    wanted = [v.name or "" for v in model.graph.outputs if is_float32(v)]
    if not wanted:  # asked for none, the runtime gives all
        return Errors((), np.zeros(0), {key: np.zeros(0) for key in keys}, 0, 0)
    count = max(_FEWEST, min(most, _PASSES // max(len(keys), 1)))
    with _session(chosen, threads) as session:
        own = {i.name for i in model.graph.inputs}
        inputs = {n: i for n, i in session.inputs.items() if n in own}
        samples = [
            fit(sample, inputs, session.input_dtypes, source.name)
            for sample in source.read(evenly(len(source), count))
        ]
        off = {name: np.asarray(False) for name in chosen.switches.values()}
        rest: dict[str, NDArray[Any]] = off | chosen.weights
        before = [_floats(session.run(sample | rest, wanted)) for sample in samples]
        noise: dict[str, NDArray[np.float64]] = {}
        for done, key in enumerate(keys, start=1):
            on = rest | _switched_on(chosen, fed, key)
            powers = []
            for sample, outputs in zip(samples, before, strict=True):
                powers.append(_power(outputs, _floats(session.run(sample | on, wanted))))
                beat()
            noise[key] = np.sum(powers, axis=0)
            progress(done, len(keys))
    signal = np.sum([[np.square(a[np.isfinite(a)]).sum() for a in arrays] for arrays in before], axis=0)
    return Errors(tuple(wanted), signal, noise, len(samples), (len(keys) + 1) * len(samples))


@contextmanager
def _session(chosen: Switched, threads: int) -> Iterator[Session]:
    with model_for_session(chosen.model) as loadable:
        session = Session(loadable, threads=threads, name="the model with switches")
        with running(session):
            yield session


def _joined(plans: Sequence[Plan]) -> Plan:
    """All that any of the plans quantizes, as one: the first to quantize something says how."""
    first, *others = plans
    sites: dict[str, Site] = {}
    for plan in plans:
        for site in plan.sites:
            sites.setdefault(f"{key_of(site)} {site.value} {site.kind}", site)
    return replace(first, sites=tuple(sites.values())) if others else first


def _switched_on(chosen: Switched, fed: Mapping[str, Site], key: str) -> dict[str, NDArray[Any]]:
    """What to feed so that one thing is quantized."""
    if key in chosen.switches:
        return {chosen.switches[key]: np.asarray(True)}
    site = fed[key]
    return {site.value: restored(site, chosen.weights[site.value])}


def _floats(arrays: Sequence[Any]) -> list[NDArray[np.float64]]:
    return [np.asarray(a, np.float64) for a in arrays]


def _power(before: Sequence[NDArray[np.float64]], after: Sequence[NDArray[np.float64]]) -> list[float]:
    """The sum of squares of each output's error; all of it is error where the shape is another one."""
    found = []
    for a, b in zip(before, after, strict=True):
        with np.errstate(invalid="ignore"):  # infinities of both
            d = a - b if a.shape == b.shape else a
        found.append(float(np.square(d[np.isfinite(d)]).sum()))
    return found
