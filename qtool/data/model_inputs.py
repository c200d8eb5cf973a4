"""The inputs of a model: names, shapes and types that samples must have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from qtool.errors import UsageError, did_you_mean, printable

# Ops that hand the numbers of an input on as they are, and ops that change their range.
_PASSING = (
    "Cast",
    "Identity",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Slice",
    "Pad",
    "Resize",
)
_RESCALING = (
    "Div", "Mul", "Sub", "Add", "BatchNormalization", "InstanceNormalization", "LayerNormalization", "Scaler",
    "Normalizer", "MeanVarianceNormalization",
)  # fmt: skip

# Of the filter's norm, the median bias of a Conv: 0.13 to 0.58 in two trained networks whose
# BatchNormalizations are folded; 0.07 in one that has none, and as PyTorch initializes 16 channels
# of 3x3 (../shared/models, 2026-11-30).
_FOLDED, _LEAST_CONVS = 0.12, 4

Axis = int | str | None
ModelInputs = Mapping[str, "ModelInput"]


@dataclass(frozen=True)
class ModelInput:
    """One input of a model.

    Args:
        shape: an int for a fixed axis, a name or None for an open one; None: any rank.
        dtype: numpy's name of the type, 'str' for text; '' where numpy has no such type.
    """

    name: str
    shape: tuple[Axis, ...] | None
    dtype: str

    @property
    def floating(self) -> bool:
        """Whether the input takes floats."""
        return self.dtype.startswith("float")

    def __str__(self) -> str:
        axes = "of any shape"
        if self.shape is not None:
            axes = "[" + ", ".join("?" if axis is None else str(axis) for axis in self.shape) + "]"
        return f"{self.dtype or 'of a type numpy lacks'} {printable(axes, 80)}"


def inputs_of(model: ir.Model) -> dict[str, ModelInput]:
    """Return the inputs that a sample must have: those without an initializer."""
    graph = model.graph
    return {
        v.name or "": ModelInput(v.name or "", _axes(v.shape), _numpy_name(v.dtype))
        for v in graph.inputs
        if v.name not in graph.initializers
    }


def rescaled_inputs(model: ir.Model) -> set[str]:
    """Return the inputs that the model normalises by itself: arithmetic comes before any product."""
    return {
        value.name or ""
        for value in model.graph.inputs
        if any(node.op_type in _RESCALING for node in _first_consumers(value))
    }


def usual_magnitudes(model: ir.Model) -> dict[str, float]:
    """Return input -> its root mean square in training, by the BatchNormalization behind its first Conv.

    The variance of white noise after a Conv is that before it times the energy of a filter. Images are
    smooth, so the estimate is good to a factor of 5 or so. Where the BatchNormalization is folded into the
    Conv, the variance after it is about 1.
    """
    magnitudes, folded = {}, _has_folded_norms(model)
    for value in model.graph.inputs:
        for conv in _first_consumers(value):
            norms = [node for node, _ in conv.outputs[0].uses() if node.op_type == "BatchNormalization"]
            weight = conv.inputs[1].const_value if conv.op_type == "Conv" and conv.inputs[1] else None
            variance = norms[0].inputs[4].const_value if norms and norms[0].inputs[4] else None
            if weight is not None and (variance is not None or folded):
                filters = np.square(weight.numpy().astype(np.float64))
                energy = filters.sum() / max(len(filters), 1)
                if energy > 0:
                    spread = 1.0 if variance is None else variance.numpy().mean()
                    magnitudes[value.name or ""] = float(np.sqrt(spread / energy))
    return magnitudes


def _has_folded_norms(model: ir.Model) -> bool:
    """Whether the biases of most Convs are large beside their filters, as a folded BatchNormalization is."""
    ratios = []
    for conv in (node for node in model.graph if node.op_type == "Conv" and len(node.inputs) > 2):
        weight, bias = (v.const_value if v is not None else None for v in conv.inputs[1:3])
        if weight is not None and bias is not None and bias.size > 1 and weight.size % bias.size == 0:
            filters = weight.numpy().astype(np.float64).reshape(bias.size, -1)
            norms = np.median(np.linalg.norm(filters, axis=1))
            ratios.append(float(np.median(np.abs(bias.numpy())) / max(norms, 1e-30)))
    return len(ratios) >= _LEAST_CONVS and float(np.median(ratios[1:])) >= _FOLDED


def _first_consumers(value: ir.Value) -> list[ir.Node]:
    """The nodes that compute with an input, behind ops that hand its numbers on as they are."""
    nodes, waiting = [], [value]
    while waiting:
        for node, _ in waiting.pop().uses():
            if node.op_type in _PASSING:
                waiting += node.outputs[:1]
            else:
                nodes.append(node)
    return nodes


def with_shapes(inputs: ModelInputs, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, ModelInput]:
    """Return the inputs with the shapes of --shape; the name '' stands for the only input of a model.

    Raises:
        UsageError: there is no such input, or the model does not take the shape.
    """
    shaped = dict(inputs)
    for name, shape in shapes.items():
        text = ",".join(map(str, shape))
        if not name and len(inputs) != 1:
            raise UsageError(
                f"--shape {text}: which of the {len(inputs)} inputs?",
                f"--shape {next(iter(inputs), 'NAME')}={text}",
            )
        key = name or next(iter(inputs))
        if key not in inputs:
            hint = did_you_mean(key, inputs) or f"inputs: {printable(', '.join(inputs))}"
            raise UsageError(f"--shape: no input '{key}'", hint)
        spec = inputs[key]
        fits = spec.shape is None or (
            len(spec.shape) == len(shape)
            and all(not isinstance(a, int) or a in (0, b) for a, b in zip(spec.shape, shape, strict=True))
        )
        if not fits:
            raise UsageError(f"--shape {key}={text}: the model wants {spec}")
        shaped[key] = replace(spec, shape=shape)
    return shaped


def _axes(shape: ir.Shape | None) -> tuple[Axis, ...] | None:
    if shape is None:
        return None
    # Some exporters write 0 for an unknown axis.
    return tuple((axis if axis > 0 else None) if isinstance(axis, int) else axis.value for axis in shape)


def _numpy_name(dtype: ir.DataType | None) -> str:
    if dtype is None:
        return ""
    if dtype == ir.DataType.STRING:
        return "str"
    try:
        name = dtype.numpy().name
    except TypeError:
        return ""
    return name if hasattr(np, name) or name == "bool" else ""
