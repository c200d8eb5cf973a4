"""Outlier columns: the columns with the widest ranges, and the range of the others."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qtool.data.iterables import InMemory
from qtool.graph.load import from_model
from qtool.graph.prepare import prepare
from qtool.recover.channel_statistics import ChannelStatistics, channel_statistics
from qtool.recover.outlier_columns import without_outliers
from tests import outliers


@given(
    arrays.arrays(
        np.float32, st.tuples(st.integers(1, 20), st.integers(2, 12)), elements=st.floats(-9, 9, width=32)
    ),
    st.data(),
)
def test_no_other_column_has_a_wider_range(rows: np.ndarray, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, rows.shape[1] - 1))
    mean, square = np.abs(rows).mean(axis=0), np.square(rows).mean(axis=0)
    actual = without_outliers(ChannelStatistics(rows.min(axis=0), rows.max(axis=0), mean, square), count)
    assert len(set(actual.columns)) == count
    left = np.delete(rows, actual.columns, axis=1)
    assert (actual.lo, actual.hi) == (left.min(), left.max())
    assert np.abs(left).max() <= np.abs(rows[:, actual.columns]).max(axis=0).min()


def test_statistics_are_those_of_all_samples() -> None:
    model = prepare(from_model(outliers.proto()).model).model
    samples = outliers.samples(5)
    actual = channel_statistics(model, {"h": -1, "x": -1}, InMemory(samples), 64, threads=1)
    assert actual.keys() == {"h", "x"}
    size = np.where(np.isin(np.arange(outliers.WIDTH), outliers.LOUD), 60, 1)
    h = np.concatenate([np.tanh(s["x"]).reshape(-1, outliers.WIDTH) * size for s in samples])
    np.testing.assert_allclose(actual["h"].lo, h.min(axis=0), rtol=1e-5)
    np.testing.assert_allclose(actual["h"].hi, h.max(axis=0), rtol=1e-5)
    np.testing.assert_allclose(actual["h"].mean, np.abs(h).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(actual["h"].square, np.square(h).mean(axis=0), rtol=1e-5)
    assert set(without_outliers(actual["h"], 2).columns) == set(outliers.LOUD)
