"""Recurrent layers: what tanh and gates let through lies within -1..1, whatever goes in."""

from __future__ import annotations

from qtool.calibrate.analytic.call import Call
from qtool.calibrate.analytic.spread import BOUNDED, Spread, uniform, unknown

_GATES = frozenset({"sigmoid", "hardsigmoid"})
_STATES = frozenset({"tanh"})


def lstm(call: Call) -> list[Spread]:
    """h = sigmoid(o) tanh(c) lies within -1..1; the cell state c is not bounded."""
    given = _activations(call)
    return _recurrent(call, bounded=_GATES.issuperset(given[0::3]) and _STATES.issuperset(given[2::3]))


def gru(call: Call) -> list[Spread]:
    """h mixes tanh with the state before: within -1..1 if the first state is."""
    given = _activations(call)
    usual = _GATES.issuperset(given[0::2]) and _STATES.issuperset(given[1::2])
    return _recurrent(call, bounded=usual and _starts_within(call, 5))


def rnn(call: Call) -> list[Spread]:
    """h is the activation's, tanh unless told."""
    return _recurrent(call, bounded=_STATES.issuperset(_activations(call)))


def _recurrent(call: Call, *, bounded: bool) -> list[Spread]:
    """Y and Y_h alike; Y_c, where there is one, unknown."""
    state = uniform(-1.0, 1.0, BOUNDED) if bounded else unknown()
    return [state, state, unknown()][: len(call.node.outputs)]


def _activations(call: Call) -> list[str]:
    found = call.node.attributes.get("activations")
    return [] if found is None else [name.lower() for name in found.as_strings()]


def _starts_within(call: Call, index: int) -> bool:
    if not call.has(index):
        return True
    first = call[index]
    return bool((first.lo >= -1.0).all() and (first.hi <= 1.0).all())
