"""The labels of least energy, exactly: a minimum s-t cut.

    E(x) = sum of costs[u][x_u] + sum over pairs (a, b) of cost * [x_a = 0 and x_b = 1],  x_u in {0, 1}

Every such energy is submodular, and its least one is a minimum cut of a graph with a node a variable
(Kolmogorov and Zabih, What energy functions can be minimized via graph cuts?, PAMI 2004).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import networkx as nx
from networkx.algorithms.flow import boykov_kolmogorov

# Costs become integers, of which sums are exact: the largest one is this many.
_STEPS = 1 << 50
_Node = tuple[str, ...]
_SOURCE, _SINK = ("", "source"), ("", "sink")


@dataclass(frozen=True)
class Energy:
    """What labels cost.

    Args:
        costs: variable -> its cost with label 0, with label 1; neither is negative.
        pairs: (a, b, cost): paid where a has label 0 and b label 1; inf forbids that.
    """

    costs: Mapping[str, tuple[float, float]]
    pairs: Sequence[tuple[str, str, float]] = field(default_factory=tuple)

    def of(self, labels: Mapping[str, bool]) -> float:
        """The energy of one choice."""
        own = math.fsum(costs[labels[name]] for name, costs in self.costs.items())
        return own + math.fsum(c for a, b, c in self.pairs if c and labels[b] and not labels[a])


def least(energy: Energy) -> dict[str, bool]:
    """The labels of least energy; of several such choices the one with the fewest 1s.

    Costs are rounded to 2**-50 of the largest.
    """
    costs = (c for pair in energy.costs.values() for c in pair)
    finite = [c for c in (*costs, *(c for _, _, c in energy.pairs)) if 0 < c < math.inf]
    unit = max(finite, default=1.0) / _STEPS
    graph: nx.DiGraph[_Node] = nx.DiGraph()
    graph.add_nodes_from((_SOURCE, _SINK))
    for name, (zero, one) in energy.costs.items():
        # What both labels cost alike decides nothing.
        _add(graph, _SOURCE, (name,), (one - min(zero, one)) / unit)
        _add(graph, (name,), _SINK, (zero - min(zero, one)) / unit)
    for a, b, cost in energy.pairs:
        _add(graph, (a,), (b,), cost / unit)
    # networkx gives the largest side of the source: all that can't reach the sink any more.
    _, (zeros, _) = nx.minimum_cut(graph, _SOURCE, _SINK, flow_func=boykov_kolmogorov)
    return {name: (name,) not in zeros for name in energy.costs}


def _add(graph: nx.DiGraph[_Node], tail: _Node, head: _Node, cost: float) -> None:
    """An edge that is cut where the tail is 0 and the head 1; without a capacity it is infinite."""
    if math.isinf(cost):
        graph.add_edge(tail, head)
        graph[tail][head].pop("capacity", None)
        return
    before = graph[tail][head] if graph.has_edge(tail, head) else None
    if before is None:
        graph.add_edge(tail, head, capacity=round(cost))
    elif "capacity" in before:
        before["capacity"] += round(cost)
