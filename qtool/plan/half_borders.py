"""The Casts on the borders between float16 and float32, counted; and the nodes that are not worth theirs."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from qtool.graph.view import View, is_op
from qtool.plan.half_ports import Ports, is_blind, is_float32, is_heavy
from qtool.tables.float16 import SUMS


@dataclass
class _Border:
    """One value: what makes it, and how many read it in which type."""

    made_half: bool = False
    halves: int = 0
    floats: int = 0

    @property
    def casts(self) -> int:
        return int(self.floats > 0 if self.made_half else self.halves > 0)


def worthless(
    view: View, sites: Mapping[str, Ports], own: Collection[str], forced: Collection[str] = ()
) -> list[str]:
    """The nodes that would better be float32, starting with all of `sites` in float16.

    A node that is not HEAVY leaves float16 when that saves a Cast, or costs none and all its inputs are
    float32 already: so a Cast stands before the heavy op that wants it, not before what leads there.

    Args:
        own: the model's inputs and outputs that are float16.
        forced: nodes that do not leave.
    """
    half = dict(sites)
    borders = _borders(view, half, own)
    left: list[str] = []
    pending = deque(half)
    while pending:
        name = pending.popleft()
        node = view.node_by_name[name]
        if name not in half or name in forced or is_heavy(node) or not _leaves(node, half[name], borders):
            continue
        site = half.pop(name)
        left.append(name)
        pending.extend(_touched(node, site, borders))
    return left


def _borders(view: View, half: Mapping[str, Ports], own: Collection[str]) -> dict[str, _Border]:
    """Constants have no border: they are stored in either type."""
    borders: dict[str, _Border] = {}
    for name, value in view.values.items():
        if not is_float32(value) or (value.is_initializer() and not value.is_graph_input()):
            continue
        maker = value.producer()
        border = borders[name] = _Border()
        if maker is None:
            border.made_half = name in own
        elif maker.name in half:
            border.made_half = value.index() in half[maker.name or ""].makes
        for use in value.uses():
            reader = half.get(use.node.name or "")
            if reader is not None and use.idx in reader.reads:
                border.halves += 1
            elif not is_blind(use.node, use.idx):
                border.floats += 1
        if value.is_graph_output():
            border.halves += name in own
            border.floats += name not in own
    return borders


def _leaves(node: ir.Node, site: Ports, borders: Mapping[str, _Border]) -> bool:
    """Whether a node is better off in float32; if so, the borders are changed."""
    reads, makes = _around(node, site, borders)
    around = {id(b): b for b in (*reads, *makes)}.values()
    indifferent = not any(b.made_half for b in reads) or not makes or is_op(node, *SUMS)
    before = sum(b.casts for b in around)
    _move(reads, makes, to_float=1)
    after = sum(b.casts for b in around)
    if after < before or (after == before and indifferent):
        return True
    _move(reads, makes, to_float=-1)
    return False


def _around(
    node: ir.Node, site: Ports, borders: Mapping[str, _Border]
) -> tuple[list[_Border], list[_Border]]:
    read = [node.inputs[i] for i in site.reads]
    reads = [borders[v.name or ""] for v in read if v is not None and v.name in borders]
    names = [node.outputs[i].name or "" for i in site.makes]
    return reads, [borders[n] for n in names if n in borders]


def _move(reads: list[_Border], makes: list[_Border], to_float: int) -> None:
    for border in reads:
        border.halves -= to_float
        border.floats += to_float
    for border in makes:
        border.made_half = to_float < 0


def _touched(node: ir.Node, site: Ports, borders: Mapping[str, _Border]) -> list[str]:
    """Who may have another opinion now that a node has left.

    The other readers of a value do only as its last float16 reader is left, or its first float32 one is
    there: each of that happens once.
    """
    near: list[ir.Node | None] = []
    for index in site.reads:
        value = node.inputs[index]
        border = borders.get(value.name or "") if value is not None else None
        if value is None or border is None:
            continue
        near.append(value.producer())
        if border.halves <= 1 or border.floats == 1:
            near += [use.node for use in value.uses()]
    near += [use.node for i in site.makes for use in node.outputs[i].uses()]
    return [n.name or "" for n in near if n is not None]
