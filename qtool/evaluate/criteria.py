"""The acceptance criteria that candidates are chosen by, and the gates that options imply."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from qtool.errors import bytes_text
from qtool.evaluate.compare import PLAIN, Comparison, Measures
from qtool.evaluate.gates import Gate, Verdict, judge, parse
from qtool.evaluate.output_metrics import MAGNIFIED
from qtool.plan.prepared import PreparedModel
from qtool.tables.judging import AUTO, CLASSIFY, LEAST_AGREEMENT, MOST_ACCURACY_DROP, NONE, TASK, TASKS

# Gates of the user on one of these replace the default gate on the same decisions.
_DECISIONS = {
    "top1": "top1",
    "sequences": "sequences",
    "accuracy": "accuracy_drop",
    "accuracy_drop": "accuracy_drop",
    "agreement": "agreement",
}
# Stored weights gain no speed: they may change a quarter of the decisions that int8 may. The rest is room for
# what a prediction from a few samples misses.
_FLOAT_SHARE = 0.25


@dataclass(frozen=True)
class Criteria:
    """Acceptance criteria: limits on a candidate, and by them the rule for choosing one.

    Args:
        floor_db: the least SQNR in dB.
        user_floor: the user set the floor; then the fastest candidate that holds it is chosen.
        enforced: a candidate below the floor is not accepted.
        speedup: the least speed against the original model; then the most accurate candidate at least this
            fast is chosen. 0: none.
        size: the most bytes of the model; 0: any.
        keeps_task: a candidate that changes too many decisions of outputs scored by argmax is not accepted.
        gates: of the user on decisions.
        measures: which outputs are scored by argmax, and the labels.
    """

    floor_db: float
    user_floor: bool = False
    enforced: bool = True
    speedup: float = 0.0
    size: int = 0
    keeps_task: bool = False
    gates: tuple[Gate, ...] = ()
    measures: Measures = field(default=PLAIN, compare=False)

    def broken(self, comparison: Comparison, *, in_float: bool = False) -> list[Broken]:
        """Return the limits on decisions that a candidate does not keep.

        The share of decisions that change is predicted from errors that are magnified, where a single change
        may be chance. Accuracy, and gates of the user, must be sure to fail.

        Args:
            comparison: with FP32.
            in_float: it computes in float, and only stores weights as integers: it may change _FLOAT_SHARE of
                the decisions that int8 may change for its speed.
        """
        defaults = task_gates(comparison, self.gates) if self.keeps_task else []
        outputs = {o.name: o for o in comparison.outputs}
        broken = []
        rows = row_gates(comparison, self.gates) if self.keeps_task else []
        for gate in (*(replace(g, sure=True) for g in self.gates), *defaults, *rows):
            output = outputs.get(gate.output or "") if gate in defaults else None
            if output is not None and not output.exact:
                changed, allowed = output.magnified / MAGNIFIED / output.decisions, 1 - gate.threshold
                allowed *= _FLOAT_SHARE if in_float else 1.0
                if (output.magnified - 1) / MAGNIFIED / output.decisions > allowed:
                    where = "near" if in_float else "below"
                    text = f"{where} the gate {gate.text}: {1 - changed:.3g} predicted on the select set"
                    broken.append(Broken(text, changed / allowed))
                continue
            (result,) = judge([gate], Verdict(comparison))
            if result.failed and not math.isnan(result.value):
                changed, allowed = result.value, gate.threshold
                if gate.op in ("<", "<="):
                    changed, allowed = 1 - changed, 1 - allowed
                broken.append(Broken(result.why, changed / allowed if allowed > 0 else math.inf))
        return broken


@dataclass(frozen=True)
class Broken:
    """A limit on decisions that a candidate does not keep.

    Args:
        why: the limit, and what was measured.
        excess: how many times as many decisions change as the limit allows.
    """

    why: str
    excess: float


def criteria_of(model: PreparedModel, gates: Sequence[Gate], measures: Measures = PLAIN) -> Criteria:
    """Return the acceptance criteria of a run.

    Args:
        model: with the user's options.
        gates: of --fail-if; those on the SQNR of the model, its speed and decisions are criteria as well.
        measures: of the verdict; labels and scores count for the choice as well.
    """
    options = model.options
    own = [g.threshold for g in gates if g.metric == "sqnr" and g.output is None and g.op in ("<", "<=")]
    if options.min_sqnr is not None:
        own.append(options.min_sqnr)
    speeds = [g.threshold for g in gates if g.metric == "speedup" and g.op in ("<", "<=")]
    return Criteria(
        max(own, default=model.scheme.floor_db),
        user_floor=bool(own),
        enforced=bool(own) or options.gate not in (NONE, TASK),
        speedup=max([options.min_speedup, *speeds]),
        size=options.max_size,
        keeps_task=options.gate != NONE,
        gates=tuple(g for g in gates if g.metric in _DECISIONS),
        measures=replace(measures, user_metrics=()),
    )


def task_gates(comparison: Comparison, own: Sequence[Gate] = ()) -> list[Gate]:
    """Return the default gates on the decisions of the outputs that are scored by argmax.

    With labels, the accuracy of classes is judged in place of their agreement. A gate of the user on the same
    metric replaces a default one.

    Args:
        comparison: with the outputs' tasks.
        own: the user's gates.
    """
    accuracy, many = comparison.accuracy, len(comparison.outputs) > 1
    gates = [] if accuracy is None else [replace(parse(f"accuracy_drop>{MOST_ACCURACY_DROP}"), sure=True)]
    for output in comparison.outputs:
        if not output.task or not (output.rows if output.task == CLASSIFY else output.sequences):
            continue
        if accuracy is None or output.name != accuracy.output or output.task != CLASSIFY:
            row = TASKS[output.task]
            text = f"{row.metric}<{row.least}"
            name = f"{output.name}:{text}" if many else text
            gates.append(replace(parse(text), text=name, output=output.name, sure=True))
    replaced = {_DECISIONS[g.metric] for g in own if g.metric in _DECISIONS}
    return [gate for gate in gates if gate.metric not in replaced]


def row_gates(comparison: Comparison, own: Sequence[Gate] = ()) -> list[Gate]:
    """Return the default gate on the rows that both models have, where data decides their number."""
    if not any(o.matchable for o in comparison.outputs) or any(g.metric == "agreement" for g in own):
        return []
    return [replace(parse(f"agreement<{LEAST_AGREEMENT}"), sure=True)]


def implied_gates(
    model: PreparedModel, comparison: Comparison | None, made_up: bool, own: Sequence[Gate] = ()
) -> list[Gate]:
    """Return the gates that options stand for, that of the usual SQNR, and those on decisions.

    Unless `--gate auto` requires it, the usual SQNR is left out where there is nothing to judge by: no
    samples, random ones, or no float output.

    Args:
        model: with the user's options.
        comparison: on the judge set; None: there are no samples.
        made_up: the samples are random.
        own: the user's gates.
    """
    options = model.options
    texts = []
    judged = comparison is not None and not made_up and _has_sqnr(comparison)
    if options.min_sqnr is not None:
        texts.append(f"sqnr<{options.min_sqnr:g}")
    elif options.gate == AUTO or (options.gate not in (NONE, TASK) and judged and options.plan is None):
        texts.append(f"sqnr<{model.scheme.floor_db:g}")
    if options.require_quantized:
        texts.append("quantized<1")
    gates = [parse(text) for text in texts]
    if options.min_speedup:  # a budget keeps the user's words
        text = f"--min-speedup {options.min_speedup:g}"
        gates.append(replace(parse(f"speedup<{options.min_speedup:g}"), text=text))
    if options.max_size:
        text = f"--max-size {bytes_text(options.max_size)}"
        ratio = options.max_size / model.source.size
        gates.append(replace(parse("size>1"), text=text, threshold=ratio))
    if comparison is not None and not made_up and (options.gate == AUTO or options.plan is None):
        gates += [*task_gates(comparison, own), *row_gates(comparison, own)] if options.gate != NONE else []
    return gates


def _has_sqnr(comparison: Comparison) -> bool:
    """Whether an SQNR can be judged: an output has floats, or had rows of them that no other has."""
    return any(not o.exact and (o.count or o.lost or o.extra) for o in comparison.outputs)
