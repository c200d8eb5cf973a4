"""Make a graph fit to quantize, with exactly the same result (to float rounding).

PASSES is the whole recipe, in the order in which it is applied; each pass is one file whose
docstring says what it does and when it does not. A pass edits the model it is given and says
what it did, for the report; '' when it found nothing to do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from qtool.graph.prepare.affine import fold_affine
from qtool.graph.prepare.batchnorm import fold_batchnorm
from qtool.graph.prepare.constants import lift_constants
from qtool.graph.prepare.functions import inline_functions
from qtool.graph.prepare.gemm import normalize_gemm
from qtool.graph.prepare.inputs import drop_initializer_inputs
from qtool.graph.prepare.moves import fold_moves
from qtool.graph.prepare.names import unique_names
from qtool.graph.prepare.noops import drop_noops
from qtool.graph.prepare.opset import upgrade_opset
from qtool.graph.prepare.shapes import infer_shapes
from qtool.graph.prepare.unused import drop_unused

Pass = Callable[[ir.Model], str]

PASSES: tuple[Pass, ...] = (
    inline_functions,
    drop_initializer_inputs,
    lift_constants,
    upgrade_opset,
    lift_constants,  # the version converter makes Constants of its own
    unique_names,
    drop_noops,
    infer_shapes,
    fold_moves,
    fold_batchnorm,
    fold_affine,
    normalize_gemm,
    drop_unused,
)


@dataclass(frozen=True)
class Prepared:
    """A prepared model and what was done to it, one line a pass."""

    model: ir.Model
    notes: tuple[str, ...]


def prepare(model: ir.Model) -> Prepared:
    """Prepare a clone of the model; the model itself is not changed."""
    clone = model.clone()
    notes = [note for step in PASSES if (note := step(clone))]
    return Prepared(clone, tuple(notes))
