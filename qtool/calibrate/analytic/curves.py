"""Functions of one variable, element by element: a row an op."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from qtool.calibrate.analytic.call import Call
from qtool.calibrate.analytic.nodes import F64, reaching
from qtool.calibrate.analytic.spread import BOUNDED, FLT_MAX, Spread, spread, uniform, unknown
from qtool.tables.ops import OPS

# Inverses this many times the usual one are no longer estimated.
_RARE = 32.0
_WAVE_POINTS = 256

Function = Callable[[F64], F64]


@dataclass(frozen=True)
class Curve:
    """A function and where it turns from rising to falling: between turns, its ends are its extremes.

    Args:
        make: the function that a node computes, its attributes read.
        turns: where it stops rising or falling; only what can matter to bounds.
        bounds: what it can't exceed, whatever the turns.
    """

    make: Callable[[Call], Function]
    turns: tuple[float, ...] = ()
    bounds: tuple[float, float] = (-math.inf, math.inf)

    def __call__(self, call: Call) -> Spread:
        return applied(self.make(call), call[0], self.turns, self.bounds)


def applied(
    f: Function, x: Spread, turns: tuple[float, ...] = (), bounds: tuple[float, float] = (-math.inf, math.inf)
) -> Spread:
    """f of a spread. It goes on moving with what drives x."""
    values = None if x.values is None else _through(f, x.values, turns)
    ends = [np.asarray(f(np.clip(end, -FLT_MAX, FLT_MAX))) for end in (x.lo, x.hi)]
    for turn in turns:
        inside = (x.lo < turn) & (turn < x.hi)
        ends.append(np.where(inside, f(np.asarray(turn)), ends[0]))
    lo, hi = np.minimum.reduce(ends), np.maximum.reduce(ends)  # NaN stays NaN: not known
    lo, hi = np.fmax(lo, bounds[0]), np.fmin(hi, bounds[1])
    if x.values is None and all(map(math.isfinite, bounds)):
        return uniform(lo, hi)
    made = spread(values, lo, hi, x.basis, x.source, masked=x.masked)
    return replace(made, source=None) if x.source is None and made.known else made


def _through(f: Function, x: F64, turns: tuple[float, ...]) -> F64:
    """f of curves; they reach where f turns, too, though that may lie between two nodes."""
    made = f(x)
    least, most = x.min(0), x.max(0)
    for turn in turns:
        there = np.where((least < turn) & (turn < most), f(np.asarray(turn)), made[0])
        made = reaching(made, np.minimum(made.min(0), there), np.maximum(made.max(0), there))
    return made


def _of(f: Function, *turns: float, lo: float = -math.inf, hi: float = math.inf) -> Curve:
    return Curve(lambda call: f, turns, (lo, hi))


def erf(x: F64) -> F64:
    """The error function to 1.5e-7 (Abramowitz & Stegun 7.1.26)."""
    size = np.abs(x)
    t = 1.0 / (1.0 + 0.3275911 * size)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.asarray(np.sign(x) * (1.0 - series * np.exp(-(size**2))))


def sigmoid(x: F64) -> F64:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x))


def softplus(x: F64) -> F64:
    return np.asarray(np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x))))


def gelu(x: F64) -> F64:
    return 0.5 * x * (1.0 + erf(x / math.sqrt(2.0)))


def fast_gelu(x: F64) -> F64:
    """The tanh form, which Hendrycks & Gimpel 2016 (arXiv 1606.08415) give."""
    return np.asarray(0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))))


def _gelu(call: Call) -> Function:
    return fast_gelu if call.text("approximate", "none") == "tanh" else gelu


def _silu(alpha: float) -> Function:
    return lambda x: x * sigmoid(alpha * x)


def gated(call: Call) -> Spread:
    """x sigmoid(alpha x), least at -1.27846 / alpha."""
    alpha = call.real("alpha", 1.702 if call.node.op_type == "QuickGelu" else 1.0)
    return applied(_silu(alpha), call[0], (-1.2784645 / alpha,) if alpha else ())


def _leaky(call: Call) -> Function:
    alpha = call.real("alpha", 0.01)
    return lambda x: np.where(x < 0, alpha * x, x)


def _elu(call: Call) -> Function:
    alpha = call.real("alpha", 1.0)
    return lambda x: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0.0)), x)


def _celu(call: Call) -> Function:
    alpha = call.real("alpha", 1.0)
    return lambda x: np.maximum(x, 0.0) + np.minimum(0.0, alpha * np.expm1(np.minimum(x, 0.0) / alpha))


def _selu(call: Call) -> Function:
    alpha, gamma = call.real("alpha", 1.6732632), call.real("gamma", 1.0507010)
    return lambda x: gamma * np.where(x < 0, alpha * np.expm1(np.minimum(x, 0.0)), x)


def hard_sigmoid(call: Call) -> Function:
    alpha, beta = call.real("alpha", 0.2), call.real("beta", 0.5)
    return lambda x: np.clip(alpha * x + beta, 0.0, 1.0)


def _hard_swish(x: F64) -> F64:
    return np.asarray(x * np.clip(x / 6.0 + 0.5, 0.0, 1.0))


def _mish(x: F64) -> F64:
    return np.asarray(x * np.tanh(softplus(x)))


def saturating(op_type: str, make: Callable[[Call], Function]) -> Callable[[Call], Spread]:
    """A function that may come near either of its bounds, however its input is believed to spread."""
    least, most = OPS[op_type].bounds

    def rule(call: Call) -> Spread:
        made = applied(make(call), call[0], (), (least, most))
        if made.values is None:
            return made
        return spread(reaching(made.values, least, most), made.lo, made.hi, BOUNDED, made.source)

    return rule


def clip(call: Call) -> Spread:
    """Clip to constant bounds; in opset 6 they are attributes."""
    least, most = _bound(call, 1, "min", -math.inf), _bound(call, 2, "max", math.inf)
    made = applied(lambda x: np.minimum(np.maximum(x, least), most), call[0])
    lo, hi = np.maximum(made.lo, least), np.minimum(made.hi, most)
    if not made.known:
        return uniform(lo, hi)
    return spread(made.values, lo, hi, made.basis, made.source, masked=made.masked)


def _bound(call: Call, index: int, name: str, none: float) -> float:
    """One end of a Clip.

    Raises:
        ValueError: it is computed.
    """
    if not call.has(index):
        return call.real(name, none)
    array = call.constant(index)
    if array is None or array.size != 1:
        raise ValueError("the bounds of a Clip are computed")
    return float(array.reshape(()))


def power(call: Call) -> Spread:
    """x to a constant power."""
    exponent = call.constant(1)
    if exponent is None or exponent.size != 1:
        return unknown()
    p, x = float(exponent.reshape(())), call[0]
    made = applied(lambda v: np.power(v, p), x, (0.0,) if p >= 0 else ())
    return made if p >= 0 else _inverse(x, made)


def reciprocal(call: Call) -> Spread:
    """1 / x."""
    return _inverse(call[0], applied(lambda v: 1.0 / v, call[0]))


def _inverse(x: Spread, made: Spread) -> Spread:
    """What was made by dividing by x: unbounded where that can be 0, unknown where it may come near."""
    crosses = (x.lo <= 0) & (x.hi >= 0)
    lo, hi = np.where(crosses, -math.inf, made.lo), np.where(crosses, math.inf, made.hi)
    values = None if near_zero(x) else made.values
    return spread(values, lo, hi, made.basis, made.source, masked=made.masked)


def wave(f: Function) -> Callable[[Call], Spread]:
    """Sine or cosine: anywhere in -1..1 unless x is known."""

    def rule(call: Call) -> Spread:
        x = call[0]
        if x.values is None:
            return uniform(-1.0, 1.0)
        between = f(np.linspace(x.values.min(0), x.values.max(0), _WAVE_POINTS))
        values = reaching(f(x.values), between.min(0), between.max(0))
        return spread(values, -1.0, 1.0, x.basis, x.source)

    return rule


def near_zero(x: Spread) -> bool:
    """Whether some elements are so much smaller than most that their inverses are all that counts."""
    if x.values is None:
        return True
    size = np.abs(x.values)
    return bool((size.min(0) * _RARE < np.median(size, 0)).any())


CURVES: dict[str, Curve] = {
    "Abs": _of(np.abs, 0.0),
    "Neg": _of(np.negative),
    "Exp": _of(np.exp, lo=0.0),
    "Log": _of(np.log),
    "Sqrt": _of(np.sqrt),
    "Erf": _of(erf, lo=-1.0, hi=1.0),
    "Softplus": _of(softplus, lo=0.0),
    "Softsign": _of(lambda x: x / (1.0 + np.abs(x)), lo=-1.0, hi=1.0),
    "Relu": _of(lambda x: np.maximum(x, 0.0)),
    "LeakyRelu": Curve(_leaky, (0.0,)),
    "Elu": Curve(_elu, (0.0,)),
    "Celu": Curve(_celu, (0.0,)),
    "Selu": Curve(_selu, (0.0,)),
    "Gelu": Curve(_gelu, (-0.7517916,)),
    "HardSwish": _of(_hard_swish, -1.5),
    "Mish": _of(_mish, -1.1924),
    "Floor": _of(np.floor),
    "Ceil": _of(np.ceil),
    "Round": _of(np.round),
    "Sign": _of(np.sign, lo=-1.0, hi=1.0),
    "Atan": _of(np.arctan),
}
