"""The table of quantized types is consistent."""

from __future__ import annotations

import numpy as np
import pytest

from qtool.tables.qtypes import FLOAT16, FLOAT32, QTYPES, UINT8, QType

INTEGERS = [t for t in QTYPES.values() if t not in (FLOAT16, FLOAT32)]


@pytest.mark.parametrize("name", QTYPES)
def test_a_type_is_found_under_its_own_name(name: str) -> None:
    assert QTYPES[name].name == name


@pytest.mark.parametrize("qtype", QTYPES.values(), ids=lambda t: t.name)
def test_numpy_knows_the_dtype(qtype: QType) -> None:
    assert np.dtype(qtype.dtype).name == qtype.dtype


@pytest.mark.parametrize("qtype", INTEGERS, ids=lambda t: t.name)
def test_the_range_fits_the_dtype_and_holds_zero(qtype: QType) -> None:
    info = np.iinfo(qtype.dtype)
    assert info.min <= qtype.qmin <= 0 < qtype.qmax <= info.max


@pytest.mark.parametrize("qtype", INTEGERS, ids=lambda t: t.name)
def test_bits_match_the_range(qtype: QType) -> None:
    assert qtype.bits <= np.iinfo(qtype.dtype).bits
    levels = qtype.qmax - qtype.qmin + 1
    assert levels <= 2**qtype.bits + 1  # -64..64 is 7 bits and one more value
    assert levels > 2 ** (qtype.bits - 1)


@pytest.mark.parametrize("qtype", [t for t in INTEGERS if t.qmin < 0 and t.bits > 4], ids=lambda t: t.name)
def test_a_signed_type_is_symmetric(qtype: QType) -> None:
    assert qtype.qmin == -qtype.qmax


@pytest.mark.parametrize("qtype", [t for t in INTEGERS if 4 < t.bits < 8], ids=lambda t: t.name)
def test_two_products_with_a_reduced_type_fit_in_sixteen_bits(qtype: QType) -> None:
    assert 2 * UINT8.qmax * qtype.qmax < 2**15
