"""The quantizers of a plan with gradients: straight-through rounding, learned step sizes and ranges.

Learned step sizes follow LSQ (Esser et al. 2020, arXiv 1902.08153), as a factor exp(t) of the plan's own
step: a step of the optimizer then means the same for every layer. The factor of an activation moves both ends
of its range and leaves its zero point.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from qtool.graph.view import View, float_constant
from qtool.numerics.qparams import QParams, fold, unfold
from qtool.numerics.quantize import spread
from qtool.plan.model import OBSERVED, Kind, Plan, Site
from qtool.plan.resolve import integers_of, weight_params
from qtool.recover.bias_correction import find_biases
from qtool.recover.finetune.forward import Forward, Values
from qtool.tables.qtypes import PerBlock, QType

TRAINED = frozenset({Kind.WEIGHT, Kind.FUSED, Kind.STORED, Kind.LOOKUP})
# The most that a learned step may change, as a logarithm: a bias must fit int32 at any of them.
_MOST = 1.0
# A weight that has integers starts this far, in steps, inside their interval.
_INSIDE = 0.45


def rounded(x: Tensor) -> Tensor:
    """Return x rounded half to even, with the gradient of x (straight through)."""
    return x + (torch.round(x) - x).detach()


class _Quantized(torch.autograd.Function):  # type: ignore[misc]  # torch has no types here
    """Quantization and back, with straight-through gradients of x and of the scale, in few passes over x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, qtype: QType) -> Tensor:
        steps = x / scale
        if qtype.zero:
            q = torch.round(steps).add_(zero).clamp_(qtype.qmin, qtype.qmax).sub_(zero)
            inside = (q - steps).abs_() <= 0.5
        else:
            q = torch.where(steps < 0, -1.0, 1.0)
            inside = steps.abs() <= 2
        ctx.save_for_backward(q - steps * inside, inside)
        ctx.shape = scale.shape
        return q * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        slope, inside = ctx.saved_tensors
        of_x = gradient * inside if ctx.needs_input_grad[0] else None
        of_scale = (gradient * slope).sum_to_size(ctx.shape) if ctx.needs_input_grad[1] else None
        return of_x, of_scale, None, None


def quantized(x: Tensor, scale: Tensor, zero: Tensor, qtype: QType) -> Tensor:
    """Return x as its quantization restores it.

    Beyond the range only the scale has a gradient. A type without 0 rounds to the sign, and x has a gradient
    within two steps of 0.
    """
    result: Tensor = _Quantized.apply(x, scale, zero, qtype)
    return result


@dataclass(eq=False)
class Weight:
    """A weight that is trained.

    Args:
        site: of the plan.
        params: its scales and zero points there.
        latent: its float values, a parameter.
        factor: the logarithm of the change of each scale, a parameter.
        scale, zero: of the plan, to broadcast over the weight, or flat where `index` is given.
        index: the position of the scale of each value; None where scales broadcast.
    """

    site: Site
    params: QParams
    latent: Tensor
    factor: Tensor
    scale: Tensor
    zero: Tensor
    index: Tensor | None = None

    def steps(self) -> tuple[Tensor, Tensor]:
        """Return the scales and zero points, to broadcast over the weight."""
        scale = self.scale * torch.exp(self.factor.clamp(-_MOST, _MOST))
        return (scale, self.zero) if self.index is None else (scale[self.index], self.zero[self.index])

    def value(self) -> Tensor:
        """Return the weight after its quantization."""
        return quantized(self.latent, *self.steps(), self.site.spec.qtype)

    def resolved(self) -> Site:
        """Return the site with the integers and scales that were learned."""
        with torch.no_grad():
            scale, zero = self.steps()
            qtype = self.site.spec.qtype
            q = torch.round(quantized(self.latent, scale, zero, qtype) / scale + zero)
            steps = self.scale * torch.exp(self.factor.clamp(-_MOST, _MOST))
        params = self.params
        learned = QParams(_numpy(steps).reshape(params.scale.shape).astype(np.float32), params.zero_point)
        return replace(self.site, integers=_numpy(q).astype(qtype.dtype), qparams=learned)


class Quantizers:
    """The trained parts of a plan: its weights, the ranges of its activations, and the vectors of its model.

    Args:
        view: of the model that the plan's sites are in.
        plan: resolved.
        forward: runs that model.
    """

    def __init__(self, view: View, plan: Plan, forward: Forward) -> None:
        self.plan = plan
        self.weights: dict[tuple[str, Any], Weight] = {}
        self.factors: dict[str, Tensor] = {}
        self.vectors: dict[str, Tensor] = {}
        self._forward = forward
        self._sites: dict[tuple[str, int], Site] = {}
        self._params: dict[str, tuple[Tensor, Tensor]] = {}
        self._shared: dict[tuple[str, Any], Tensor] = {}
        outputs = {v.name for v in view.model.graph.outputs}
        self._outputs: dict[str, Site] = {}
        for site in plan.sites:
            if site.kind not in TRAINED and site.kind not in OBSERVED:
                continue
            uses = site.uses
            if uses is None:
                uses = tuple((u.node.name or "", u.idx) for u in view.values[site.value].uses())
                if site.value in outputs:
                    self._outputs[site.value] = site
            self._sites |= dict.fromkeys(uses, site)
            if site.kind is Kind.ACTIVATION and site.qparams is not None:
                self._params[site.value] = (
                    forward.tensor(site.qparams.scale),
                    forward.tensor(site.qparams.zero_point.astype(np.float32)),
                )
                if site.group not in self.factors:
                    self.factors[site.group] = torch.zeros((), device=forward.device, requires_grad=True)
            elif site.kind in TRAINED and (site.value, site.spec) not in self.weights:
                self.weights[site.value, site.spec] = _weight(view, site, forward)
        for name in _vectors(view):
            array = np.asarray(float_constant(view.values[name]))
            offsets = np.asarray(plan.corrections.get(name, np.zeros(array.size)), np.float32)
            self.vectors[name] = forward.tensor(array + offsets.reshape(array.shape)).requires_grad_()

    @property
    def parameters(self) -> dict[str, list[Tensor]]:
        """The tensors to train, by kind."""
        weights = self.weights.values()
        return {
            "weights": [w.latent for w in weights],
            "steps": [w.factor for w in weights],
            "ranges": list(self.factors.values()),
            "vectors": list(self.vectors.values()),
        }

    def parameters_of(self, node: ir.Node, index: int, name: str) -> set[int]:
        """Return the tensors to train that a node's input depends on, by identity."""
        site = self._sites.get((node.name or "", index))
        if site is None:
            return {id(self.vectors[name])} if name in self.vectors else set()
        if site.kind in TRAINED:
            weight = self.weights[site.value, site.spec]
            return {id(weight.latent), id(weight.factor)}
        return {id(self.factors[site.group])} if site.kind is Kind.ACTIVATION else set()

    def begin(self) -> None:
        """Forget the weights of the last run: they have changed."""
        self._shared.clear()

    def read(self, node: ir.Node, index: int, values: Values) -> Tensor | None:
        """Return the quantized input of a node; None where it is as the model has it."""
        value = node.inputs[index]
        site = self._sites.get((node.name or "", index))
        if value is None or site is None:
            return None if value is None else self.vectors.get(value.name or "")
        key = site.value, site.spec
        if site.kind in TRAINED:
            if key not in self._shared:
                self._shared[key] = self.weights[key].value()
            return self._shared[key]
        rounding = f"{site.value}\0{site.spec}"  # its consumers share the result
        if rounding not in values:
            values[rounding] = self._activation(site, self._forward.value(value, values))
        return values[rounding]

    def output(self, name: str, x: Tensor) -> Tensor:
        """Return an output of the model, as it is written."""
        return self._activation(self._outputs[name], x) if name in self._outputs else x

    def _activation(self, site: Site, x: Tensor) -> Tensor:
        qtype = site.spec.qtype
        if site.kind is Kind.ACTIVATION:
            scale, zero = self._params[site.value]
            return quantized(x, scale * torch.exp(self.factors[site.group].clamp(-_MOST, 0.0)), zero, qtype)
        if isinstance(site.spec.granularity, PerBlock):
            return x
        low, high = x.detach().min().clamp(max=0), x.detach().max().clamp(min=0)
        scale = ((high - low) / 255).clamp(min=1e-30)
        return (rounded(x / scale).clamp(-255, 255)) * scale

    def learned(self) -> Plan:
        """Return the plan with the integers, scales and corrections that were learned."""
        trained = {key: w for key, w in self.weights.items() if w.latent.requires_grad}
        sites = {key: weight.resolved() for key, weight in trained.items()}
        corrections = dict(self.plan.corrections)
        for name, vector in self.vectors.items():
            offsets = _numpy(vector) - _numpy(self._forward.constants[name])
            if offsets.any():
                corrections[name] = tuple(float(x) for x in offsets.reshape(-1))

        def one(site: Site) -> Site:
            new = sites.get((site.value, site.spec)) if site.kind in TRAINED else None
            return site if new is None else replace(site, integers=new.integers, qparams=new.qparams)

        return replace(self.plan, sites=tuple(map(one, self.plan.sites)), corrections=corrections)

    def bounds(self) -> dict[str, tuple[float, float]]:
        """Return the learned range of each activation."""
        bounds = {}
        for site in self.plan.sites:
            if site.kind is Kind.ACTIVATION and site.qparams is not None:
                with torch.no_grad():
                    factor = float(torch.exp(self.factors[site.group].clamp(-_MOST, 0.0)))
                scale, zero = float(site.qparams.scale) * factor, int(site.qparams.zero_point)
                bounds[site.value] = (
                    (site.spec.qtype.qmin - zero) * scale,
                    (site.spec.qtype.qmax - zero) * scale,
                )
        return bounds


def _weight(view: View, site: Site, forward: Forward) -> Weight:
    w = float_constant(view.values[site.value])
    if w is None:
        raise KeyError(f"'{site.value}' is no float constant")
    params, granularity = weight_params(site, w), site.spec.granularity
    q = integers_of(replace(site, qparams=params), w).astype(np.float32)
    free = not site.spec.qtype.pairs  # sums of pairs have a limit, which training does not know
    over = unfold(w, granularity)
    index = None
    scale, zero = (
        spread(a.astype(np.float32), granularity, w.ndim) for a in (params.scale, params.zero_point)
    )
    wide_scale, wide_zero = (
        fold(np.broadcast_to(a, over.shape), granularity, w.shape) for a in (scale, zero)
    )
    if over.shape != w.shape:  # blocks
        numbers = spread(np.arange(params.scale.size).reshape(params.scale.shape), granularity, w.ndim)
        index = forward.tensor(
            fold(np.broadcast_to(numbers, over.shape), granularity, w.shape).astype(np.int64)
        )
        scale, zero = params.scale.reshape(-1), params.zero_point.astype(np.float32).reshape(-1)
    centre = q - wide_zero
    latent = w
    if site.spec.qtype.zero:
        latent = np.clip(w, (centre - _INSIDE) * wide_scale, (centre + _INSIDE) * wide_scale)
    return Weight(
        site,
        params,
        forward.tensor(latent.astype(np.float32)).requires_grad_(free),
        torch.zeros(scale.shape, device=forward.device, requires_grad=free),
        forward.tensor(scale),
        forward.tensor(zero),
        index,
    )


def _vectors(view: View) -> list[str]:
    """Return the biases, and the scales of normalizations: vectors of the main graph that one node reads."""
    names = [bias.name for bias in find_biases(view)]
    for node in view.main_nodes:
        if node.op_type.endswith("Normalization") and len(node.inputs) > 1:
            value = node.inputs[1]
            if value is not None and float_constant(value) is not None and len(value.uses()) == 1:
                names.append(value.name or "")
    return list(dict.fromkeys(n for n in names if n in view.model.graph.initializers))


def _numpy(tensor: Tensor) -> NDArray[Any]:
    return np.asarray(tensor.detach().cpu().numpy())
