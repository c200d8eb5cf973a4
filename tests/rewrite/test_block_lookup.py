"""Tables in few bits: GatherBlockQuantized picks their rows, and shares them with a tied projection."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qtool.tables.forms import Form
from qtool.tables.targets import TARGETS, Target
from tests.graphs import weights
from tests.rewrite.flow import ran, run, sqnr, write
from tests.rewrite.test_shared import EAGER, ROWS, WIDTH, ids, tied

FEW = [("int4", 4), ("int2", 2)]


def packing() -> Target:
    return replace(TARGETS["cpu"], forms={**TARGETS["cpu"].forms, Form.NBITS: EAGER})


@pytest.mark.parametrize("head", ["transposed", "gemm", "copied"])
@pytest.mark.parametrize(("precision", "bits"), FEW)
def test_a_tied_projection_reads_the_same_blocks(precision: str, bits: int, head: str) -> None:
    proto, taken = tied(head), ids()
    sets = [f"{name}={precision}" for name in ("pick", "inner", "head")]
    done = write(proto, taken, packing(), mode="weight-only", bits=4, prefer="speed", sets=sets)
    assert {"GatherBlockQuantized", "MatMulNBits"} <= ran(done.data).keys()
    assert not ran(done.data).keys() & {"Gather", "Cast", "Mul"}
    largest = ROWS * WIDTH * bits // 8
    assert sum(t.ByteSize() >= largest for t in done.proto.graph.initializer) == 1, "the file has one table"
    floor = {4: 12.0, 2: 1.0}[bits]
    assert sqnr(run(proto, taken), run(done.data, taken)) > floor


@pytest.mark.parametrize(("precision", "bits"), FEW)
def test_a_table_alone_is_picked_from_in_blocks(precision: str, bits: int) -> None:
    other = weights(WIDTH, ROWS, seed=9)
    proto, taken = tied("copied", tied_to=other), ids()
    done = write(proto, taken, packing(), mode="weight-only", sets=[f"op:Gather={precision}"])
    assert "GatherBlockQuantized" in ran(done.data)
    assert sqnr(run(proto, taken), run(done.data, taken)) > {4: 15.0, 2: 3.0}[bits]


def test_a_table_that_a_stored_projection_reads_stays_in_its_form() -> None:
    """Packed for one and restored for the other, the file would hold it twice."""
    proto, taken = tied("transposed"), ids()
    done = write(
        proto, taken, packing(), mode="weight-only", bits=4, sets=["op:Gather=int4", "op:MatMul=int4"]
    )
    assert "GatherBlockQuantized" not in ran(done.data)


def test_rows_that_no_block_divides_stay_in_their_form() -> None:
    proto, taken = tied("copied", table=weights(ROWS, 100), tied_to=weights(100, ROWS, seed=9)), ids()
    done = write(proto, taken, packing(), mode="weight-only", sets=["op:Gather=int4"])
    assert "GatherBlockQuantized" not in ran(done.data)
    assert np.isfinite(sqnr(run(proto, taken), run(done.data, taken)))
