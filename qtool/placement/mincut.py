"""Exact minimization of an energy over binary variables: a minimum s-t cut.

    E(x) = sum of costs[v][x_v] + sum over pairs (a, b) of cost * [x_a = 0 and x_b = 1],  x_v in {0, 1}

Every such energy is submodular, and a minimum cut of a graph with one node per variable minimizes it
(Kolmogorov and Zabih, What energy functions can be minimized via graph cuts?, PAMI 2004).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# All finite costs together are at most this number of integer steps, so that every sum fits int64.
_STEP_BITS = 60
_INFINITE = 1 << 61
# Capacities that maximum_flow takes: int32 (SciPy 1.17).
_FLOW_BITS = 30


class CutGraph:
    """The graph of energies that differ only in the costs of single variables.

    The arcs are indexed once. Each minimization only sets their capacities.

    Args:
        count: number of variables, n.
        tails, heads: int64 [pairs], the variables a and b of each pair.
        costs: float64 [pairs], not negative; inf forbids a = 0, b = 1.
    """

    def __init__(
        self, count: int, tails: NDArray[np.int64], heads: NDArray[np.int64], costs: NDArray[np.float64]
    ) -> None:
        variables = np.arange(count, dtype=np.int64)
        size, self._sink = count + 2, count + 1
        source = count
        starts = np.concatenate([np.full(count, source), variables, tails])
        ends = np.concatenate([variables, np.full(count, self._sink), heads])
        # Every arc has a reverse arc, and arcs are in the order of CSR: maximum_flow keeps that order.
        keys = np.unique(np.concatenate([starts * size + ends, ends * size + starts]))
        slots = np.searchsorted(keys, starts * size + ends)
        self._from_source, self._to_sink, self._of_pair = np.split(slots, [count, 2 * count])
        arc_starts, arc_ends = np.divmod(keys, size)
        self._reverse = np.searchsorted(keys, arc_ends * size + arc_starts)
        self._indices = arc_ends.astype(np.int32)
        self._indptr = np.searchsorted(arc_starts, np.arange(size + 1)).astype(np.int32)
        self._costs = costs
        self._count = count

    def minimize(self, zero: NDArray[np.float64], one: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return the values of least energy, bool [n]; among equal minima, the one with the fewest 1s.

        Some choice of values must have a finite energy. Costs are rounded to a power of two that is at most
        2**-59 of the sum of all finite costs; the minimum of the rounded costs is exact.

        Args:
            zero, one: float64 [n], the cost of each variable when 0 and when 1.
        """
        if not self._count:
            return np.zeros(0, np.bool_)
        # A cost that both values share decides nothing.
        least = np.minimum(zero, one)
        residual, total = self._capacities(one - least, zero - least)
        self._saturate(residual, total)
        return self._reaches_sink(residual)[: self._count]

    def _capacities(
        self, zero_side: NDArray[np.float64], one_side: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], int]:
        """Return the integer capacity of each arc, and the sum of the finite ones."""
        costs = np.concatenate([zero_side, one_side, self._costs])
        slots = np.concatenate([self._from_source, self._to_sink, self._of_pair])
        finite = np.isfinite(costs)
        exponent = math.frexp(math.fsum(costs[finite]))[1]
        # A power of two as the step: costs that are exact multiples of it keep their ties.
        steps = np.rint(np.ldexp(costs[finite], _STEP_BITS - exponent)).astype(np.int64)
        capacities = np.zeros(len(self._indices), np.int64)
        np.add.at(capacities, slots[finite], steps)
        capacities[slots[~finite]] = _INFINITE
        return capacities, int(steps.sum())

    def _saturate(self, residual: NDArray[np.int64], most: int) -> None:
        """Turn capacities into the residual capacities of a maximum flow, in place.

        maximum_flow takes int32 only, so the flow is found by digits (capacity scaling: Gabow, Scaling
        algorithms for network problems, J. Comput. Syst. Sci. 1985). Each round maximizes the flow of the
        residual capacities, shifted right. Then each arc of some cut has less than 2**shift left.

        Args:
            residual: int64 [arcs].
            most: an upper bound of the maximum flow.
        """
        from scipy.sparse import csr_array  # not above: the import takes 0.3 s, and few commands cut
        from scipy.sparse.csgraph import maximum_flow

        size = self._count + 2
        while most:
            most = min(most, _sum(residual[self._from_source], most), _sum(residual[self._to_sink], most))
            shift = max(most.bit_length() - _FLOW_BITS, 0)
            # More capacity than the whole flow needs: no such arc is ever saturated.
            enough = (most >> shift) + 1
            capacities = np.minimum(residual >> shift, enough).astype(np.int32)
            graph = csr_array((capacities, self._indices, self._indptr), shape=(size, size))
            flow = maximum_flow(graph, self._count, self._sink).flow
            residual -= flow.data.astype(np.int64) << shift
            most = (len(residual) << shift) if shift else 0

    def _reaches_sink(self, residual: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return the nodes from which the sink can be reached: the smallest side of the sink."""
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import breadth_first_order

        size = self._count + 2
        open_arcs = residual[self._reverse] > 0
        indptr = np.concatenate([[0], np.cumsum(open_arcs)])[self._indptr].astype(np.int32)
        indices = self._indices[open_arcs]
        backward = csr_array((np.ones(len(indices), np.int8), indices, indptr), shape=(size, size))
        order = breadth_first_order(backward, self._sink, directed=True, return_predecessors=False)
        reached = np.zeros(size, np.bool_)
        reached[order] = True
        return reached


def _sum(capacities: NDArray[np.int64], most: int) -> int:
    """Return the sum of capacities, each counted as at most `most`; rounded up, and at most 2**62."""
    total = math.ceil(float(np.minimum(capacities, most).astype(np.float64).sum()) * (1 + 1e-9))
    return min(total, 1 << 62)
