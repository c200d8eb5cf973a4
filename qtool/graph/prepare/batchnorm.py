"""Fold BatchNormalization into the weight and bias of the convolution or Gemm before it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import Namer
from qtool.graph.prepare.channels import rescale_channels
from qtool.graph.view import attribute_float, attribute_int, float_constant, is_op, is_read, sole_consumer


def fold_batchnorm(model: ir.Model) -> str:
    """y = gamma (conv(x) - mean) / sqrt(var + eps) + beta, folded (Jacob et al. 2018, eq. 14).

    Only where the convolution's result has no other consumer, the statistics are constants and the node runs
    in inference mode.
    """
    namer = Namer(model)
    folded = 0
    for node in list(model.graph.all_nodes()):
        if not is_op(node, "BatchNormalization") or node.inputs[0] is None:
            continue
        producer = node.inputs[0].producer()
        if producer is None or sole_consumer(node.inputs[0]) is not node:
            continue
        if producer.graph is not node.graph:
            continue
        if attribute_int(node, "training_mode", 0) or any(is_read(v) for v in node.outputs[1:]):
            continue
        stats = [float_constant(v) for v in node.inputs[1:5]]
        if any(s is None for s in stats):
            continue
        gamma, beta, mean, var = (np.asarray(s, np.float64) for s in stats)
        with np.errstate(invalid="ignore", divide="ignore"):
            scale = gamma / np.sqrt(var + attribute_float(node, "epsilon", 1e-5))
        if np.isfinite(scale).all() and rescale_channels(producer, scale, beta - mean * scale, node, namer):
            folded += 1
    return f"{folded} BatchNormalizations folded" if folded else ""
