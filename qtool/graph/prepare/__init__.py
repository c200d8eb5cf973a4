"""Prepare a graph for quantization, with the same result to float rounding.

PASSES is the recipe, in the order of application. Each pass is a file; its docstring describes the change and
its conditions. A pass edits the model and returns a note for the report, '' where it changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir

from qtool.graph.grids import NO_GRIDS, Grids
from qtool.graph.prepare.affine import fold_affine
from qtool.graph.prepare.biases import split_biases
from qtool.graph.prepare.border_shapes import require_shapes
from qtool.graph.prepare.constants import lift_constants
from qtool.graph.prepare.denormals import flush_denormals
from qtool.graph.prepare.duplicates import share_duplicates
from qtool.graph.prepare.folding import fold_constants
from qtool.graph.prepare.functions import inline_functions
from qtool.graph.prepare.gelu import fuse_gelu
from qtool.graph.prepare.gemm import normalize_gemm
from qtool.graph.prepare.hard_sigmoid import fuse_hard_sigmoids
from qtool.graph.prepare.inputs import drop_initializer_inputs
from qtool.graph.prepare.keep_grids import keep_grids
from qtool.graph.prepare.lone_norms import replace_lone_norms, replace_lone_scales, replace_prelus
from qtool.graph.prepare.names import unique_names
from qtool.graph.prepare.noops import drop_noops
from qtool.graph.prepare.norms import unfuse_norms
from qtool.graph.prepare.opset import QDQ_OPS, QDQ_OPSET, Runs, runs_all, settle_opset, upgrade_opset
from qtool.graph.prepare.pads import fold_pads
from qtool.graph.prepare.pools import normalize_pools, replace_means
from qtool.graph.prepare.requantize import restore_floats
from qtool.graph.prepare.shapes import infer_shapes
from qtool.graph.prepare.slices import merge_slices
from qtool.graph.prepare.slopes import merge_slopes
from qtool.graph.prepare.stacks import unstack_matrices
from qtool.graph.prepare.sums import replace_sums
from qtool.graph.prepare.unfuse import unfuse_products
from qtool.graph.prepare.unused import drop_unused
from qtool.graph.prepare.views import merge_views
from qtool.graph.prepare.widen import widen_floats
from qtool.runtime.heartbeat import beat

Pass = Callable[[ir.Model], str]

PASSES: tuple[Pass, ...] = (
    inline_functions,
    drop_initializer_inputs,
    lift_constants,
    upgrade_opset,
    lift_constants,  # the version converter makes Constants of its own
    unique_names,
    infer_shapes,
    require_shapes,
    fold_constants,
    widen_floats,
    infer_shapes,  # more shapes are known, with which more constants are
    fold_constants,
    unfuse_products,
    drop_noops,
    share_duplicates,
    merge_views,
    merge_slices,
    fold_pads,
    replace_sums,
    fuse_hard_sigmoids,
    fold_affine,
    replace_lone_norms,
    fold_affine,
    flush_denormals,
    normalize_gemm,
    split_biases,
    merge_slopes,
    unstack_matrices,
    normalize_pools,
    replace_means,
    drop_unused,
)

# Passes whose results only onnxruntime can read, or only its optimizers need.
ONNXRUNTIME_PASSES: tuple[Pass, ...] = (
    fuse_gelu,
    replace_lone_scales,
    fold_affine,
    replace_prelus,
    unfuse_norms,
    drop_unused,
)

# Before a model's own quantization is taken out, which goes before the rest: names and shapes must be known.
_BEFORE_FLOATS: tuple[Pass, ...] = (
    inline_functions,
    drop_initializer_inputs,
    lift_constants,
    unique_names,
    infer_shapes,
)
REQUANTIZE_PASSES: tuple[Pass, ...] = (*_BEFORE_FLOATS, restore_floats, drop_unused)


# Every node and value has a name of its own, and every constant is an initializer.
NAMING_PASSES: tuple[Pass, ...] = (
    inline_functions,
    drop_initializer_inputs,
    lift_constants,
    unique_names,
)


@dataclass(frozen=True)
class Prepared:
    """A prepared model, a note for each pass that changed it, and the quantization that it came with."""

    model: ir.Model
    notes: tuple[str, ...]
    grids: Grids = NO_GRIDS


def with_names(model: ir.Model) -> ir.Model:
    """Return a clone with names for all nodes and values, and else as it is."""
    clone = model.clone()
    for one in NAMING_PASSES:
        one(clone)
    return clone


def with_opset(model: ir.Model, opset: int, runs: Runs) -> ir.Model:
    """Return a clone with names for all nodes and values, in an opset that has the quantizing ops."""
    clone = with_names(model)
    settle_opset(clone, least=opset, needed=QDQ_OPS, runs=runs)
    for one in (lift_constants, unique_names, infer_shapes):
        one(clone)
    return clone


def prepare(
    model: ir.Model,
    *,
    onnxruntime: bool = False,
    opset: int = QDQ_OPSET,
    requantize: bool = False,
    grid_bits: int = 0,
    needed: Sequence[str] = QDQ_OPS,
    runs: Runs = runs_all,
) -> Prepared:
    """Prepare a clone of the model; the model itself is not changed.

    Args:
        model: a checked model.
        onnxruntime: also apply the passes for onnxruntime (Target.onnxruntime).
        opset: the lowest opset of the result; a model that can't be converted keeps its own.
        requantize: restore the floats of nodes that are already quantized.
        grid_bits: restore them, and return the grids of activations of this width and of weights; 0: leave
            quantized nodes as they are.
        needed: the ops that quantizing inserts.
        runs: (op, opset) -> whether the runtime has the op; the opset is lowered if it lacks a needed one.

    Raises:
        ModelError: the runtime lacks a needed op of the model's opset, and the opset can't be lowered.
    """
    clone = model.clone()
    settled = partial(settle_opset, least=opset, needed=needed, runs=runs)
    grids = NO_GRIDS

    def keep(model: ir.Model) -> str:
        nonlocal grids
        note, grids = keep_grids(model, grid_bits)
        return note

    passes: list[Pass] = []
    if requantize or grid_bits:
        passes += [*_BEFORE_FLOATS, restore_floats if requantize else keep, drop_unused]
    passes += [settled if one is upgrade_opset else one for one in PASSES]
    passes += ONNXRUNTIME_PASSES if onnxruntime else ()
    notes = []
    for one in passes:
        beat()
        if note := one(clone):
            notes.append(note)
    return Prepared(clone, tuple(notes), grids)
