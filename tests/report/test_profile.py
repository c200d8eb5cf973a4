"""A cost table as a person sees it."""

from __future__ import annotations

import io
from dataclasses import fields

import pytest

from qtool.plan.cost_table import SCHEMA, CostTable, Machine, Timed, Untimed
from qtool.plan.kernel_costs import load_kernel_costs
from qtool.report.profile import render_profile
from qtool.report.terminal import TableConsole
from qtool.tables.kernels import KERNELS, Kind
from tests.test_docs import section


def shown(table: CostTable) -> str:
    file = io.StringIO()
    render_profile(table, TableConsole(file))
    return file.getvalue()


def test_every_row_is_there() -> None:
    lines = shown(load_kernel_costs(None, "cpu").table).splitlines()
    assert {line.split()[0] for line in lines if line.strip()} >= set(KERNELS)


def test_times_of_a_size_are_side_by_side_with_their_ratio() -> None:
    rows = (
        Timed("Add", Kind.FLOAT, "Add", ((1000, 8e-6), (5_000_000, 4e-3))),
        Timed("Add", Kind.INT8, "QLinearAdd", ((5_000_000, 1e-3),)),
    )
    lines = shown(CostTable("0", "1", Machine("Some CPU"), 4, 1e-6, rows)).splitlines()
    assert lines[0].split()[:6] == ["op", "work", "float", "us", "int8", "us"]
    assert lines[1].split() == ["Add", "1k", "8.00"]
    assert lines[2].split() == ["5M", "4.00e+03", "1.00e+03", "4.00x"]
    assert any("Some CPU, 4 threads" in line for line in lines)


@pytest.mark.parametrize("part", [CostTable, Machine, Timed, Untimed], ids=lambda p: p.__name__)
def test_every_key_of_the_file_is_described(part: type) -> None:
    described = section("targets.md", "The cost table")
    assert SCHEMA in described
    assert [f.name for f in fields(part) if f"`{f.name}`" not in described.replace("[]`", "`")] == []
    assert [kind.value for kind in Kind if f"`{kind.value}`" not in described] == []
