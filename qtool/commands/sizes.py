"""The size of the file that each mode would write, before anything is quantized."""

from __future__ import annotations

from typing import Literal, cast

import onnx_ir as ir

from qtool.commands.prepare import NO_SAMPLES, prepare_model
from qtool.errors import UsageError
from qtool.graph.load import Source
from qtool.graph.prepare.shapes import light
from qtool.graph.save import forget_inner_shapes, tensor_bytes
from qtool.options import Options
from qtool.plan.candidate import make_candidate
from qtool.plan.rules import rule_based
from qtool.report.model import ChoiceSize
from qtool.rewrite.write import written
from qtool.tables.modes import SIZED, ModeName

_SMALL = 1024  # bytes: shapes and axes, which passes read


def choice_sizes(source: Source, options: Options) -> tuple[ChoiceSize, ...]:
    """Return the bytes of the file in each mode and number of bits that needs no samples.

    Args:
        source: the model.
        options: the target, the blocks and the patterns apply; --set, which is for one mode, does not.
    """
    sizes = []
    for mode, bits in SIZED:
        try:
            sizes.append(ChoiceSize(mode, bits, _size(source, options, mode, bits)))
        except UsageError:  # the target has no such mode
            continue
    return tuple(sizes)


def _size(source: Source, options: Options, mode: ModeName, bits: int) -> int:
    own = Options(
        mode=mode,
        target=options.target,
        block=options.block if mode == "weight-only" else 0,
        bits=cast(Literal[8, 4, 2], bits) if mode == "weight-only" else Options.bits,
        exclude=options.exclude,
        include=options.include,
    )
    prepared = prepare_model(source, own, sets=NO_SAMPLES)
    for graph in prepared.model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.nbytes >= _SMALL and tensor.dtype != ir.DataType.STRING:
                value.const_value = _unread(tensor)
    model = written(prepared.model, make_candidate(prepared, rule_based(prepared.task)).plan)
    graph = light(model)
    forget_inner_shapes(graph.graph)
    del graph.graph.input[len(model.graph.inputs) :]  # its large constants
    del graph.graph.initializer[:]
    return tensor_bytes(model) + int(graph.ByteSize())


def _unread(tensor: ir.TensorProtocol) -> ir.LazyTensor:
    """Return a tensor that is taken for one in a side file: what is made of it is computed at no time."""
    return ir.LazyTensor(lambda: tensor, tensor.dtype, ir.Shape(tensor.shape.numpy()), name=tensor.name)
