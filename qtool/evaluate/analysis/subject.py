"""The subject of an analysis: an FP32 model, and what a quantized one makes of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.edit import Namer, owner
from qtool.graph.view import View, is_op
from qtool.numerics.quantize import spread
from qtool.plan.model import OBSERVED, WEIGHTS, Plan, Site, Use
from qtool.plan.read_back.inputs import Stored
from qtool.plan.resolve import dequantized
from qtool.rewrite.simulate.simulated import simulated
from qtool.rewrite.write import correct_biases
from qtool.rewrite.writer import Writer, float_array, redirect
from qtool.tables.qtypes import PerBlock, PerRun
from qtool.tables.targets import TARGETS


@dataclass(frozen=True)
class Subject:
    """A quantized model in the names of its FP32 model.

    Args:
        model: FP32, prepared.
        plan: resolved; of a model that was read back, the weights have no scales in it.
        regions: the nodes of each region, in graph order.
        weights, biases: constant -> its floats after quantization, of a model that was read back.
        scales: tensor -> the name of its scale in the file.
        own_scales: gives some activations the scales that they have without the others; those of a file are
            kept.
    """

    model: ir.Model
    plan: Plan
    regions: tuple[tuple[str, ...], ...]
    weights: Mapping[str, Stored] = field(default_factory=dict)
    biases: Mapping[str, Stored] = field(default_factory=dict)
    scales: Mapping[str, str] = field(default_factory=dict)
    own_scales: Callable[[Plan], Plan] = lambda plan: plan

    @cached_property
    def view(self) -> View:
        """The index of the FP32 model."""
        return View(self.model)

    @cached_property
    def tensors(self) -> Mapping[str, tuple[Site, ...]]:
        """The sites that add noise, by what is quantized together: a shared scale, or a weight."""
        tensors: dict[str, tuple[Site, ...]] = {}
        for site in self.plan.sites:
            if site.kind in OBSERVED or site.kind in WEIGHTS:
                key = tensor_key(site)
                tensors[key] = (*tensors.get(key, ()), site)
        return tensors

    def uses(self, site: Site) -> tuple[Use, ...]:
        """Return the consumers that read a site quantized."""
        if site.uses is not None:
            return site.uses
        return tuple((use.node.name or "", use.idx) for use in self.view.values[site.value].uses())

    def producer(self, site: Site) -> str:
        """Return the quantized node that computes a value, itself or through a clamp; '' for none."""
        node = self.view.values[site.value].producer()
        members = {name for nodes in self.regions for name in nodes}
        while node is not None and node.name not in members and is_op(node, "Relu", "Clip"):
            source = node.inputs[0]
            node = source.producer() if source is not None else None
        return node.name or "" if node is not None and node.name in members else ""

    def restored(self, site: Site, array: NDArray[np.float32]) -> Stored:
        """Return a weight after quantization, with its scales.

        Args:
            site: of the weight.
            array: its floats, with zeros in the place of outlier columns.
        """
        stored = self.weights.get(site.value)
        if stored is not None:
            return stored
        granularity, steps = site.spec.granularity, None
        if site.qparams is not None and not isinstance(granularity, PerBlock | PerRun):
            steps = np.asarray(spread(site.qparams.scale, granularity, array.ndim), np.float32)
        return Stored(dequantized(site, array), steps, "", site.spec.qtype.name)

    def simulated(self) -> ir.Model:
        """Return a float model that computes what the quantized one does; integer kernels may round more."""
        clone = self.model.clone()
        correct_biases(clone, self.plan)
        if not self.weights and not self.biases:
            return simulated(clone, self.plan)
        view = View(clone)
        writer = Writer(view, Namer(clone), TARGETS[self.plan.target], {})
        for site in self.plan.sites:
            if site.kind in WEIGHTS:
                value = view.values[site.value]
                array = self._with_columns(site.value, float_array(value))
                new = writer.once(("restored", site.value), owner(value), f"{site.value}_restored", array)
                redirect(writer, site.uses, value, new)
        for name, stored in self.biases.items():
            view.values[name].const_value = ir.tensor(stored.array, name=name)
        activations = tuple(s for s in self.plan.sites if s.kind not in WEIGHTS)
        return simulated(clone, replace(self.plan, sites=activations))

    def _with_columns(self, name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a weight after quantization, with the rows of outlier columns, which float products read."""
        restored = self.weights[name].array
        for value, split in self.plan.outlier_columns.items():
            uses = (use for s in self.plan.sites if s.value == value for use in s.uses or ())
            weights = {self.view.node_by_name[node].inputs[1] for node, _ in uses}
            if any(w is not None and w.name == name for w in weights):
                restored = restored.copy()
                restored[list(split.columns)] = array[list(split.columns)]
        return restored


def tensor_key(site: Site) -> str:
    """Return the name that the sites of one scale share; for a weight its own name."""
    return (site.group or site.value) if site.kind in OBSERVED else f"weight {site.value}"
