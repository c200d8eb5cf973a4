"""The reach of each column, and what is left without the furthest."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qtool.data.iterables import InMemory
from qtool.graph.load import from_model
from qtool.graph.prepare import prepare
from qtool.recover.channel_ranges import Reach, reaches
from tests import outliers


@given(
    arrays.arrays(
        np.float32, st.tuples(st.integers(1, 20), st.integers(2, 12)), elements=st.floats(-9, 9, width=32)
    ),
    st.data(),
)
def test_no_column_that_is_left_reaches_further_than_one_that_is_not(
    rows: np.ndarray, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, rows.shape[1] - 1))
    spared = Reach(rows.min(axis=0), rows.max(axis=0)).without(count)
    assert len(set(spared.columns)) == count
    left = np.delete(rows, spared.columns, axis=1)
    assert (spared.lo, spared.hi) == (left.min(), left.max())
    assert np.abs(left).max() <= np.abs(rows[:, spared.columns]).max(axis=0).min()


def test_it_is_that_of_all_samples() -> None:
    model = prepare(from_model(outliers.proto()).model).model
    samples = outliers.samples(5)
    found = reaches(model, ["h", "x"], InMemory(samples, len(samples)), threads=1)
    assert found.keys() == {"h", "x"}
    size = np.where(np.isin(np.arange(outliers.WIDTH), outliers.LOUD), 60, 1)
    h = np.concatenate([np.tanh(s["x"]).reshape(-1, outliers.WIDTH) * size for s in samples])
    np.testing.assert_allclose(found["h"].lo, h.min(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found["h"].hi, h.max(axis=0), rtol=1e-5)
    assert set(found["h"].without(2).columns) == set(outliers.LOUD)
