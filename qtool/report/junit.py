"""The report as JUnit's XML: a test case a gate, for what lists test results in CI."""

from __future__ import annotations

from xml.etree import ElementTree

from qtool.errors import printable
from qtool.evaluate.gates import GateResult
from qtool.report.model import Report
from qtool.report.verdict import gate_text


def to_junit(report: Report) -> str:
    """A suite whose cases are the gates; what was measured beside them is in its properties."""
    counts = {"tests": str(len(report.gates)), "failures": str(len(report.failed)), "errors": "0"}
    root = ElementTree.Element("testsuites", {"name": "qtool", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": f"qtool {report.command}", **counts})
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(report).items():
        ElementTree.SubElement(properties, "property", {"name": name, "value": printable(value)})
    for gate in report.gates:
        names = {"classname": f"qtool.{report.command}", "name": printable(gate.gate.text)}
        case = ElementTree.SubElement(suite, "testcase", names)
        if gate.failed:
            failure = ElementTree.SubElement(
                case, "failure", {"type": _kind(gate), "message": printable(gate_text(report, gate))}
            )
            failure.text = _details(gate)
    if report.warnings:
        lines = [f"warning: {printable(warning)}" for warning in report.warnings]
        ElementTree.SubElement(suite, "system-out").text = "\n".join(lines)
    ElementTree.indent(root)
    # Not to_string's own declaration, which names the encoding of this machine.
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _kind(gate: GateResult) -> str:
    return "synthetic" if gate.synthetic else "inconclusive" if gate.inconclusive else "gate"


def _details(gate: GateResult) -> str:
    lines = [f"value: {gate.value:.6g}", f"fails: {gate.gate.op} {gate.gate.threshold:g}"]
    lines.append(f"samples: {gate.samples}")
    if gate.interval is not None:
        lines.append(f"95% interval: {gate.interval[0]:.6g} to {gate.interval[1]:.6g}")
    return "\n".join(lines)


def _properties(report: Report) -> dict[str, str]:
    """Return the main figures that were measured."""
    properties = {"qtool": report.version, "fp32": report.fp32.path}
    if report.quantized is not None:
        properties["quantized"] = report.quantized.path
    figures: dict[str, float | None] = {"size": report.size_ratio, "speedup": report.speedup}
    comparison = report.comparison
    if comparison is not None:
        properties |= {"data": comparison.data, "samples": str(comparison.samples)}
        figures["sqnr"] = comparison.sqnr
        if comparison.accuracy is not None:
            figures |= {"accuracy": comparison.accuracy.quantized, "accuracy_drop": comparison.accuracy.drop}
        figures |= {printable(name): value for name, value in comparison.user_metrics.items()}
    return properties | {name: f"{value:.6g}" for name, value in figures.items() if value is not None}
