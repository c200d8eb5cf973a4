"""The state and the helpers that the writers of all forms share."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.edit import Namer, add_initializer
from qtool.graph.view import View, float_constant, rank
from qtool.numerics.qparams import QParams
from qtool.plan.model import GraphEdit, Site, Use
from qtool.plan.resolve import integers_of, weight_params
from qtool.tables.qtypes import PerChannel
from qtool.tables.targets import Target

# Several constants of a weight are saved one after the other, and several weights at once.
_KEPT = 8


class RoundedWeights:
    """Integers and scales of weights. The last few stay in memory; threads may share it."""

    def __init__(self) -> None:
        self._kept: OrderedDict[object, tuple[NDArray[Any], QParams]] = OrderedDict()
        self._busy: dict[object, threading.Lock] = {}
        self._lock = threading.Lock()

    def of(self, site: Site, tensor: ir.TensorProtocol) -> tuple[NDArray[Any], QParams]:
        """Return the integers of a weight, in its shape, and its scales."""
        key = (site.value, site.spec)
        with self._lock:
            busy = self._busy.setdefault(key, threading.Lock())
        with busy:  # who comes second waits for the first
            rounded = self._kept.get(key)
            if rounded is None:
                weight = np.asarray(tensor.numpy(), np.float32)
                params = weight_params(site, weight)
                rounded = integers_of(replace(site, qparams=params), weight), params
                with self._lock:
                    self._kept[key] = rounded
                    while len(self._kept) > _KEPT:
                        self._kept.popitem(last=False)
            return rounded


@dataclass
class Writer:
    """The state of one rewrite.

    Args:
        view: of the clone that is edited.
        namer: free names in it.
        target: whose operators may be written.
        sites_of: the site that a node's input is read through.
        added: product -> the edit that gives it the bias of the Add behind it.
        quantizer_barriers: values whose QuantizeLinear stands behind a fusion barrier.
        initializers: those that the writers have added, by their source and their graph.
        rounded: the weights of sites.
        made: values that the writers have added and that others may read, by their source.
    """

    view: View
    namer: Namer
    target: Target
    sites_of: dict[Use, Site]
    added: Mapping[str, GraphEdit] = field(default_factory=dict)
    quantizer_barriers: frozenset[str] = frozenset()
    initializers: dict[tuple[Any, ...], ir.Value] = field(default_factory=dict)
    rounded: RoundedWeights = field(default_factory=RoundedWeights)
    made: dict[tuple[Any, ...], Sequence[ir.Value]] = field(default_factory=dict)

    @property
    def model(self) -> ir.Model:
        return self.view.model

    def use_contrib(self) -> None:
        """Declare onnxruntime's own operators."""
        self.model.opset_imports["com.microsoft"] = 1

    def once(self, key: tuple[Any, ...], graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
        """Return the initializer for a key; the first call for a key and a graph adds it."""
        key = (*key, id(graph))
        if key not in self.initializers:
            self.initializers[key] = add_initializer(graph, self.namer(name), array)
        return self.initializers[key]


def params(site: Site) -> QParams:
    """Return the scale and zero point of a resolved site.

    Raises:
        KeyError: the site is not resolved.
    """
    if site.qparams is None:
        raise KeyError(f"site '{site.value}' is not resolved")
    return site.qparams


def constants(writer: Writer, site: Site, graph: ir.Graph) -> tuple[ir.Value, ir.Value]:
    """Add the scale and zero_point of a site as initializers: rank 0 or [C]."""
    qparams = params(site)
    scale = add_initializer(graph, writer.namer(f"{site.value}_scale"), qparams.scale)
    zero = add_initializer(
        graph, writer.namer(f"{site.value}_zero_point"), qparams.zero_point.astype(site.spec.qtype.dtype)
    )
    return scale, zero


def axis(site: Site) -> dict[str, ir.Attr]:
    """Return the axis attribute of the DequantizeLinear of a site; none for a scale a tensor."""
    granularity = site.spec.granularity
    return {"axis": ir.AttrInt64("axis", granularity.axis)} if isinstance(granularity, PerChannel) else {}


def redirect(
    writer: Writer,
    uses: tuple[Use, ...] | None,
    old: ir.Value,
    new: ir.Value,
    keep: Iterable[ir.Node] = (),
) -> None:
    """Let consumers of a value read another.

    Args:
        uses: the consumers; None: all but the nodes in `keep`.
    """
    if uses is None:
        excepted = {id(node) for node in keep}
        for use in list(old.uses()):
            if id(use.node) not in excepted:
                use.node.replace_input_with(use.idx, new)
        return
    for name, index in uses:
        writer.view.node_by_name[name].replace_input_with(index, new)


def home(node: ir.Node) -> ir.Graph:
    """Return the graph of a node: onnxruntime packs a weight at load only if that graph holds it."""
    if not isinstance(node.graph, ir.Graph):
        raise KeyError(f"'{node.name}' is in no graph")
    return node.graph


def vector(writer: Writer, graph: ir.Graph, bias: ir.Value) -> ir.Value:
    """Return a constant bias [N] or [1, .., N] as [N], which onnxruntime's own operators need."""
    if rank(bias) == 1:
        return bias
    return writer.once(("vector", bias.name), graph, f"{bias.name}_vector", float_array(bias).reshape(-1))


def float_array(value: ir.Value) -> NDArray[np.float32]:
    """Return the array of a float constant.

    Raises:
        KeyError: the value is no float constant.
    """
    array = float_constant(value)
    if array is None:
        raise KeyError(f"'{value.name}' is no float constant")
    return array
