"""Which form each node takes: the value that the rules, the solver and repair produce."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from qtool.graph.view import View
from qtool.plan.constraints import Constraints
from qtool.plan.model import Scaled
from qtool.plan.scheme import Scheme
from qtool.tables.forms import Form
from qtool.tables.qtypes import QType
from qtool.tables.reasons import Reason


@dataclass(frozen=True)
class PlanInput:
    """What every plan of one run starts from.

    Args:
        view: of the prepared model.
        scheme: mode, target and types.
        constraints: what the user asked of nodes.
        model_sha256: of the source model; '' for one made in memory.
        scaled: constants of the prepared model that were scaled since, as the view has them.
    """

    view: View
    scheme: Scheme
    constraints: Constraints = field(default_factory=Constraints)
    model_sha256: str = ""
    scaled: Mapping[str, tuple[Scaled, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Assignment:
    """A form for each quantized node, and a reason for each node that is left in float.

    Args:
        forms: quantized node -> form, in graph order.
        reasons: node in float -> why; a node that no rule or measurement looked at has none.
        weight_types: node -> the type that its weights are stored in; others have the scheme's.
        float_ports: inputs and outputs of the model that stay float although integers were asked for.
    """

    forms: Mapping[str, Form]
    reasons: Mapping[str, Reason] = field(default_factory=dict)
    weight_types: Mapping[str, QType] = field(default_factory=dict)
    float_ports: frozenset[str] = frozenset()
