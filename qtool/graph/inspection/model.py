"""The results of inspecting a model and of comparing two: plain data."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

# Values of `computes` that are no number format.
CONVERT = "convert"  # QuantizeLinear, DequantizeLinear, Cast: from one format to another
CONSTANT = "constant"  # depends on no input: the runtime computes it once, at load
OTHER = "other"  # indices, shapes, booleans, strings, control flow
NO_FORMAT = (CONVERT, CONSTANT, OTHER)

# The prefix of qtool's own metadata keys.
RECIPE = "qtool."
# A weight of at most this number of bits is quantized.
QUANTIZED_BITS = 8

# The width in the name of a format: 'float8e4m3fn' has 8 bits.
_WIDTH = re.compile(r"\D*(\d+)")

T = TypeVar("T")
Change = tuple[T | None, T | None]
"""Before and after; None where there is no such thing."""


def format_order(kind: str) -> tuple[int, int, str]:
    """Return the sort key of what nodes compute in: number formats by width, then the others."""
    if kind in NO_FORMAT:
        return 1, NO_FORMAT.index(kind), kind
    width = _WIDTH.match(kind)
    return 0, int(width.group(1)) if width else 0, kind


@dataclass(frozen=True)
class GraphValue:
    """An input or an output of a model.

    Args:
        dtype: such as 'float32', or 'sequence(float32)'.
        shape: int, symbolic name, or None for an axis of unknown size; None for unknown rank.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class OpCount:
    """The nodes of one op type.

    Args:
        nodes: the number of nodes.
        computes: what they compute in -> number of nodes: 'int8', 'float32', .., or one of NO_FORMAT.
        stored: the number of nodes that compute in floats on a weight stored in fewer bits.
    """

    nodes: int
    computes: dict[str, int] = field(default_factory=dict)
    stored: int = 0


@dataclass(frozen=True)
class Tensors:
    """Constant tensors of one type.

    Args:
        bits: of an element; 0 for strings, which have no fixed width.
        tensors: the number of tensors.
        elements: the number of elements, unpacked.
        bytes: their size.
    """

    bits: int
    tensors: int = 0
    elements: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Missing:
    """A value of a QDQ model without a QuantizeLinear and a DequantizeLinear.

    Args:
        value: its name.
        made_by: op and name of its producer; '' for a constant or an input.
        read_by: ops and names of its consumers that have an int8 form.
    """

    value: str
    made_by: str
    read_by: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """The contents of a model.

    Args:
        path: the file, or 'model' for one in memory.
        bytes: on disk, external data included.
        sha256: of the file and its external data.
        producer: name and version, as the file has them.
        opsets: domain -> version; '' is the standard domain.
        inputs: those that must be fed: no initializers that are listed as inputs too.
        ops: op type, with its domain if that is not the standard one -> its nodes. Those in nested graphs and
            called functions are included, once each.
        graphs: nested graphs, of If, Loop and Scan.
        functions: model-local functions.
        weights: type -> the tensors that nodes read as weights (see weights.py).
        constants: type -> all other constant tensors: scales, zero points, shapes, single numbers.
        forms: the ways in which it is quantized: 'qdq', 'qoperator', 'dynamic', 'weight-only', 'float16',
            'bfloat16', 'float8'.
        metadata: metadata_props.
        external: data files beside the model -> bytes.
        missing: the values of a QDQ model of another tool that lack a scale and keep nodes in float.
    """

    path: str
    bytes: int
    sha256: str
    ir_version: int
    producer: str
    opsets: dict[str, int]
    inputs: tuple[GraphValue, ...]
    outputs: tuple[GraphValue, ...]
    ops: dict[str, OpCount]
    graphs: int = 0
    functions: int = 0
    weights: dict[str, Tensors] = field(default_factory=dict)
    constants: dict[str, Tensors] = field(default_factory=dict)
    forms: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    external: dict[str, int] = field(default_factory=dict)
    missing: tuple[Missing, ...] = ()

    @property
    def nodes(self) -> int:
        """All nodes."""
        return sum(op.nodes for op in self.ops.values())

    @property
    def computes(self) -> dict[str, int]:
        """The number of nodes by what they compute in; number formats first, the narrowest first."""
        totals: dict[str, int] = {}
        for op in self.ops.values():
            for kind, count in op.computes.items():
                totals[kind] = totals.get(kind, 0) + count
        return dict(sorted(totals.items(), key=lambda item: format_order(item[0])))

    @property
    def stored(self) -> int:
        """Nodes that compute in floats on weights stored in fewer bits."""
        return sum(op.stored for op in self.ops.values())

    @property
    def parameters(self) -> int:
        """Elements of all weights."""
        return sum(w.elements for w in self.weights.values())

    @property
    def quantized_share(self) -> float:
        """The share of the parameters that is stored in at most 8 bits; 0 without parameters."""
        return self._share(lambda name, w: 0 < w.bits <= QUANTIZED_BITS)

    @property
    def half_share(self) -> float:
        """The share of the parameters that is stored in float16 or bfloat16; 0 without parameters."""
        return self._share(lambda name, w: name in ("float16", "bfloat16"))

    @property
    def recipe(self) -> dict[str, str]:
        """The recipe that qtool wrote into the metadata, without its prefix."""
        return {k.removeprefix(RECIPE): v for k, v in self.metadata.items() if k.startswith(RECIPE)}

    def _share(self, wanted: Callable[[str, Tensors], bool]) -> float:
        elements = sum(w.elements for name, w in self.weights.items() if wanted(name, w))
        return elements / self.parameters if elements else 0.0


@dataclass(frozen=True)
class TensorChange:
    """A constant tensor that both models have under one name.

    Args:
        before, after: type and shape, such as 'float32 [64, 3]'; equal when only the content differs.
    """

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Difference:
    """The differences between two models; empty fields where there is none.

    Args:
        opsets: domain -> versions.
        inputs, outputs: those added, removed, renamed (same place, type and shape), retyped or reshaped.
        ops: op type -> nodes, where the number changed.
        computes: what nodes compute in -> nodes, where the number changed.
        weights: type -> weights, where they changed.
        tensors: constant tensors of one name whose type, shape or content differs.
        same_tensors: the number of constant tensors with equal name and content.
        only_before, only_after: names of constant tensors that only one of them has.
        metadata: key -> values, where they changed.
    """

    before: Inspection
    after: Inspection
    opsets: dict[str, Change[int]] = field(default_factory=dict)
    inputs: tuple[Change[GraphValue], ...] = ()
    outputs: tuple[Change[GraphValue], ...] = ()
    ops: dict[str, tuple[int, int]] = field(default_factory=dict)
    computes: dict[str, tuple[int, int]] = field(default_factory=dict)
    weights: dict[str, Change[Tensors]] = field(default_factory=dict)
    tensors: tuple[TensorChange, ...] = ()
    same_tensors: int = 0
    only_before: tuple[str, ...] = ()
    only_after: tuple[str, ...] = ()
    metadata: dict[str, Change[str]] = field(default_factory=dict)

    @property
    def size_ratio(self) -> float:
        """Bytes after / bytes before."""
        return self.after.bytes / max(self.before.bytes, 1)

    @property
    def ops_added(self) -> tuple[str, ...]:
        """Op types that only the second model has."""
        return tuple(op for op, (before, _) in self.ops.items() if not before)

    @property
    def ops_removed(self) -> tuple[str, ...]:
        """Op types that only the first model has."""
        return tuple(op for op, (_, after) in self.ops.items() if not after)

    @property
    def identical(self) -> bool:
        """Whether they are the same files, byte for byte."""
        return self.before.sha256 == self.after.sha256
