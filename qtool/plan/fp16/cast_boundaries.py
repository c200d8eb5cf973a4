"""Count the Casts between float16 and float32, and find the nodes that are not worth theirs."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from qtool.graph.view import View, is_op
from qtool.plan.fp16.ports import is_blind, is_float32, is_heavy
from qtool.plan.model import Fp16Node
from qtool.tables.float16 import SUMS


@dataclass
class _Boundary:
    """One value: the type of its producer, and the number of its uses in each type."""

    is_float16: bool = False
    float16_uses: int = 0
    float32_uses: int = 0

    @property
    def casts(self) -> int:
        return int(self.float32_uses > 0 if self.is_float16 else self.float16_uses > 0)


def not_worth_casts(
    view: View, nodes: Mapping[str, Fp16Node], ports: Collection[str], forced: Collection[str] = ()
) -> list[str]:
    """Return the nodes that should be float32, starting with all of `nodes` in float16.

    A node that is not HEAVY leaves float16 when that saves a Cast, or costs none and all its inputs are
    float32 already. So a Cast stands right before the heavy op, not before the nodes that lead to it.

    Args:
        view: of the prepared model.
        nodes: the nodes that can be float16.
        ports: inputs and outputs of the model that are float16.
        forced: nodes that do not leave.
    """
    in_float16 = dict(nodes)
    boundaries = _boundaries(view, in_float16, ports)
    leaving: list[str] = []
    pending = deque(in_float16)
    while pending:
        name = pending.popleft()
        node = view.node_by_name[name]
        if (
            name not in in_float16
            or name in forced
            or is_heavy(node)
            or not _leaves(node, in_float16[name], boundaries)
        ):
            continue
        own = in_float16.pop(name)
        leaving.append(name)
        pending.extend(_touched(node, own, boundaries))
    return leaving


def _boundaries(
    view: View, in_float16: Mapping[str, Fp16Node], ports: Collection[str]
) -> dict[str, _Boundary]:
    """Return the boundary of each value but constants, which are stored in either type."""
    boundaries: dict[str, _Boundary] = {}
    for name, value in view.values.items():
        if not is_float32(value) or (value.is_initializer() and not value.is_graph_input()):
            continue
        producer = value.producer()
        boundary = boundaries[name] = _Boundary()
        if producer is None:
            boundary.is_float16 = name in ports
        elif producer.name in in_float16:
            boundary.is_float16 = value.index() in in_float16[producer.name or ""].outputs
        for use in value.uses():
            reader = in_float16.get(use.node.name or "")
            if reader is not None and use.idx in reader.inputs:
                boundary.float16_uses += 1
            elif not is_blind(use.node, use.idx):
                boundary.float32_uses += 1
        if value.is_graph_output():
            boundary.float16_uses += name in ports
            boundary.float32_uses += name not in ports
    return boundaries


def _leaves(node: ir.Node, own: Fp16Node, boundaries: Mapping[str, _Boundary]) -> bool:
    """Move a node to float32 if that is better, and return whether it was."""
    reads, makes = _around(node, own, boundaries)
    around = {id(b): b for b in (*reads, *makes)}.values()
    indifferent = not any(b.is_float16 for b in reads) or not makes or is_op(node, *SUMS)
    before = sum(b.casts for b in around)
    _move(reads, makes, to_float=1)
    after = sum(b.casts for b in around)
    if after < before or (after == before and indifferent):
        return True
    _move(reads, makes, to_float=-1)
    return False


def _around(
    node: ir.Node, own: Fp16Node, boundaries: Mapping[str, _Boundary]
) -> tuple[list[_Boundary], list[_Boundary]]:
    read = [node.inputs[i] for i in own.inputs]
    reads = [boundaries[v.name or ""] for v in read if v is not None and v.name in boundaries]
    names = [node.outputs[i].name or "" for i in own.outputs]
    return reads, [boundaries[n] for n in names if n in boundaries]


def _move(reads: list[_Boundary], makes: list[_Boundary], to_float: int) -> None:
    for boundary in reads:
        boundary.float16_uses -= to_float
        boundary.float32_uses += to_float
    for boundary in makes:
        boundary.is_float16 = to_float < 0


def _touched(node: ir.Node, own: Fp16Node, boundaries: Mapping[str, _Boundary]) -> list[str]:
    """Return the neighbours of a node that has left float16 for which the decision may change.

    For the other consumers of a value that is only when one float16 consumer is left, or the first float32
    consumer appears. Each happens once.
    """
    near: list[ir.Node | None] = []
    for index in own.inputs:
        value = node.inputs[index]
        boundary = boundaries.get(value.name or "") if value is not None else None
        if value is None or boundary is None:
            continue
        near.append(value.producer())
        if boundary.float16_uses <= 1 or boundary.float32_uses == 1:
            near += [use.node for use in value.uses()]
    near += [use.node for i in own.outputs for use in node.outputs[i].uses()]
    return [n.name or "" for n in near if n is not None]
