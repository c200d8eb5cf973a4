"""Results as files, as GitHub's annotations, and rendered or judged again: through the installed program."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

from qtool.report.formats import FORMATS, rendered
from qtool.report.saved import read_report
from tests.cli.conftest import Workplace
from tests.cli.program import run, run_bytes
from tests.graphs import ROOT

SCHEMA = json.loads((ROOT / "docs" / "report.schema.json").read_text(encoding="utf-8"))
GATES = ["--fail-if", "sqnr<1", "--fail-if", "sqnr<200"]


def compare(
    place: Workplace, *more: object, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    words = ["compare", place.model, place.quantized, "--data", place.calib, *more]
    return run(*words, cwd=cwd, env={"GITHUB_STEP_SUMMARY": "", **(env or {})})


@pytest.fixture(scope="module")
def saved(place: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Runs as JSON: a verdict that held, and one that failed."""
    folder = tmp_path_factory.mktemp("saved")
    files = {"held": folder / "held.json", "failed": folder / "failed.json"}
    assert compare(place, "--fail-if", "sqnr<1", "--report", files["held"]).returncode == 0
    assert compare(place, *GATES, "--report", files["failed"]).returncode == 1
    return files


# Files.


def test_every_format_is_written_also_when_a_gate_failed(place: Workplace, tmp_path: Path) -> None:
    names = [f"run{row.suffix}" for row in FORMATS.values()]
    done = compare(place, *GATES, *(w for n in names for w in ("--report", n)), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("gate failed: sqnr<200")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names), "and nothing else is left"
    report = read_report(tmp_path / "run.json")
    for name, row in FORMATS.items():
        assert (tmp_path / f"run{row.suffix}").read_text(encoding="utf-8") == rendered(report, name)
    assert "1 of 2 gates failed" in (tmp_path / "run.md").read_text(encoding="utf-8")
    assert len(list(ElementTree.parse(tmp_path / "run.xml").iter("failure"))) == 1
    (row,) = csv.DictReader((tmp_path / "run.csv").read_text(encoding="utf-8").splitlines())
    assert report.comparison is not None
    assert row["output"] == report.comparison.outputs[0].name


def test_reports_of_both_commands_match_the_schema(
    place: Workplace, saved: Mapping[str, Path], tmp_path: Path
) -> None:
    done = run(
        "quantize", place.model, "-o", tmp_path / "q.onnx", "--calib", place.calib, "--report", tmp_path / "q.json",
        "--json", "--gate", "auto",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "q.json").read_text(encoding="utf-8") == done.stdout
    timed = compare(place, "--speed", "--json")
    dry = run("quantize", place.model, "--dry-run", "--json")
    for text in (done.stdout, timed.stdout, dry.stdout, saved["failed"].read_text(encoding="utf-8")):
        jsonschema.validate(json.loads(text), SCHEMA)
    assert json.loads(done.stdout)["written"] is True


def test_quantize_writes_its_report_where_it_writes_no_model(place: Workplace, tmp_path: Path) -> None:
    done = run(
        "quantize", place.model, "-o", tmp_path / "q.onnx", "--calib", place.calib, "--target", "generic",
        "--fail-if", "y:sqnr<200", "--report", tmp_path / "q.json",
    )  # fmt: skip
    assert done.returncode == 1
    assert [p.name for p in tmp_path.iterdir()] == ["q.json"]
    assert json.loads((tmp_path / "q.json").read_text(encoding="utf-8"))["written"] is False


def test_the_format_can_be_named(place: Workplace, tmp_path: Path) -> None:
    done = compare(place, "--report", tmp_path / "result.txt", "--report-format", "junit")
    assert done.returncode == 0, done.stderr
    assert ElementTree.parse(tmp_path / "result.txt").getroot().tag == "testsuites"


def test_a_file_that_exists_is_replaced_by_force_only(
    place: Workplace, saved: Mapping[str, Path], tmp_path: Path
) -> None:
    old = tmp_path / "run.md"
    old.write_text("old", encoding="utf-8")
    assert compare(place, "--report", old).returncode == 2
    assert run("report", saved["held"], "--report", old).returncode == 2
    assert old.read_text(encoding="utf-8") == "old"
    assert compare(place, "--report", old, "--force").returncode == 0
    assert old.read_text(encoding="utf-8").startswith("## ")


MISTAKES = {
    # name: (words, what the message says, what the hint says)
    "no suffix": (["--report", "run"], "names no format", "--report-format"),
    "unknown suffix": (["--report", "run.txt"], "names no format (there are: .html (html), .json (json)", "run.json"),
    "misspelt suffix": (["--report", "run.jsno"], "names no format", ".json"),
    "unknown format": (["--report", "r.md", "--report-format", "pdf"], "pdf", ""),
    "twice": (["--report", "r.md", "--report", "./r.md"], "another output", "another file"),
    "twice but for case": (["--report", "r.md", "--report", "R.md"], "another output", "another file"),
    "the FP32 model": (["--report", "{model}", "--report-format", "json", "--force"], "is the input", ""),
    "a sample": (["--report", "{calib}/000.npz", "--report-format", "csv", "--force"], "is the input", ""),
    "a folder": (["--report", "{calib}", "--report-format", "json"], "is a folder", ""),
    "the golden run": (["--report", "g.json", "--save-ref", "g.json"], "another output", ""),
    "a golden run over a sample": (["--save-ref", "{calib}/000.npz", "--force"], "is the input", ""),
    "stdout": (["--report", "-", "--report-format", "json"], "'-'", "name a file"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_2_usage_errors_precede_the_work(mistake: str, place: Workplace, tmp_path: Path) -> None:
    words, message, hint = MISTAKES[mistake]
    before = place.model.read_bytes()
    done = compare(place, *(w.format(**vars(place)) for w in words), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    first, *rest = done.stderr.splitlines()
    assert message in first
    assert hint in "".join(rest)
    assert list(tmp_path.iterdir()) == []
    assert place.model.read_bytes() == before


@pytest.mark.parametrize("file", ["q.onnx", "plan.json"])
def test_2_a_report_does_not_overwrite_the_model_or_plan(file: str, place: Workplace, tmp_path: Path) -> None:
    done = run(
        "quantize", place.model, "-o", "q.onnx", "--save-plan", "plan.json", "--calib", place.calib,
        "--report", file, "--report-format", "json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert "another output" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_5_a_missing_folder_is_refused_before_the_work(place: Workplace, tmp_path: Path) -> None:
    done = compare(place, "--report", tmp_path / "none" / "run.json")
    assert (done.returncode, done.stdout) == (5, "")


# GitHub.


def test_github_gets_a_line_a_failed_gate_and_the_summary(place: Workplace, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("# Before\n\n", encoding="utf-8")
    done = compare(place, *GATES, "--github", env={"GITHUB_STEP_SUMMARY": str(summary)})
    assert done.returncode == 1
    first, *table, mark, error = done.stdout.splitlines()
    assert first.removeprefix("::stop-commands::") == mark.strip(":")
    assert any("SQNR" in line for line in table)
    assert error.startswith("::error title=gate failed%3A sqnr<200::sqnr<200: sqnr is ")
    assert error.endswith("(9 samples)")
    assert done.stderr.splitlines()[-1].startswith("gate failed: sqnr<200")
    text = summary.read_text(encoding="utf-8")
    assert text.startswith("# Before\n\n## ❌ qtool compare: 1 of 2 gates failed")


def test_github_gets_warnings(place: Workplace, tmp_path: Path) -> None:
    done = run(
        "compare", place.model, place.quantized, "--data", "random:2", "--shape", "x=1,6,32", "--github", "-q"
    )
    (line,) = (x for x in done.stdout.splitlines() if x.startswith("::warning"))
    assert line == "::warning title=qtool compare::random:2 is random data: it says nothing of accuracy"


@pytest.mark.parametrize("command", ["compare", "report"])
def test_json_stays_one_document_beside_github(
    command: str, place: Workplace, saved: Mapping[str, Path]
) -> None:
    more = ("--json", "--github")
    done = compare(place, *GATES, *more) if command == "compare" else run("report", saved["failed"], *more)
    assert json.loads(done.stdout)["failed"] == ["sqnr<200"]
    assert done.stderr.startswith("::error title=")
    assert done.returncode == 1


def test_an_unwritable_summary_is_a_warning(place: Workplace, tmp_path: Path) -> None:
    for gates, code in ((["--fail-if", "sqnr<1"], 0), (GATES, 1)):
        done = compare(
            place, *gates, "--github", env={"GITHUB_STEP_SUMMARY": str(tmp_path / "none" / "s.md")}
        )
        assert done.returncode == code
        assert "warning: $GITHUB_STEP_SUMMARY can't be written" in done.stderr


def test_2_github_needs_a_free_stream(place: Workplace) -> None:
    done = run_bytes("quantize", place.model, "-o", "-", "--calib", place.calib, "--json", "--github")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"--report run.json" in done.stderr


# A saved run.


@pytest.mark.parametrize("form", ["table", *FORMATS])
@pytest.mark.parametrize("verdict", ["held", "failed"])
def test_a_saved_run_keeps_its_verdict(form: str, verdict: str, saved: Mapping[str, Path]) -> None:
    done = run("report", saved[verdict], "--format", form)
    assert done.returncode == (verdict == "failed")
    if form == "table":
        assert "SQNR dB" in done.stdout
    else:
        assert done.stdout == rendered(read_report(saved[verdict]), form)
    assert ("gate failed: sqnr<200" in done.stderr) == (verdict == "failed")


def test_a_saved_run_renders_as_it_was_printed(place: Workplace, tmp_path: Path) -> None:
    done = compare(place, "--report", tmp_path / "run.json")
    assert run("report", tmp_path / "run.json").stdout == done.stdout
    assert run("report", tmp_path / "run.json", "--json").stdout == (tmp_path / "run.json").read_text(encoding="utf-8")  # fmt: skip


def test_reports_to_files_print_nothing(saved: Mapping[str, Path], tmp_path: Path) -> None:
    done = run("report", saved["held"], "--report", tmp_path / "a.xml", "--report", tmp_path / "a.csv")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "a.xml"]
    done = run("report", saved["held"], "--report", tmp_path / "b.xml", "--format", "csv")
    assert done.stdout == (tmp_path / "a.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("verdict", "gate", "code"),
    [("failed", "sqnr<2", 0), ("held", "sqnr<199", 1), ("held", "accuracy<0.1", 1), ("held", "speedup<0.1", 1), ("failed", "size>9", 0)],
)  # fmt: skip
def test_a_saved_run_is_judged_by_other_gates(
    verdict: str, gate: str, code: int, saved: Mapping[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "gates.txt").write_text(f"{gate}  # of today\n", encoding="utf-8")
    for words in (["--fail-if", gate], ["--gates", tmp_path / "gates.txt"]):
        done = run("report", saved[verdict], *words, "--json")
        assert done.returncode == code, done.stderr
        assert [g["gate"]["text"] for g in json.loads(done.stdout)["gates"]] == [gate]
    if gate.startswith(("accuracy", "speedup")):
        assert "nothing to judge" in done.stderr


def test_random_data_satisfies_no_gate_of_a_saved_run(place: Workplace, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    words = ["compare", place.model, place.quantized, "--data", "random:2", "--shape", "x=1,6,32"]
    assert run(*words, "--report", path).returncode == 0
    done = run("report", path, "--fail-if", "sqnr<1")
    assert done.returncode == 1
    assert "random data satisfies no gate" in done.stderr


def test_2_a_damaged_run_is_named(saved: Mapping[str, Path], tmp_path: Path) -> None:
    text = saved["failed"].read_text(encoding="utf-8")
    for damaged in ("", text[:-20], text.replace("report/6", "report/1"), text.replace('"failed": true', '"failed": false')):  # fmt: skip
        (tmp_path / "run.json").write_text(damaged, encoding="utf-8")
        done = run("report", tmp_path / "run.json")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {tmp_path / 'run.json'}: ")
    done = run("report", tmp_path / "none.json")
    assert done.returncode == 2
    assert "none.json" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fail-if", "sqrn<1"], "sqrn"), (["--fail-if", "z:sqnr<1"], "'z'"), (["--format", "pdf"], "pdf"),
        (["--report", "run.txt"], "names no format"), (["--gates", "none.txt"], "none.txt"),
        (["--report", "{run}", "--force"], "is the input"),
    ],
)  # fmt: skip
def test_2_mistakes_about_a_saved_run(
    words: list[str], message: str, saved: Mapping[str, Path], tmp_path: Path
) -> None:
    before = saved["held"].read_bytes()
    done = run("report", saved["held"], *(w.format(run=saved["held"]) for w in words), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert saved["held"].read_bytes() == before


@pytest.mark.parametrize(("verdict", "code"), [("held", 0), ("failed", 1)])
def test_closed_pipes_do_not_change_the_verdict(verdict: str, code: int, saved: Mapping[str, Path]) -> None:
    read, write = os.pipe()
    os.close(read)
    for form in ("table", *FORMATS):
        done = run("report", saved[verdict], "--format", form, stdout=write)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
    os.close(write)


def test_options_of_other_commands_do_not_apply(saved: Mapping[str, Path], tmp_path: Path) -> None:
    """`format` in a file is quantize's."""
    (tmp_path / "qtool.toml").write_text('format = "qoperator"\njson = true\n', encoding="utf-8")
    done = run("report", saved["held"], "--format", "csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("model,data,samples,output,")
    (tmp_path / "qtool.toml").write_text('[report]\nformat = "csv"\n', encoding="utf-8")
    assert run("report", saved["held"], cwd=tmp_path).returncode == 2


def test_reports_can_be_configured_and_hold_the_whole_command(place: Workplace, tmp_path: Path) -> None:
    text = '[compare]\nreport = ["run.xml", "run.json"]\nspeed = true\n'
    (tmp_path / "qtool.toml").write_text(text, encoding="utf-8")
    assert compare(place, "--rtol", 0.5, cwd=tmp_path, env={"QTOOL_ATOL": "0.25"}).returncode == 0
    assert (tmp_path / "run.xml").exists()
    arguments = " ".join(read_report(tmp_path / "run.json").arguments)
    assert arguments.startswith(
        f"qtool compare {place.model} {place.quantized} --data {place.calib} --rtol 0.5"
    )
    for configured in ("run.xml --report", "run.json", "--speed", "--atol 0.25"):
        assert configured in arguments
