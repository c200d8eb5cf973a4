"""The forward pass of a prepared model in torch, node by node, with gradients.

It equals onnxruntime's to float rounding. Ops without a row in operators.py run by onnx.reference, on values
that need no gradient: they compute shapes, labels and the like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from qtool.errors import ModelError
from qtool.graph.view import constant, op_key
from qtool.recover.finetune.operators import OPERATORS
from qtool.recover.finetune.windows import Attributes

Values = dict[str, Tensor]
"""The values of one batch, by name. Names are unique in a prepared model, inside an If as well."""
Read = Callable[[ir.Node, int, Values], "Tensor | None"]
"""Returns the tensor that a node reads at an input; None: the value itself."""


def _as_is(node: ir.Node, index: int, values: Values) -> Tensor | None:
    return None


class Forward:
    """A prepared model that torch runs.

    Args:
        model: prepared.
        device: where its constants and values are.
        dtype: of its floats; float64 only for checks of gradients.
    """

    def __init__(
        self, model: ir.Model, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.model = model
        self.nodes = list(model.graph)
        self.dtype, self.device = dtype, device
        self.constants: Values = {}
        for graph in model.graphs():
            for name, value in graph.initializers.items():
                if (array := constant(value)) is not None:
                    self.constants[name] = self.tensor(array)
        self._attributes: dict[str, Attributes] = {}
        self._references: dict[str, ReferenceEvaluator] = {}
        self._last = _last_uses(model)

    def tensor(self, array: NDArray[Any]) -> Tensor:
        """Return an array as a tensor of this model's device and float type.

        Raises:
            ModelError: torch has no such type.
        """
        try:
            tensor = torch.from_numpy(np.array(array))
        except TypeError as error:
            raise ModelError(f"fine-tuning has no values of type {array.dtype}") from error
        return tensor.to(self.device, self.dtype if tensor.dtype == torch.float32 else tensor.dtype)

    def outputs(self, inputs: Mapping[str, NDArray[Any]], read: Read = _as_is) -> list[Tensor]:
        """Return the outputs of the model, in its order."""
        values = {name: self.tensor(array) for name, array in inputs.items()}
        self.run(values, read)
        return [self.value(v, values) for v in self.model.graph.outputs]

    def value(self, value: ir.Value, values: Values) -> Tensor:
        """Return a value or constant.

        Raises:
            KeyError: it is neither.
        """
        name = value.name or ""
        return values[name] if name in values else self.constants[name]

    def run(
        self,
        values: Values,
        read: Read = _as_is,
        start: int = 0,
        stop: int | None = None,
        *,
        keep: frozenset[str] | None = frozenset(),
    ) -> None:
        """Run some nodes of the main graph, and put their results among the values.

        Args:
            values: the inputs of those nodes; changed in place.
            read: replaces the inputs of nodes.
            start, stop: positions of the nodes.
            keep: values that stay, beside outputs of the model, after their last use; None: all.

        Raises:
            ModelError: an op, or a form of it, has no gradient.
        """
        stop = len(self.nodes) if stop is None else stop
        for position in range(start, stop):
            self._step(self.nodes[position], values, read)
            for name in self._last.get(position, ()) if keep is not None else ():
                if keep is not None and name not in keep:
                    values.pop(name, None)

    def _step(self, node: ir.Node, values: Values, read: Read) -> None:
        if node.op_type == "If":
            self._branch(node, values, read)
            return
        inputs: list[Tensor | None] = []
        for index, value in enumerate(node.inputs):
            if value is None:
                inputs.append(None)
                continue
            replaced = read(node, index, values)
            inputs.append(self.value(value, values) if replaced is None else replaced)
        key = op_key(node)
        try:
            if key in OPERATORS:
                result = OPERATORS[key](self._attributes_of(node), *inputs)
            else:
                result = self._reference(node, inputs)
        except (RuntimeError, LookupError, ValueError, TypeError) as error:  # torch's, of forms that it lacks
            reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
            raise ModelError(f"fine-tuning can't run {key} '{node.name}': {reason}") from error
        results = (result,) if isinstance(result, Tensor) else result
        for value, tensor in zip(node.outputs, results, strict=False):
            if value.name:
                values[value.name] = tensor

    def _branch(self, node: ir.Node, values: Values, read: Read) -> None:
        condition = node.inputs[0]
        taken = condition is not None and bool(self.value(condition, values))
        graph = node.attributes["then_branch" if taken else "else_branch"].as_graph()
        for inner in graph:
            self._step(inner, values, read)
        for value, result in zip(node.outputs, graph.outputs, strict=True):
            values[value.name or ""] = self.value(result, values)

    def _attributes_of(self, node: ir.Node) -> Attributes:
        name = node.name or ""
        if name not in self._attributes:
            own = {attribute.name: attribute.value for attribute in node.attributes.values()}
            opset = self.model.opset_imports.get(node.domain, 1)
            self._attributes[name] = {
                **own,
                "opset": opset,
                "outputs": len(node.outputs),
                "float": self.dtype,
            }
        return self._attributes[name]

    def _reference(self, node: ir.Node, inputs: list[Tensor | None]) -> tuple[Tensor, ...]:
        """Run an op by onnx.reference.

        Raises:
            ValueError: a gradient is needed.
        """
        if any(x is not None and x.requires_grad for x in inputs):
            raise ValueError("it has no gradient here")
        name = node.name or ""
        if name not in self._references:
            opsets = [onnx.helper.make_opsetid(d, v) for d, v in self.model.opset_imports.items()]
            self._references[name] = ReferenceEvaluator(_alone(node, opsets))
        arrays = {f"i{i}": x.cpu().numpy() for i, x in enumerate(inputs) if x is not None}
        results = self._references[name].run(None, arrays)
        return tuple(self.tensor(np.asarray(array)) for array in results)


def _alone(node: ir.Node, opsets: list[onnx.OperatorSetIdProto]) -> onnx.ModelProto:
    """A model of one node."""
    proto = ir.to_proto(node)
    del proto.input[:], proto.output[:]
    proto.input.extend("" if value is None else f"i{i}" for i, value in enumerate(node.inputs))
    proto.output.extend(f"o{i}" for i in range(len(node.outputs)))
    inputs, outputs = (
        [onnx.helper.make_empty_tensor_value_info(name) for name in names if name]
        for names in (proto.input, proto.output)
    )
    graph = onnx.helper.make_graph([proto], "one", inputs, outputs)
    return onnx.helper.make_model(graph, opset_imports=opsets)


def _last_uses(model: ir.Model) -> dict[int, list[str]]:
    """Position of a node of the main graph -> the values that no later node reads, outputs excepted."""
    last: dict[str, int] = {}
    outputs = {v.name for v in model.graph.outputs}
    for position, node in enumerate(model.graph):
        for value in (*node.inputs, *node.outputs, *_captured(node)):
            if value is not None and value.name and value.name not in outputs:
                last[value.name] = position
    after: dict[int, list[str]] = {}
    for name, position in last.items():
        after.setdefault(position, []).append(name)
    return after


def _captured(node: ir.Node) -> list[ir.Value]:
    """The values that the branches of a node read."""
    return [
        value
        for attribute in node.attributes.values()
        if attribute.type == ir.AttributeType.GRAPH
        for inner in attribute.as_graph().all_nodes()
        for value in inner.inputs
        if value is not None
    ]
