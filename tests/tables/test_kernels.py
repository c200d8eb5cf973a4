"""Every kernel can be timed, and the table that comes with qtool has all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

import qtool
from qtool.plan.cost_table import CostTable
from qtool.plan.kernel_costs import load_kernel_costs
from qtool.tables.forms import Form
from qtool.tables.kernels import EDGES, KERNELS, SAME_AS, Kernel, Kind, kind_of
from qtool.tables.ops import OPS

SHIPPED = sorted((Path(qtool.__file__).parent / "tables/costs").glob("*.json"))
ALL = pytest.mark.parametrize("kernel", KERNELS.values(), ids=list(KERNELS))


@ALL
def test_a_kernel_has_kinds_and_sizes(kernel: Kernel) -> None:
    assert 3 <= len(kernel.sizes) <= 6
    assert all(kernel.runs.values())
    assert kernel.op in OPS or kernel.row in EDGES
    assert kernel.row in EDGES or Kind.FLOAT in kernel.runs


def test_ops_that_are_timed_as_others_are_ops_and_no_rows() -> None:
    assert set(SAME_AS) <= set(OPS)
    assert not set(SAME_AS) & set(KERNELS)


def test_the_forms_of_a_kernel() -> None:
    assert kind_of(None) is Kind.FLOAT
    assert {kind_of(form, bits) for form in Form for bits in (4, 8)} - {None} == set(Kind) - {Kind.FLOAT}
    assert kind_of(Form.FLOAT16) is None


@pytest.fixture(scope="module")
def shipped() -> CostTable:
    return load_kernel_costs(None, "cpu").table


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.name)
def test_a_shipped_table_is_small(file: Path) -> None:
    assert file.stat().st_size < 60_000


@ALL
def test_the_shipped_table_has_a_point_of_each_size_in_each_kind(kernel: Kernel, shipped: CostTable) -> None:
    points = {row.kind: len(row.points) for row in shipped.rows if row.row == kernel.row}
    assert points == dict.fromkeys(kernel.runs, len(kernel.sizes))


def test_the_shipped_table_says_where_it_was_made(shipped: CostTable) -> None:
    assert shipped.machine.cpu
    assert shipped.machine.flags
    assert shipped.untimed == ()
