"""A model with integer inputs and outputs, run in floats as its metadata describes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qtool.data.fit import Input, fit
from qtool.data.samples import Arrays
from qtool.data.samples import Sample as NamedSample
from qtool.errors import ModelError
from qtool.numerics.qparams import QParams
from qtool.numerics.quantize import dequantize, quantize
from qtool.plan.prepared import PreparedModel
from qtool.rewrite.integer_io import METADATA_KEY
from qtool.runtime.session import Feeds, Model, Sample, Session
from qtool.tables.qtypes import QTYPES, QType


@dataclass(frozen=True)
class InputInfo:
    """Shape and type of an input, as the runtime describes one."""

    shape: list[int | str | None]
    type: str = "tensor(float)"


class FloatSession:
    """A session of a model with integer inputs or outputs that takes and returns floats.

    Args:
        session: of the model.
        integers: input or output -> its type and scale; (integer - zero point) * scale is the float. The type
            is used to its limits: int8 includes -128.
    """

    def __init__(self, session: Session, integers: dict[str, tuple[QType, QParams]]) -> None:
        self._session = session
        self._integers = integers
        self.name = session.name
        self.outputs, self.output_shapes = session.outputs, session.output_shapes
        self.inputs: dict[str, Input] = {
            k: InputInfo(v.shape) if k in integers else v for k, v in session.inputs.items()
        }
        self.input_dtypes = {k: "float32" if k in integers else v for k, v in session.input_dtypes.items()}

    def quantized(self, inputs: Sample) -> Arrays:
        """Return the inputs of the model itself: integers in place of floats."""
        integers = {
            k: quantize(v, *self._integers[k][::-1]) for k, v in inputs.items() if k in self._integers
        }
        return inputs | integers if isinstance(inputs, Feeds) else {**inputs, **integers}

    def run(self, sample: Sample, outputs: Sequence[str] | None = None) -> list[Any]:
        """Return the named outputs (all of them when None) as floats."""
        names = self.outputs if outputs is None else list(outputs)
        arrays = self._session.run(self.quantized(sample), names)
        return [
            dequantize(v, self._integers[n][1]) if n in self._integers else v
            for n, v in zip(names, arrays, strict=True)
        ]


def with_float_io(session: Session) -> Model:
    """Return the session, or a FloatSession where its metadata names integer inputs or outputs.

    Raises:
        ModelError: the metadata is damaged or does not fit the model.
    """
    text = session.metadata.get(METADATA_KEY, "")
    if not text:
        return session
    try:
        integers = {name: _quantization(row) for name, row in json.loads(text).items()}
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise ModelError(f"{session.name}: its metadata '{METADATA_KEY}' can't be read") from error
    if not integers.keys() <= session.inputs.keys() | set(session.outputs):
        raise ModelError(
            f"{session.name}: its metadata '{METADATA_KEY}' names an input or output that it lacks"
        )
    return FloatSession(session, integers)


def session_inputs(session: Session, samples: Iterable[NamedSample], source: str) -> list[Arrays]:
    """Return the arrays with which a session is run on samples, for timing it without conversions.

    Args:
        session: of a model with float or integer inputs.
        samples: of floats.
        source: the name of their source, for errors.

    Raises:
        DataError: a sample does not fit the model.
        ModelError: its metadata is damaged.
    """
    model = with_float_io(session)
    inputs = [fit(sample, model.inputs, model.input_dtypes, source) for sample in samples]
    return [model.quantized(i) for i in inputs] if isinstance(model, FloatSession) else inputs


def _quantization(row: dict[str, Any]) -> tuple[QType, QParams]:
    with np.errstate(over="ignore"):
        scale = np.asarray(row["scale"], np.float32)
    zero_point = np.asarray(row["zero_point"], np.int64)
    if scale.shape != () or zero_point.shape != () or not 0 < scale < np.inf:
        raise ValueError("a scale that is not one positive number")
    qtype = QTYPES[row["type"]]
    limits = np.iinfo(qtype.dtype)  # ValueError for a float type
    if not limits.min <= zero_point <= limits.max:
        raise ValueError("a zero point beyond the type")
    full = QType(qtype.name, qtype.dtype, qtype.bits, int(limits.min), int(limits.max))
    return full, QParams(scale, zero_point)


def open_original(model: PreparedModel) -> Model:
    """Return the source model as the reference of all candidates.

    One that came quantized runs in floats between its Q and DQ: its integer kernels would saturate on a CPU
    without VNNI.
    """
    session = Session(
        model.source.loadable,
        threads=model.threads,
        name=model.source.name,
        optimize=not model.task.grids,
    )
    return with_float_io(session)
