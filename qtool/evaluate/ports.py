"""A model that takes and gives integers, met by one that knows floats only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qtool.data.fit import Input
from qtool.data.samples import Arrays
from qtool.errors import ModelError
from qtool.numerics.qparams import QParams
from qtool.numerics.quantize import dequantize, quantize
from qtool.runtime.session import Model, Sample, Session
from qtool.tables.metadata import PORTS
from qtool.tables.qtypes import QTYPES, QType


@dataclass(frozen=True)
class Port:
    """One integer input or output: (integer - zero_point) * scale is the float."""

    qtype: QType
    params: QParams


@dataclass(frozen=True)
class FloatInput:
    """What the runtime says of an input, but for its type."""

    shape: list[int | str | None]
    type: str = "tensor(float)"


class FloatPorts:
    """A session of a full-integer model, fed and read in floats by its own metadata (rewrite/ports.py)."""

    def __init__(self, session: Session, ports: dict[str, Port]) -> None:
        self.session = session
        self.ports = ports
        self.name = session.name
        self.outputs, self.output_shapes = session.outputs, session.output_shapes
        self.inputs: dict[str, Input] = {
            k: FloatInput(v.shape) if k in ports else v for k, v in session.inputs.items()
        }
        self.input_dtypes = {k: "float32" if k in ports else v for k, v in session.input_dtypes.items()}

    def feed(self, sample: Sample) -> Arrays:
        """The sample with integers for the floats of the ports."""
        return {k: _to_integers(v, self.ports[k]) if k in self.ports else v for k, v in sample.items()}

    def run(self, sample: Sample, outputs: Sequence[str] | None = None) -> list[Any]:
        """The named outputs, in floats."""
        names = self.outputs if outputs is None else list(outputs)
        found = self.session.run(self.feed(sample), names)
        return [
            dequantize(v, self.ports[n].params) if n in self.ports else v
            for n, v in zip(names, found, strict=True)
        ]


def in_floats(session: Session) -> Model:
    """The session itself, or in front of a full-integer model one that speaks floats.

    Raises:
        ModelError: metadata that says what is not so.
    """
    text = session.metadata.get(PORTS, "")
    if not text:
        return session
    try:
        ports = {name: _port(row) for name, row in json.loads(text).items()}
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise ModelError(f"{session.name}: its metadata '{PORTS}' can't be read") from error
    if not ports.keys() <= session.inputs.keys() | set(session.outputs):
        raise ModelError(f"{session.name}: its metadata '{PORTS}' names what it does not have")
    return FloatPorts(session, ports)


def feed(model: Model, sample: Sample) -> Arrays:
    """What the session behind a model is fed for a sample."""
    return model.feed(sample) if isinstance(model, FloatPorts) else dict(sample)


def bare(model: Model) -> Session:
    """The session behind a model."""
    if isinstance(model, FloatPorts):
        return model.session
    if not isinstance(model, Session):
        raise TypeError(f"no session behind {type(model).__name__}")
    return model


def _port(row: dict[str, Any]) -> Port:
    with np.errstate(over="ignore"):
        scale = np.asarray(row["scale"], np.float32)
    zero_point = np.asarray(row["zero_point"], np.int64)
    if scale.shape != () or zero_point.shape != () or not 0 < scale < np.inf:
        raise ValueError("a scale that is not one positive number")
    qtype = QTYPES[row["type"]]
    limits = np.iinfo(qtype.dtype)  # a float type has none: ValueError
    if not limits.min <= zero_point <= limits.max:
        raise ValueError("a zero point that is not of the type")
    return Port(qtype, QParams(scale, zero_point))


def _to_integers(x: np.ndarray, port: Port) -> np.ndarray:
    limits = np.iinfo(port.qtype.dtype)  # a port uses all of its type
    full = QType(port.qtype.name, port.qtype.dtype, port.qtype.bits, int(limits.min), int(limits.max))
    return quantize(x, port.params, full)
