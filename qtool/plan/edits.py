"""Graph edits: changes of the graph that quantize nothing, and that a plan lists beside its sites."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class EditKind(Enum):
    """What an edit does to the graph."""

    QUANTIZER_BARRIER = "fusion barrier before QuantizeLinear"
    """The QuantizeLinear of the value reads Max(value, -3e38)."""
    RESULT_BARRIER = "fusion barrier behind the int8 product"
    """Every consumer of the value reads Max(value, -3e38)."""
    ADDED_BIAS = "float bias added after the integer product"
    """`node` takes the value as its bias, and the Add that read it is removed."""
    RESHAPED_BIAS = "bias reshaped to leading axes of 1"
    """The Add reads the bias [N] as [1, .., 1, N]."""
    NORM_BARRIER = "fusion barrier in a layer norm of two types"
    """The consumers of the value read Max(value, -inf), behind the Cast where the consumers in `uses` read it
    cast. With `uses` None the Max is right behind the value, and outputs of the model stay before it."""
    SUM = "Add written as Sum"
    """The Add that reads the value becomes a Sum, which onnxruntime does not fuse with a product."""


@dataclass(frozen=True)
class GraphEdit:
    """One change of the graph.

    Args:
        kind: what is done.
        value: the value that is edited.
        uses: the consumers that the edit is for, as (node, input index); None: every consumer, graph
            outputs included.
        node: ADDED_BIAS: the product that adds the bias; '' for other kinds.
        axes: RESHAPED_BIAS: the rank that the bias gets; 0 for other kinds.
    """

    kind: EditKind
    value: str
    uses: tuple[tuple[str, int], ...] | None
    node: str = ""
    axes: int = 0
